"""Caption text: the sentences that say "nothing changed", how captions are normalised, and which ids are one.

Sources: LEVIR-CC (Liu et al. 2022, `LevirCCcaptions.json`: unchanged pairs always carry the same five sentences) and
SECOND-CC (arXiv 2501.10075, which writes two of them differently).
"""

import re
import unicodedata
from collections.abc import Iterable

# Scripts whose languages write no spaces between words (Unicode's Line_Break ID and SA): a segmented word has two to
# three letters in the first group, and four to six in the second.
_IDEOGRAPHS = re.compile("[\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_SOUTH_EAST_ASIAN = re.compile("[\u0e01-\u0eff\u1000-\u109f\u1780-\u17d3\u0f40-\u0fbc]")
_LONGEST_WORD = ((_IDEOGRAPHS, 4.0), (_SOUTH_EAST_ASIAN, 12.0))
# Signs without a width that say nothing of the word they stand in. (The zero width space is a space.)
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200e\u200f\u2060\ufeff"))

NO_CHANGE_TEMPLATES: tuple[str, ...] = (
    "there is no difference",
    "the two scenes seem identical",
    "the scene is the same as before",
    "no change has occurred",
    "almost nothing has changed",
)
"""LEVIR-CC's five captions of an unchanged pair, in its order."""

NO_CHANGE_SENTENCES: tuple[str, ...] = (
    *NO_CHANGE_TEMPLATES,
    "no change is occurred",
    "almost nothing is changed",
)
"""Every known sentence that says "nothing changed": LEVIR-CC's five, then SECOND-CC's two."""


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
    caption = normalise(text)
    return caption in NO_CHANGE_SENTENCES or caption in {normalise(sentence) for sentence in extra}


def has_words(text: str) -> bool:
    """Tell whether a caption has a letter or a digit, without which it is no reference that could be scored."""
    return any(character.isalnum() for character in text)


def pair_key(pair_id: object) -> str:
    """Return what the spellings of a pair's name share, by which every reader tells whether an id is given twice.

    That is its composed form (file names of a Mac are decomposed), with runs of white space folded to one space.
    """
    return " ".join(unicodedata.normalize("NFC", str(pair_id)).split())
