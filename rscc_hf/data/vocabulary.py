"""Tokenizers of captions, built from a data set's words and saved as plain fast tokenizers.

`AutoTokenizer` loads what is built here with no code of ours. All have `<pad>` = 0, `<start>`, `<end>` and `<unk>`,
put `<start>` and `<end>` around a caption, lower-case it and drop its full stops; but the byte-level BPE, which is for
language models, has `<|endoftext|>` alone and changes nothing.

Word level follows RSICCformer's line of work and SECOND-CC's release (arXiv 2501.10075; github.com/ChangeCapsInRS/
SecondCC, no licence stated, nothing copied): "." and "?" are dropped, "," and ";" are words. The unigram is for
languages that write no spaces between words.
"""

import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from rscc_hf.data.loading import captions_of, load_pairs, split_names
from rscc_hf.errors import InputError
from rscc_hf.files import Written, new_folder, refuse_input_as_output
from rscc_hf.text import reason_of

PAD, START, END, UNKNOWN = "<pad>", "<start>", "<end>", "<unk>"
SPECIALS = (PAD, START, END, UNKNOWN)
"""The special tokens of a new vocabulary in the order of their ids 0..3."""

END_OF_TEXT = "<|endoftext|>"
"""The one special token of a new byte-level BPE."""

# What is never joined: a word with the space before it, digits one by one, signs, line breaks, other spaces.
_BPE_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _word_normalizer() -> normalizers.Normalizer:
    return normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase(), normalizers.Replace(Regex("[.?]"), "")])


def _word_splitter() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[,;]"), behavior="isolated")]
    )


def words_of(caption: str) -> list[str]:
    """Return the words of a caption as the word-level tokenizer sees them; joined by spaces, its normal form."""
    return [word for word, _ in _SPLITTER.pre_tokenize_str(_NORMALIZER.normalize_str(caption))]


_NORMALIZER, _SPLITTER = _word_normalizer(), _word_splitter()


def build_word_tokenizer(captions: Iterable[str], min_frequency: int = 1) -> PreTrainedTokenizerFast:
    """Build the word-level tokenizer of a set of captions.

    Args:
        captions: The captions to count, each as often as it occurs.
        min_frequency: A word must occur at least this often; rarer ones become `<unk>`. The release of MModalCC keeps
            words that occur more than 10 times: that is 11 here.

    Returns:
        A tokenizer with the specials first, then the words from the most frequent (equals alphabetically).

    Raises:
        ValueError: There are no words, or `min_frequency` is below 1 or leaves none.
    """
    if min_frequency < 1:
        raise InputError(f"min_frequency is {min_frequency}; give at least 1.")
    counts = Counter(word for caption in _strings(captions) for word in words_of(caption))
    if not counts:
        raise InputError("there are no captions to build a vocabulary from; name splits that have some.")
    kept = [word for word, count in counts.items() if count >= min_frequency and word not in SPECIALS]
    if not kept:
        most = max(counts.values())
        raise InputError(
            f"no word occurs {min_frequency} times or more (the most frequent: {most}); lower min_frequency."
        )
    kept.sort(key=lambda word: (-counts[word], word))
    return word_tokenizer_from_word_map({word: number for number, word in enumerate((*SPECIALS, *kept))})


def word_tokenizer_from_word_map(word_map: Mapping[str, int]) -> PreTrainedTokenizerFast:
    """Make the tokenizer of a word map, keeping every id: that of a release (`WORDMAP_*.json`) or a new one.

    Args:
        word_map: Word to id, with `<pad>`, `<start>`, `<end>` and `<unk>`; the ids are 0..n-1, each once.

    Raises:
        ValueError: A special token is missing, or the ids are not 0..n-1.
    """
    missing = [token for token in SPECIALS if token not in word_map]
    if missing:
        raise InputError(f"the word map lacks {', '.join(missing)}; give one with them.")
    if sorted(word_map.values()) != list(range(len(word_map))):
        raise InputError(f"the ids of the word map must be 0..{len(word_map) - 1}, each once; number its words so.")
    tokenizer = Tokenizer(models.WordLevel(dict(word_map), unk_token=UNKNOWN))
    tokenizer.normalizer = _word_normalizer()
    tokenizer.pre_tokenizer = _word_splitter()
    return _finish(tokenizer)


def read_word_map(path: str | Path) -> dict[str, int]:
    """Read a release's `WORDMAP_*.json`.

    Raises:
        ValueError: The file is missing, no JSON, or no map from words to ids.
    """
    try:
        word_map = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise InputError(f"{path} does not exist; give the word map of the checkpoint (WORDMAP_*.json).") from err
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as err:
        raise InputError(f"{path} cannot be read as JSON ({err}); write it again.") from err
    if not isinstance(word_map, dict) or not all(type(number) is int for number in word_map.values()):
        raise InputError(f"{path} is no word map; give a JSON object from words to integer ids.")
    return word_map


def _unigram_normalizer() -> normalizers.Normalizer:
    steps = [normalizers.NFC(), normalizers.Lowercase(), normalizers.Replace(".", "")]
    return normalizers.Sequence([*steps, normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()])


def build_unigram_tokenizer(captions: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a sentencepiece unigram on captions and turn it into a fast tokenizer.

    Args:
        captions: The captions to train on, in any language.
        vocab_size: Largest number of pieces, specials included; small texts may give fewer.

    Returns:
        A tokenizer that needs neither sentencepiece nor our code. The same captions give the same tokenizer.

    Raises:
        ValueError: There are no captions, or `vocab_size` cannot hold the characters that occur.
    """
    normalizer = _unigram_normalizer()
    lines = [line for line in (normalizer.normalize_str(caption) for caption in _strings(captions)) if line]
    if not lines:
        raise InputError("there are no captions to build a vocabulary from; name splits that have some.")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            # normalised above by the very object that the tokenizer will use
            normalization_rule_name="identity",
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=3,
            pad_piece=PAD,
            bos_piece=START,
            eos_piece=END,
            unk_piece=UNKNOWN,
            num_threads=1,  # more threads add up in another order
            minloglevel=2,
        )
    except (RuntimeError, OSError) as err:
        characters = len(set("".join(lines)))
        raise InputError(
            f"no unigram of {vocab_size} pieces can be trained on {len(lines)} captions with {characters} different "
            f"characters ({reason_of(err)}); change vocab_size."
        ) from err
    trained = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [(trained.id_to_piece(number), trained.get_score(number)) for number in range(trained.get_piece_size())]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=SPECIALS.index(UNKNOWN), byte_fallback=False))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return _finish(tokenizer)


def build_bpe_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE as GPT-2's and Qwen2's: any text can be written, nothing is lower-cased or dropped.

    Args:
        texts: The texts to train on.
        vocab_size: Largest number of entries, the 256 bytes and `<|endoftext|>` included; small texts give fewer.

    Returns:
        A tokenizer that adds nothing around a text; `<|endoftext|>` = 0 ends and pads. The same texts give the same
        tokenizer.

    Raises:
        ValueError: There are no texts, or `vocab_size` cannot hold all bytes.
    """
    lines = list(_strings(texts))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if not lines:
        raise InputError("there are no texts to build a vocabulary from; give some.")
    if vocab_size <= len(alphabet):
        raise InputError(f"vocab_size is {vocab_size}; give more than {len(alphabet)}, one for each byte and the end.")
    tokenizer = Tokenizer(models.BPE())
    # Qwen2's rules for letters, digits, signs and spaces
    split = pre_tokenizers.Split(Regex(_BPE_WORDS), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        lines,
        trainers.BpeTrainer(
            vocab_size=vocab_size, initial_alphabet=sorted(alphabet), special_tokens=[END_OF_TEXT], show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def vocabulary_of(
    path_or_id: str | Path,
    splits: str | Sequence[str] = "train",
    *,
    kind: str = "word",
    min_frequency: int = 1,
    vocab_size: int = 4000,
    revision: str | None = None,
) -> PreTrainedTokenizerFast:
    """Build the tokenizer of a data set.

    Args:
        path_or_id: Folder or Hub id of a data set in the schema.
        splits: The split, or splits, whose captions count. "all" counts every split, as the release of MModalCC does:
            its vocabulary has then seen the test captions.
        kind: "word" or "unigram".
        min_frequency: For "word": least number of occurrences of a word.
        vocab_size: For "unigram": largest number of pieces.
        revision: Branch, tag or commit of a Hub data set.

    Raises:
        ValueError: The data set or a split is not there, or no vocabulary can be made of it.
    """
    if kind not in ("word", "unigram"):
        raise InputError(f'kind is {kind!r}; give "word" or "unigram".')
    if splits == "all":
        names = split_names(path_or_id, revision=revision)
    else:
        names = [splits] if isinstance(splits, str) else list(splits)
    captions = [caption for name in names for caption in captions_of(load_pairs(path_or_id, name, revision=revision))]
    if kind == "word":
        return build_word_tokenizer(captions, min_frequency)
    return build_unigram_tokenizer(captions, vocab_size)


def _why_no_vocabulary(folder: Path) -> str | None:
    """Say why a folder is no tokenizer that was built here (see `files.Written`): its special tokens tell."""
    try:
        content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        added = [token["content"] for token in content["added_tokens"]]
    except (OSError, ValueError, KeyError, TypeError):
        return "is no tokenizer of `rscc data vocabulary`"
    return None if added == list(SPECIALS) else "is a tokenizer that `rscc data vocabulary` did not write"


VOCABULARY = Written(
    "tokenizer", _why_no_vocabulary, ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
)
"""What `write_vocabulary` writes."""


def write_vocabulary(
    path_or_id: str | Path,
    out: Path,
    splits: str | Sequence[str] = "train",
    *,
    overwrite: bool = False,
    **options: Any,
) -> PreTrainedTokenizerFast:
    """Build the tokenizer of a data set (see `vocabulary_of`) into a folder that `AutoTokenizer` loads.

    Args:
        path_or_id: Folder or Hub id of a data set in the schema.
        out: The folder to make; whole, or not there.
        splits: Whose captions count.
        overwrite: Whether a tokenizer that this function wrote is replaced; other folders never are.
        **options: For `vocabulary_of`.

    Raises:
        ValueError: As `vocabulary_of`; or `out` is not to be replaced, or is or holds the data set.
    """
    refuse_input_as_output(out, [path_or_id], inside=True)  # readers of the data set pass over such a folder
    with new_folder(out, overwrite=overwrite, kind=VOCABULARY) as folder:
        tokenizer = vocabulary_of(path_or_id, splits, **options)
        tokenizer.save_pretrained(folder)
    return tokenizer


def _strings(captions: Iterable[str]) -> Iterable[str]:
    if isinstance(captions, str):
        raise InputError("captions is one string; give a list of captions.")
    for caption in captions:
        if not isinstance(caption, str):
            raise InputError(f"captions holds a {type(caption).__name__}; give strings.")
        yield caption


def _finish(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    ids = {token: tokenizer.token_to_id(token) for token in SPECIALS}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, ids[START]), (END, ids[END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        unk_token=UNKNOWN,
        padding_side="right",
        clean_up_tokenization_spaces=False,  # "houses , trees" is what was said
        model_input_names=["input_ids", "attention_mask"],
    )
