"""Tokenizers of captions: their ids, their normal form, and that they load without our code."""

import functools
import json
import sys
import unicodedata
from pathlib import Path

import pytest
import watched
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from rscc_hf.data.captions import normalise
from rscc_hf.data.schema import FEATURES
from rscc_hf.data.vocabulary import (
    END_OF_TEXT,
    SPECIALS,
    build_bpe_tokenizer,
    build_unigram_tokenizer,
    build_word_tokenizer,
    read_word_map,
    vocabulary_of,
    word_tokenizer_from_word_map,
    words_of,
    write_vocabulary,
)

GOLDEN = Path(__file__).resolve().parents[2] / "../shared/golden/mmodalcc"
CAPTIONS = [
    "Some houses are built on the left, and a road appears.",
    "the forest is replaced by villas; a lake appears at the top",
    "there is no difference",
    "A road is built along the lake?",
]
CHINESE = [
    "左侧的森林被房屋取代。",
    "右上角出现了一条道路",
    "场景与之前相同",
    "湖边新建了一些房屋",
    "道路两侧出现了许多房屋",
    "左侧出现了一条道路",
    "右侧的森林被道路取代",
    "湖边的森林消失了",
]


def test_specials_come_first_and_surround_a_caption():
    tokenizer = build_word_tokenizer(CAPTIONS)
    assert tokenizer.convert_tokens_to_ids(list(SPECIALS)) == [0, 1, 2, 3]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (
        0,
        1,
        2,
        3,
    )
    ids = tokenizer("A road appears at the zoo.")["input_ids"]
    assert ids[0] == 1 and ids[-1] == 2 and ids[-2] == 3
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a road appears at the"
    assert tokenizer.decode(ids) == "<start> a road appears at the <unk> <end>"


def test_commas_stay_words_and_stops_go():
    assert words_of("Houses,trees; a  road. Is it?") == ["houses", ",", "trees", ";", "a", "road", "is", "it"]


def test_order_of_the_words_depends_on_counts_and_letters_only():
    forward = build_word_tokenizer(CAPTIONS).get_vocab()
    assert forward == build_word_tokenizer(reversed(CAPTIONS)).get_vocab()
    assert forward["the"] == 4  # four times, the most frequent


def test_min_frequency_counts_occurrences():
    captions = ["road road house", "road house tree"]
    words = set(build_word_tokenizer(captions, min_frequency=2).get_vocab()) - set(SPECIALS)
    assert words == {"road", "house"}
    assert set(build_word_tokenizer(captions, min_frequency=3).get_vocab()) - set(SPECIALS) == {"road"}


@pytest.mark.parametrize(
    ("captions", "frequency", "message"),
    [
        ([], 1, "no captions"),
        (["a b"], 0, "at least 1"),
        (["a b"], 2, "lower min_frequency"),
        ("a b", 1, "one string"),
    ],
)
def test_nothing_to_build_from_is_said(captions, frequency, message):
    with pytest.raises(ValueError, match=message):
        build_word_tokenizer(captions, frequency)


WORDS = st.text("abcdefghijklmnopqrstuvwxyzäßéABCÄÉ.?-'0123456789", min_size=1, max_size=8)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.one_of(WORDS, st.sampled_from([",", ";", "a,b", "x;"])), min_size=1, max_size=12))
def test_decoding_gives_back_the_normalised_words(words):
    caption = "  ".join(words)
    if not words_of(caption):
        return
    tokenizer = build_word_tokenizer([caption])
    decoded = tokenizer.decode(tokenizer(caption)["input_ids"], skip_special_tokens=True)
    assert decoded == " ".join(words_of(caption))
    # and nothing but the place of spaces and the question marks tells it from the field's own normal form
    squeeze = str.maketrans("", "", " ?")
    assert decoded.translate(squeeze) == normalise(caption).translate(squeeze)


def test_released_word_map_keeps_its_ids():
    path = next(GOLDEN.glob("WORDMAP*.json"), None)
    if path is None:
        pytest.skip("the golden data are not here")
    word_map = read_word_map(path)
    tokenizer = word_tokenizer_from_word_map(word_map)
    assert tokenizer.get_vocab() == word_map and len(tokenizer) == len(word_map)
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 42, 43)
    ids = tokenizer("Many houses built on the left.")["input_ids"]
    assert ids == [42, 29, 10, 13, 17, 1, 18, 43]
    for beams in json.loads((path.parent / "beam_captions.json").read_text()).values():
        for caption in beams:
            text = tokenizer.decode(caption)
            assert tokenizer(text, add_special_tokens=False)["input_ids"] == caption


@pytest.mark.parametrize(
    ("word_map", "message"),
    [
        ({"<pad>": 0, "<start>": 1, "<end>": 2}, "<unk>"),
        ({"<pad>": 0, "<start>": 1, "<end>": 2, "<unk>": 2}, "each once"),
        ({"<pad>": 0, "<start>": 1, "<end>": 2, "<unk>": 4}, "each once"),
    ],
)
def test_a_broken_word_map_is_refused(word_map, message):
    with pytest.raises(ValueError, match=message):
        word_tokenizer_from_word_map(word_map)


def test_reading_a_word_map_names_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.json does not exist"):
        read_word_map(tmp_path / "gone.json")
    (tmp_path / "half.json").write_text('{"a": 1,')
    with pytest.raises(ValueError, match=r"half\.json cannot be read"):
        read_word_map(tmp_path / "half.json")
    (tmp_path / "list.json").write_text('{"a": "1"}')
    with pytest.raises(ValueError, match=r"list\.json is no word map"):
        read_word_map(tmp_path / "list.json")


def test_autotokenizer_loads_without_our_code(tmp_path):
    built = {"word": build_word_tokenizer(CAPTIONS), "unigram": build_unigram_tokenizer(CHINESE, 60)}
    texts = {"word": CAPTIONS[0], "unigram": CHINESE[0]}
    expected = {}
    for kind, tokenizer in built.items():
        tokenizer.save_pretrained(tmp_path / kind)
        ids = tokenizer(texts[kind])["input_ids"]
        expected[kind] = [ids, tokenizer.decode(ids, skip_special_tokens=True), len(tokenizer)]
        assert len(AutoTokenizer.from_pretrained(tmp_path / kind)) == len(tokenizer)
    code = (
        "import sys, json; sys.modules['rscc_hf'] = None; sys.modules['sentencepiece'] = None\n"
        "from transformers import AutoTokenizer\n"
        "out = {}\n"
        "for kind, text in json.loads(sys.argv[2]).items():\n"
        "    t = AutoTokenizer.from_pretrained(sys.argv[1] + '/' + kind); ids = t(text)['input_ids']\n"
        "    out[kind] = [ids, t.decode(ids, skip_special_tokens=True), len(t)]\n"
        "    assert (t.pad_token_id, t.bos_token_id, t.eos_token_id, t.unk_token_id) == (0, 1, 2, 3)\n"
        "print(json.dumps(out))"
    )
    command = [sys.executable, "-c", code, str(tmp_path), json.dumps(texts)]
    done = watched.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == expected


def test_unigram_of_a_language_without_spaces():
    tokenizer = build_unigram_tokenizer(CHINESE, 60)
    assert tokenizer.convert_tokens_to_ids(list(SPECIALS)) == [0, 1, 2, 3]
    assert len(tokenizer) <= 60
    for caption in CHINESE:
        ids = tokenizer(caption)["input_ids"]
        assert ids[0] == 1 and ids[-1] == 2 and 3 not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == caption
    # pieces longer than a character were learnt
    assert len(tokenizer(CHINESE[0])["input_ids"]) - 2 < len(CHINESE[0])
    assert tokenizer("犬")["input_ids"][-2] == tokenizer.unk_token_id
    assert tokenizer.get_vocab() == build_unigram_tokenizer(CHINESE, 60).get_vocab()


@settings(deadline=None, max_examples=15)
@given(st.lists(st.lists(st.sampled_from("a road House appears, Left of the lake. è 湖 边").filter(bool)), min_size=1))
def test_unigram_decodes_to_the_normal_form(characters):
    lines = [*CAPTIONS, *("".join(line) for line in characters), "湖边 è"]
    tokenizer = build_unigram_tokenizer(lines, 80)
    for line in lines:
        decoded = tokenizer.decode(tokenizer(line)["input_ids"], skip_special_tokens=True)
        assert decoded == normalise(line)


def test_unigram_says_what_is_wrong():
    with pytest.raises(ValueError, match="no captions"):
        build_unigram_tokenizer(["  ", "."], 50)
    with pytest.raises(ValueError, match="change vocab_size"):
        build_unigram_tokenizer(CHINESE, 10)


@given(st.text(max_size=40))
@settings(max_examples=50, deadline=None)
def test_the_bpe_writes_any_text_and_reads_it_back(text):
    tokenizer = bpe()
    normal = unicodedata.normalize("NFC", text)
    assert tokenizer.decode(tokenizer(normal)["input_ids"]) == normal


@functools.cache
def bpe():
    return build_bpe_tokenizer(CAPTIONS * 20, 400)


def test_the_bpe_joins_frequent_words_and_adds_nothing():
    tokenizer = bpe()
    assert tokenizer.tokenize("the houses, houses") == ["the", "Ġhouses", ",", "Ġhouses"]
    assert tokenizer.convert_tokens_to_ids(END_OF_TEXT) == 0
    assert len(tokenizer) <= 400
    with pytest.raises(ValueError, match="no texts"):
        build_bpe_tokenizer([], 400)
    with pytest.raises(ValueError, match="vocab_size is 256"):
        build_bpe_tokenizer(CAPTIONS, 256)


@pytest.fixture
def folder(tmp_path):
    for split, captions in {"train": ["a road", "a house"], "test": ["a lake", "a lake"]}.items():
        empty = {"image_before": None, "image_after": None, "semantic_before": None, "semantic_after": None}
        rows = [
            {
                **empty,
                "change_mask": None,
                "pair_id": f"{split}{n}",
                "captions": [text] * 5,
                "changed": True,
                "source": "t",
            }
            for n, text in enumerate(captions)
        ]
        (tmp_path / "data").mkdir(exist_ok=True)
        Dataset.from_list(rows, features=FEATURES).to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    return tmp_path


def test_only_the_training_split_counts_unless_all_are_asked_for(folder):
    assert "lake" not in vocabulary_of(folder).get_vocab()
    assert "lake" in vocabulary_of(folder, "all").get_vocab()
    assert "house" not in vocabulary_of(folder, "all", min_frequency=6).get_vocab()  # five times
    assert "lake" in vocabulary_of(folder, ["test"], min_frequency=10).get_vocab()
    assert vocabulary_of(folder, kind="unigram", vocab_size=30)("a road")["input_ids"][0] == 1
    with pytest.raises(ValueError, match="kind"):
        vocabulary_of(folder, kind="bpe")


def test_it_may_lie_in_the_folder_of_its_data_set(folder, caplog):
    before = vocabulary_of(folder, "all").get_vocab()
    write_vocabulary(folder, folder / "vocab", "all")
    assert AutoTokenizer.from_pretrained(folder / "vocab").get_vocab() == before
    assert vocabulary_of(folder, "all").get_vocab() == before and caplog.messages == []
    for out in (folder, folder.parent):
        with pytest.raises(ValueError, match="choose another output"):
            write_vocabulary(folder, out, overwrite=True)
