"""How captions become the token strings that are scored.

The field knows two ways, and the same captions get different numbers under each, so every report names its own:

- `words` (CCExpert, the default): lower case, "." removed, split on spaces.
- `rsicc_ids` (RSICCformer, Chg2Cap, RSCaMa, Change-Agent): the same words, each replaced by its number in a
  vocabulary and written as a string. BLEU, ROUGE-L and CIDEr-D are blind to that, METEOR loses its stems, synonyms
  and paraphrases.

No PTB tokenizer: this field does not use one.
"""

from collections.abc import Callable, Sequence

from rscc_hf.data.captions import has_words, lacks_spaces, normalise
from rscc_hf.errors import InputError

PROTOCOLS = ("words", "rsicc_ids")

MAX_WORDS = 512
"""Longest caption that is scored. METEOR's aligner takes seconds for 600 repeated words and minutes for 2,000."""

MAX_CHARACTERS = 10_000
"""Longest caption in characters, so that one endless "word" is refused as well."""

FIRST_ID = 4
"""Number of the first word: 0 to 3 are pad, unknown, start and end in the vocabularies of that family."""


def check_protocol(protocol: str) -> None:
    """Raise `ValueError` unless `protocol` is one of `PROTOCOLS`."""
    if protocol not in PROTOCOLS:
        raise InputError(f"There is no protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}.")


def pair_label(index: int, pair_ids: Sequence[str] | None) -> str:
    """Return how an error message names the pair at `index` (counted from 0)."""
    return f"pair {pair_ids[index]!r}" if pair_ids is not None else f"pair number {index + 1}"


def _prepare(text: object, what: str) -> str:
    if not isinstance(text, str):
        raise InputError(f"The {what} is {type(text).__name__}, not a string; give one caption as text.")
    if len(text) > MAX_CHARACTERS:
        raise InputError(
            f"The {what} has {len(text):,} characters; at most {MAX_CHARACTERS:,} are scored, so shorten or remove it."
        )
    caption = normalise(text)
    words = caption.count(" ") + 1
    if words > MAX_WORDS:
        raise InputError(f"The {what} has {words:,} words; at most {MAX_WORDS} are scored, so shorten or remove it.")
    return caption


def prepare(
    predictions: Sequence[str], references: Sequence[Sequence[str]], pair_ids: Sequence[str] | None = None
) -> tuple[list[str], list[list[str]]]:
    """Normalise the captions of a set and refuse what cannot be scored.

    Args:
        predictions: One caption a pair. An empty one is allowed and matches nothing.
        references: At least one reference a pair; pairs may have different numbers of them.
        pair_ids: Names of the pairs, for the error messages.

    Returns:
        The predictions and the references in lower case, without "." and with single spaces.

    Raises:
        ValueError: The set is empty, the lengths differ, a pair has no reference, a reference has no letter or digit,
            or a caption is no string or longer than `MAX_WORDS` words or `MAX_CHARACTERS` characters.
    """
    if len(predictions) != len(references):
        raise InputError(
            f"There are {len(predictions):,} predictions but references for {len(references):,} pairs; "
            "give one prediction a pair."
        )
    if not predictions:
        raise InputError("There is nothing to score, the list of predictions is empty; give at least one.")
    if pair_ids is not None and len(pair_ids) != len(predictions):
        raise InputError(
            f"There are {len(pair_ids):,} pair ids for {len(predictions):,} predictions; give one a pair."
        )
    ready: list[str] = []
    ready_references: list[list[str]] = []
    for index, (prediction, captions) in enumerate(zip(predictions, references, strict=True)):
        label = pair_label(index, pair_ids)
        if isinstance(captions, str) or not isinstance(captions, Sequence):
            raise InputError(f"The references of {label} are no list of strings; give a list, even for one caption.")
        if not captions:
            raise InputError(f"There are no references for {label}; give at least one or remove the pair.")
        ready.append(_prepare(prediction, f"prediction of {label}"))
        prepared = [_prepare(caption, f"reference {k} of {label}") for k, caption in enumerate(captions, start=1)]
        for k, caption in enumerate(prepared, start=1):
            # An empty reference would count as a perfect match of an empty prediction in ROUGE-L.
            if not has_words(caption):
                raise InputError(f"Reference {k} of {label} has no letter or digit; remove it from the references.")
        ready_references.append(prepared)
    return ready, ready_references


def caption_notes(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[str]:
    """Return what to know of captions before their scores are believed.

    Args:
        predictions: n captions.
        references: n lists of captions.

    Returns:
        A sentence each: captions written without spaces, which are one word to every score, and empty predictions.
    """
    notes = []
    every = [*predictions, *(caption for captions in references for caption in captions)]
    unspaced = [caption for caption in every if lacks_spaces(caption)]
    if unspaced:
        notes.append(
            f"Written without spaces between words, as “{unspaced[0][:20]}”: {len(unspaced):,} of {len(every):,} "
            "captions, each of which counts as one word or a few; put spaces between their words (or signs) first."
        )
    empty = sum(not caption for caption in predictions)
    if empty:
        notes.append(f"Empty, so that they match nothing: {empty:,} of {len(predictions):,} predictions.")
    return notes


def words_to_ids(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, str]:
    """Give numbers to the words of a set: the references' words in alphabetical order, then those only predicted.

    The numbers depend on the set of words alone, not on the order of the pairs. Words that only a prediction has get
    numbers of their own, as in the vocabularies of the RSICCformer family, which cover more than the evaluated set.

    Args:
        predictions: Normalised predictions.
        references: Normalised references.

    Returns:
        Word to number, the number as a string, from `FIRST_ID` on.
    """
    known = {word for captions in references for caption in captions for word in caption.split()}
    new = {word for caption in predictions for word in caption.split()} - known
    return {word: str(number) for number, word in enumerate([*sorted(known), *sorted(new)], start=FIRST_ID)}


def encoder(predictions: Sequence[str], references: Sequence[Sequence[str]], protocol: str) -> Callable[[str], str]:
    """Return what turns a normalised caption of a set into what the scorers see; see `apply_protocol`.

    Raises:
        InputError: The protocol does not exist.
    """
    check_protocol(protocol)
    if protocol == "words":
        return str
    ids = words_to_ids(predictions, references)
    return lambda caption: " ".join(ids[word] for word in caption.split())


def apply_protocol(
    predictions: Sequence[str], references: Sequence[Sequence[str]], protocol: str
) -> tuple[list[str], list[list[str]]]:
    """Turn normalised captions into what the scorers see.

    Args:
        predictions: Normalised predictions.
        references: Normalised references.
        protocol: One of `PROTOCOLS`.

    Returns:
        Predictions and references: unchanged for `words`, numbers joined by spaces for `rsicc_ids`.

    Raises:
        ValueError: The protocol does not exist.
    """
    encode = encoder(predictions, references, protocol)
    return [encode(caption) for caption in predictions], [[encode(c) for c in captions] for captions in references]
