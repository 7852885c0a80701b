"""The words of synthetic captions: one table for the writer (`wording`) and for the reader (`caption_facts`)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Noun:
    """How an object is called.

    Attributes:
        singular, plural: Names with their weights, the commonest first. The two tuples have the same length.
        built: Participles of its coming, with weights.
        removed: Participles of its going, with weights.
    """

    singular: tuple[tuple[str, float], ...]
    plural: tuple[tuple[str, float], ...]
    built: tuple[tuple[str, float], ...]
    removed: tuple[tuple[str, float], ...]


_BUILT = (("built", 7.0), ("constructed", 2.5), ("erected", 0.5))
_DEMOLISHED = (("removed", 6.0), ("demolished", 3.0), ("torn down", 1.0))

NOUNS: dict[str, Noun] = {
    "house": Noun((("house", 1.0),), (("houses", 1.0),), _BUILT, _DEMOLISHED),
    "villa": Noun((("villa", 1.0),), (("villas", 1.0),), _BUILT, _DEMOLISHED),
    "large building": Noun(
        (("large building", 9.0), ("big building", 1.0)),
        (("large buildings", 9.0), ("big buildings", 1.0)),
        _BUILT,
        _DEMOLISHED,
    ),
    "parking lot": Noun((("parking lot", 1.0),), (("parking lots", 1.0),), _BUILT, _DEMOLISHED),
    "playground": Noun(
        (("playground", 9.0), ("sports field", 1.0)),
        (("playgrounds", 9.0), ("sports fields", 1.0)),
        _BUILT,
        _DEMOLISHED,
    ),
    "road": Noun((("road", 1.0),), (("roads", 1.0),), _BUILT, (("removed", 1.0),)),
    "forest": Noun(
        (("forest", 1.0),),
        (("trees", 8.0), ("woods", 1.0)),
        (("planted", 1.0),),
        (("removed", 6.0), ("cut down", 3.0), ("cleared", 1.0)),
    ),
    "lake": Noun(
        (("lake", 9.0), ("pond", 1.0)),
        (("lakes", 9.0), ("ponds", 1.0)),
        (("formed", 8.0), ("created", 2.0)),
        (("removed", 6.0), ("filled in", 3.0), ("drained", 1.0)),
    ),
    "field": Noun(
        (("field", 8.0), ("farmland", 2.0)),
        (("fields", 1.0),),
        (("created", 1.0),),
        (("removed", 6.0), ("cleared", 4.0)),
    ),
    "bare land": Noun((("bareland", 1.0),), (("barelands", 1.0),), (("created", 1.0),), (("cleared", 1.0),)),
}
"""Object name in records to its words. A forest's trees are not counted."""


@dataclass(frozen=True)
class CountWord:
    """A word for a number of things: right when `low <= count <= high`."""

    low: int
    high: int
    weight: float  # 0: understood, but not written


MANY = 10**6

COUNT_WORDS: dict[str, CountWord] = {
    "a": CountWord(1, 1, 1.0),
    "an": CountWord(1, 1, 0.0),
    "one": CountWord(1, 1, 0.0),
    "two": CountWord(2, 2, 1.0),
    "three": CountWord(3, 3, 1.0),
    "four": CountWord(4, 4, 0.0),
    "five": CountWord(5, 5, 0.0),
    "six": CountWord(6, 6, 0.0),
    "several": CountWord(4, 5, 3.0),
    "some": CountWord(4, 5, 1.0),
    "many": CountWord(6, MANY, 1.0),
    "a row of": CountWord(3, 7, 1.0),
}
"""Count words with what they mean; "a row of" is written for rows along a road only."""


@dataclass(frozen=True)
class PlaceWords:
    """How a place is said: phrases with weights, the commonest first."""

    phrases: tuple[tuple[str, float], ...]


def _corner(vertical: str, upper: str, side: str) -> PlaceWords:
    return PlaceWords(((f"in the {vertical} {side} corner", 7.0), (f"on the {upper} {side}", 3.0)))


PLACE_WORDS: dict[str, PlaceWords] = {
    "top left": _corner("top", "upper", "left"),
    "top": PlaceWords((("at the top", 7.0), ("at the top of the scene", 3.0))),
    "top right": _corner("top", "upper", "right"),
    "left": PlaceWords((("on the left", 7.0), ("on the left side", 3.0))),
    "center": PlaceWords((("in the center", 7.0), ("in the middle", 3.0))),
    "right": PlaceWords((("on the right", 7.0), ("on the right side", 3.0))),
    "bottom left": _corner("bottom", "lower", "left"),
    "bottom": PlaceWords((("at the bottom", 7.0), ("at the bottom of the scene", 3.0))),
    "bottom right": _corner("bottom", "lower", "right"),
    "across": PlaceWords((("across the scene", 7.0), ("through the scene", 3.0))),
}

GROUNDS: tuple[str, ...] = ("bareland", "grass")

# Words that come before "the road", "a new road", "the bareland" and make them a setting, not a thing that changed.
SETTINGS = (
    r"\b(?:along|beside|near|by|on|next to|around) (?:the |a |an |both sides of (?:the |a ))?(?:new )?"
    r"(?:roads?|bareland|grass|roadside)\b"
)
