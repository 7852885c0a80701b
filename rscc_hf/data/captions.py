"""Caption text: the sentences that say "nothing changed", and how captions are normalised.

Sources: LEVIR-CC (Liu et al. 2022, `LevirCCcaptions.json`: unchanged pairs always carry the same five sentences) and
SECOND-CC (arXiv 2501.10075, which writes two of them differently).
"""

from collections.abc import Iterable

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

    This is what the field's scores are computed on (protocol `words`).
    """
    return " ".join(text.lower().replace(".", "").split())


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
