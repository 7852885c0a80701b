"""`ChangeCaptioner.caption`: lazy, in order, and what every other door answers, for any size of batch."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from toys.ccexpert import save_tiny_ccexpert
from transformers import pipeline

from rscc_hf import Caption, ChangeCaptioner, Pair
from rscc_hf.data.captions import NO_CHANGE_SENTENCES
from rscc_hf.data.lists.sources import read_pairs
from rscc_hf.inference.run import caption_to_file

COUNT = 3
FEW = {"max_new_tokens": 4}


@pytest.fixture(scope="module")
def folders(tiny_checkpoints, tmp_path_factory) -> dict[str, Path]:
    return {**tiny_checkpoints, "ccexpert": save_tiny_ccexpert(tmp_path_factory.mktemp("ccexpert"))}


@pytest.fixture(scope="module")
def captioners(folders) -> dict[str, ChangeCaptioner]:
    return {name: ChangeCaptioner.from_pretrained(folder, device="cpu") for name, folder in folders.items()}


@pytest.fixture
def captioner(captioners) -> ChangeCaptioner:
    return captioners["optional"]


@pytest.fixture
def pairs(tmp_path, write_image) -> list[Pair]:
    images = [[write_image(tmp_path / f"{d}{n}.png", seed=10 * n + d) for d in range(4)] for n in range(COUNT)]
    return [
        Pair(f"p{n}", before, after, maps=tuple(maps) if n % 2 else None, references=["a house"])
        for n, (before, after, *maps) in enumerate(images)
    ]


def endless(pairs: list[Pair], drawn: list[Pair]) -> Iterator[Pair]:
    for pair in itertools.cycle(pairs):
        drawn.append(pair)
        yield pair


@pytest.mark.parametrize("name", ["optional", "none", "ccexpert"])
def test_all_doors_give_the_same_captions(captioners, folders, pairs, tmp_path, name) -> None:
    captioner = captioners[name]
    if name != "optional":
        pairs = [Pair(pair.id, pair.before, pair.after) for pair in pairs]
    expected = [next(captioner.caption([pair], **FEW)) for pair in pairs]
    texts = [caption.text for caption in expected]
    assert all(texts) and (len(set(texts)) > 1 or name == "none")
    images = [[pair.before for pair in pairs], [pair.after for pair in pairs]]
    if name == "optional":
        images += [[pair.maps and pair.maps[date] for pair in pairs] for date in (0, 1)]
    listed = tmp_path / "list.jsonl"
    columns = ("before", "after", "semantic_before", "semantic_after")
    rows = [
        {
            "pair_id": pair.id,
            **dict(zip(columns, map(str, (pair.before, pair.after, *(pair.maps or ()))), strict=False)),
        }
        for pair in pairs
    ]
    listed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = pipeline("change-captioning", model=captioner.model, processor=captioner.processor)
    for size in (1, 2):
        assert list(captioner.caption(iter(pairs), batch_size=size, **FEW)) == expected
        assert captioner(*images, batch_size=size, **FEW) == texts
        assert captioner(*images, batch_size=size, on_error="skip", **FEW) == expected
        assert [one["generated_text"] for (one,) in asked(pairs, batch_size=size, **FEW)] == texts
        assert [one["generated_text"] for (one,) in asked(rows, batch_size=size, **FEW)] == texts
        output = tmp_path / f"{size}.jsonl"
        caption_to_file(captioner, read_pairs(listed), output, batch_size=size, **FEW)
        written = [json.loads(line) for line in output.read_text().splitlines()]
        assert [(row["pair_id"], row["prediction"]) for row in written] == [
            (pair.id, text) for pair, text in zip(pairs, texts, strict=True)
        ]


def test_no_more_pairs_are_drawn_than_the_batch_at_hand_needs(captioner, pairs) -> None:
    drawn: list[Pair] = []
    captions = captioner.caption(endless(pairs, drawn), batch_size=3, **FEW)
    assert drawn == []
    expected = list(captioner.caption(pairs, **FEW))
    for number, caption in enumerate(itertools.islice(captions, 7)):
        assert caption == expected[number % COUNT]
        assert len(drawn) == 3 * (number // 3 + 1)


def test_what_is_wrong_with_the_call_is_raised_before_a_pair_is_drawn(captioner, pairs) -> None:
    drawn: list[Pair] = []
    for wrong, message in (
        *(({"batch_size": size}, f"batch_size is {size!r}; give a whole number") for size in (0, 2.5, "8", None)),
        *(({"allow_web": word}, f"allow_web is {word!r}; give True or False") for word in ("on", 1, None)),
        ({"on_error": "ignore"}, "on_error"),
        ({"value_range": (5, 1)}, "value_range"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"num_return_sequences": 2, "num_beams": 2}, r"model\.generate"),
    ):
        with pytest.raises(ValueError, match=message):
            captioner.caption(endless(pairs, drawn), **wrong)
    with pytest.raises(ValueError, match="is one pair"):
        captioner.caption(pairs[0])
    with pytest.raises(ValueError, match="pairs is a NoneType; give a list"):
        captioner.caption(None)
    assert drawn == []
    with pytest.raises(ValueError, match="a tuple among the pairs"):
        next(captioner.caption([("a.png", "b.png")], on_error="skip"))


def test_a_pair_that_cannot_be_used_is_an_error_or_a_caption_with_its_reason(captioner, pairs) -> None:
    first, second, *_ = pairs
    bad = [
        (Pair("gone", "gone.png", first.after), "gone.png does not exist"),
        (Pair("half", first.before, first.after, maps=(first.before, None)), "pair half: semantic_after is missing"),
        (Pair("asked", first.before, first.after, question="what?"), "pair asked has a text"),
    ]
    mixed = [first, *(pair for pair, _ in bad), second]
    expected = list(captioner.caption([first, second], **FEW))
    for size in (1, 2, 5):
        answers = list(captioner.caption(mixed, batch_size=size, on_error="skip", **FEW))
        assert [answers[0], answers[-1]] == expected
        for answer, (_, reason) in zip(answers[1:-1], bad, strict=True):
            assert answer == Caption(None, error=answer.error) and reason in answer.error
    for pair, reason in bad:
        with pytest.raises(ValueError, match=reason):
            list(captioner.caption([first, pair]))


def test_a_caption_says_whether_something_changed(captioner, pairs, monkeypatch) -> None:
    sentences = [NO_CHANGE_SENTENCES[0], "a house appears", f"{NO_CHANGE_SENTENCES[1].upper()} .", ""]
    monkeypatch.setattr(captioner.processor, "batch_decode", lambda *_, **__: sentences)
    assert [caption.changed for caption in captioner.caption([*pairs, pairs[0]])] == [False, True, False, True]
    assert Caption(None, error="gone").changed is None and Caption("x").caption == "x"


@pytest.mark.parametrize(
    ("name", "maps", "question"),
    [("none", "none", False), ("optional", "optional", False), ("required", "required", False),
     ("ccexpert", "none", True)],
)  # fmt: skip
def test_both_doors_take_the_same(captioners, pairs, name, maps, question) -> None:
    captioner = captioners[name]
    assert (captioner.semantic_maps, captioner.takes_questions) == (maps, question)
    asked = pipeline("change-captioning", model=captioner.model, processor=captioner.processor)
    without, with_maps = pairs[0], pairs[1]
    half = Pair("half", with_maps.before, with_maps.after, maps=(None, with_maps.maps[1]))
    own = with_maps.maps if maps == "required" else None
    words = Pair("words", with_maps.before, with_maps.after, maps=own, question="how many houses are there?")
    for pair, taken in (
        (without, maps != "required"), (with_maps, maps != "none"), (half, False), (words, question),
    ):  # fmt: skip
        if taken:
            (answer,) = asked(pair, **FEW)
            assert answer["generated_text"] == next(captioner.caption([pair], **FEW)).text
            continue
        with pytest.raises(ValueError) as by_pipeline:
            asked(pair, **FEW)
        with pytest.raises(ValueError) as by_captioner:
            next(captioner.caption([pair], **FEW))
        assert str(by_pipeline.value) == str(by_captioner.value) and f"pair {pair.id}" in str(by_captioner.value)
