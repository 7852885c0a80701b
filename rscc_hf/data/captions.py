"""Caption text: what says "nothing changed" and what contradicts it, normalised captions, which ids are one.

Sources: LEVIR-CC (Liu et al. 2022, `LevirCCcaptions.json`: unchanged pairs always carry the same five sentences) and
SECOND-CC (arXiv 2501.10075, which writes two of them differently).
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from rscc_hf.data.catalog import KNOWN, LEVIR_NO_CHANGE
from rscc_hf.files import some
from rscc_hf.text import count

# Scripts whose languages write no spaces between words (Unicode's Line_Break ID and SA): a segmented word has two to
# three letters in the first group, and four to six in the second.
_IDEOGRAPHS = re.compile("[\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_SOUTH_EAST_ASIAN = re.compile("[\u0e01-\u0eff\u1000-\u109f\u1780-\u17d3\u0f40-\u0fbc]")
_LONGEST_WORD = ((_IDEOGRAPHS, 4.0), (_SOUTH_EAST_ASIAN, 12.0))
# Signs without a width that say nothing of the word they stand in. (The zero width space is a space.)
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200e\u200f\u2060\ufeff"))

NO_CHANGE_TEMPLATES: tuple[str, ...] = LEVIR_NO_CHANGE
"""LEVIR-CC's five captions of an unchanged pair, in its order."""

NO_CHANGE_SENTENCES: tuple[str, ...] = tuple(dict.fromkeys(text for data in KNOWN for text in data.no_change))
"""Every known sentence that says "nothing changed": LEVIR-CC's five, then those that SECOND-CC writes differently."""


def normalise(text: str) -> str:
    """Return `text` in lower case, without full stops, with runs of white space folded to one space.

    This is what the field's scores are computed on (protocol `words`). Letters are composed (Unicode's NFC), so that
    a word typed on a Mac equals the same word typed elsewhere; soft hyphens, marks of direction and byte-order marks
    are dropped, a zero width space (which parts words in Khmer and Thai) is a space. English text is left as the
    field leaves it.
    """
    if not text.isascii():
        text = text.translate(_INVISIBLE).replace("\u200b", " ")
        lower = unicodedata.normalize("NFC", text).lower().replace(".", "")  # before the second: it may part two signs
        text = unicodedata.normalize("NFC", lower)
    return " ".join(text.lower().replace(".", "").split())


def lacks_spaces(text: str) -> bool:
    """Tell whether a caption is written without spaces between its words, as Chinese, Japanese, Thai or Khmer are.

    Such a caption is one word, or a few, to every score. Text that was cut into words by spaces is not meant.

    Args:
        text: A caption, normalised or not.

    Returns:
        True when what stands between spaces holds more letters of such scripts than a word has, on average.
    """
    if text.isascii():
        return False
    for script, longest in _LONGEST_WORD:
        counts = [len(script.findall(word)) for word in text.replace("\u200b", " ").split()]
        counts = [count for count in counts if count]
        if counts and sum(counts) / len(counts) > longest:
            return True
    return False


def is_no_change(text: str, extra: Iterable[str] = ()) -> bool:
    """Tell whether a caption says that nothing changed.

    Args:
        text: A caption, normalised or not.
        extra: More sentences that mean "no change", for example those that a data set's card names.

    Returns:
        True when the normalised caption is one of `NO_CHANGE_SENTENCES` or of `extra`.
    """
    return normalise(text) in no_change_sentences(extra)


def no_change_sentences(extra: Iterable[str] = ()) -> frozenset[str]:
    """Return `NO_CHANGE_SENTENCES` and those of `extra`, normalised."""
    return frozenset(NO_CHANGE_SENTENCES).union(map(normalise, extra))


def infer_changed(references: Iterable[str], says_no_change: Callable[[str], bool] = is_no_change) -> bool:
    """Tell whether a pair is changed from its references: unchanged when all of them say that nothing changed."""
    return not all(map(says_no_change, references))


def contradictions(
    said: Iterable[tuple[str, Sequence[str] | None, bool | None]],
    says_no_change: Callable[[str], bool] = is_no_change,
) -> list[str]:
    """Find pairs whose references say something else than their `changed`.

    Args:
        said: Name, references and `changed` of every pair; pairs that lack one of the latter two are left out.
        says_no_change: Tells whether a reference says that nothing changed.

    Returns:
        At most two sentences: of pairs marked as changed, and of pairs marked as unchanged.
    """
    silent, speaking, total = [], [], 0
    for name, references, changed in said:
        total += 1
        if changed is None or not references:
            continue
        if changed and not infer_changed(references, says_no_change):
            silent.append(name)
        elif not changed and not any(map(says_no_change, references)):
            speaking.append(name)
    found = []
    if silent:
        found.append(
            f"Marked as changed although all references say that nothing changed: {len(silent):,} of "
            f"{count(total, 'pair')} ({some(silent)}); the mark counts, so correct it or the references."
        )
    if speaking:
        found.append(
            f"Marked as unchanged although no reference is a known sentence for that: {len(speaking):,} of "
            f"{count(total, 'pair')} ({some(speaking)}); the mark counts, so correct it, or name the sentence as a "
            "no-change one."
        )
    return found


def has_words(text: str) -> bool:
    """Tell whether a caption has a letter or a digit, without which it is no reference that could be scored."""
    return any(character.isalnum() for character in text)


def pair_key(pair_id: object) -> str:
    """Return what the spellings of a pair's name share, by which every reader tells whether an id is given twice.

    That is its composed form (file names of a Mac are decomposed), with runs of white space folded to one space.
    """
    return " ".join(unicodedata.normalize("NFC", str(pair_id)).split())
