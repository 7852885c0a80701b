"""Words of place under mirrors and quarter turns: what was left is right when the image is mirrored.

SECOND-CC's augmenter swaps left, right, top and bottom only, so that some of its captions contradict their image ("the
upper left" of a mirrored one). Here every word of place changes, compounds keep their order ("top left corner", never
"left top corner"), and words that only look like one stay: "nothing is left", "right next to", "on top of a building",
"right angle". Where a caption has words without a counterpart ("upper", "above", "left-hand" under a quarter turn), or
would not come back by the opposite move, there is no moved caption, and the pair must not be moved that way.
"""

import re
from enum import Enum
from functools import lru_cache


class Move(Enum):
    """What is done to an image."""

    MIRROR_HORIZONTAL = "mirror_horizontal"
    """Left and right change places."""
    MIRROR_VERTICAL = "mirror_vertical"
    """Top and bottom change places."""
    ROTATE_90 = "rotate_90"
    """A quarter turn counter-clockwise: the top goes to the left."""
    ROTATE_180 = "rotate_180"
    ROTATE_270 = "rotate_270"
    """A quarter turn clockwise: the top goes to the right."""


# Each cycle is in the order top, left, bottom, right: a counter-clockwise quarter turn makes each word the next one.
_SIDES = [
    ("top", "left", "bottom", "right"),
    ("topmost", "leftmost", "bottommost", "rightmost"),
    *[tuple(f"{side}{end}" for side in ("north", "west", "south", "east")) for end in ("", "ern", "ward", "wards")],
    *[tuple(f"{side}{end}" for side in ("north", "west", "south", "east")) for end in ("erly", "ernmost", "side")],
]
# Corners, in the order top left, bottom left, bottom right, top right; the writer's order of the two words is kept.
_CORNERS = [
    tuple(pattern.format(vertical, horizontal) for vertical, horizontal in corners)
    for high, low, left, right in (
        ("top", "bottom", "left", "right"),
        ("upper", "lower", "left", "right"),
        ("north", "south", "west", "east"),
    )
    for corners in [((high, left), (low, left), (low, right), (high, right))]
    for pattern in ("{0} {1}", "{0}-{1}", "{0}{1}", "{1} {0}", "{1}-{0}", "{1}{0}")
]
_CORNERS += [
    tuple(f"{corner}{end}" for corner in corners)
    for corners in (
        ("northwest", "southwest", "southeast", "northeast"),
        ("north-west", "south-west", "south-east", "north-east"),
    )
    for end in ("ern", "ward", "wards", "erly")
]
# Pairs that only mirrors and half turns can move.
_LEFT_RIGHT = [(f"left{end}", f"right{end}") for end in ("-hand", " hand", "hand", "ward", "wards", "side")]
_HIGH_LOW = [("upper", "lower"), ("uppermost", "lowermost"), ("above", "below")]
_DIRECTIONS = [("horizontal", "vertical"), ("horizontally", "vertically")]  # only quarter turns change these


def _table(move: Move) -> dict[str, str | None]:
    """Map every word of place to the word that it becomes, or to None where the move has no word for it."""
    table: dict[str, str | None] = {}
    steps = {Move.ROTATE_90: 1, Move.ROTATE_180: 2, Move.ROTATE_270: 3}.get(move, 0)
    for cycle in _SIDES:
        for place, word in enumerate(cycle):  # 0 top, 1 left, 2 bottom, 3 right
            swapped = {Move.MIRROR_HORIZONTAL: (-place) % 4, Move.MIRROR_VERTICAL: (2 - place) % 4}
            table[word] = cycle[swapped.get(move, (place + steps) % 4)]
    for cycle in _CORNERS:
        for place, word in enumerate(cycle):  # 0 top left, 1 bottom left, 2 bottom right, 3 top right
            swapped = {Move.MIRROR_HORIZONTAL: 3 - place, Move.MIRROR_VERTICAL: (1 - place) % 4}
            table[word] = cycle[swapped.get(move, (place + steps) % 4)]
    quarter = steps in (1, 3)
    for pairs, moves in (
        (_LEFT_RIGHT, (Move.MIRROR_HORIZONTAL, Move.ROTATE_180)),
        (_HIGH_LOW, (Move.MIRROR_VERTICAL, Move.ROTATE_180)),
    ):
        for one, other in pairs:
            table[one], table[other] = (other, one) if move in moves else (None, None) if quarter else (one, other)
    for one, other in _DIRECTIONS:
        table[one], table[other] = (other, one) if quarter else (one, other)
    return table


_TABLES = {move: _table(move) for move in Move}
_WORDS = sorted(_TABLES[Move.ROTATE_180], key=len, reverse=True)  # the longest first: "top left" before "top"
_PLACE = re.compile(r"\b(" + "|".join(word.replace(" ", r"\s+") for word in _WORDS) + r")\b", re.IGNORECASE)

# What makes "left" and "right" no place: "is left", "nothing left", "left behind"; "right next to", "right angle". The
# rules name both words alike, so that a moved caption is read as its origin was.
_BEFORE_A_PLACE = re.compile(
    r"\b(the|on|at|in|to|from|top|bottom|upper|lower|far|of|and|or|both|center|middle|central|extreme|its|their|this)"
    r"[\s,-]*$",
    re.IGNORECASE,
)
_AFTER_A_VERB = re.compile(
    r"\b(is|are|was|were|been|be|being|has|have|had|nothing|only|remain|remains|remained)\s+$", re.IGNORECASE
)
_PLACE_NOUN = re.compile(
    r"^[\s-]*(of|side|sides|part|parts|half|corner|corners|edge|edges|hand|end|ends|portion|section|area|areas|region"
    r"|regions|margin|border|boundary|third|quarter|and|or|of|bottom|top)\b",
    re.IGNORECASE,
)
_AFTER_NO_PLACE = re.compile(
    r"^[\s-]*(angle|angles|angled|next|beside|behind|beneath|along|through|after|before|here|there|now|away|over|out"
    r"|alone|empty|vacant|bare|unchanged|undeveloped|untouched|intact|standing|in\s+the\s+(middle|center|centre))\b",
    re.IGNORECASE,
)
# "at the top" but "on the left": a quarter turn changes the preposition with the word, except in "on the left side"
_AT_OR_ON = re.compile(r"\b(at|on)(\s+the\s+)$", re.IGNORECASE)
_SIDE_NOUN = re.compile(r"^[\s-]+(?!of\b)\w+", re.IGNORECASE)
_ON_TOP_OF = (
    re.compile(r"\bon\s+$", re.IGNORECASE),
    re.compile(
        r"^\s+of\s+(?!(the\s+|this\s+)?(scene|image|picture|photo|figure|view|frame|map|area|region)\b)", re.IGNORECASE
    ),
)
_ROOF = re.compile(r"\b(roof|hill|mountain|tree|table|flat|roofs|hills|mountains|trees)[\s-]+$", re.IGNORECASE)
_COMPARED = re.compile(r"^\s+(than|density|number)\b", re.IGNORECASE)


def move_words(caption: str, move: Move) -> str | None:
    """Return the caption of a moved image.

    Args:
        caption: A caption in English; case and punctuation are kept.
        move: What was done to the image.

    Returns:
        The caption with its words of place moved, or None where that cannot be said: a word has no counterpart, or
        moving on in the same way would not end at the caption it started from.
    """
    if not _PLACE.search(caption):
        return caption
    return _moved(caption, move)


@lru_cache(maxsize=65536)  # a data set has a few ten thousand different captions, asked for again in each epoch
def _moved(caption: str, move: Move) -> str | None:
    rounds = 4 if move in (Move.ROTATE_90, Move.ROTATE_270) else 2
    moved, first = caption, None
    for _ in range(rounds):
        step = _move_once(moved, move)
        if step is None:
            return None
        moved = step
        first = first or moved
    return first if moved == caption else None


def _move_once(caption: str, move: Move) -> str | None:
    table, quarter = _TABLES[move], move in (Move.ROTATE_90, Move.ROTATE_270)
    parts, end = [], 0
    for match in _PLACE.finditer(caption):
        before, after = caption[: match.start()], caption[match.end() :]
        word = match.group(0)
        spoken = " ".join(word.lower().split())
        if _is_no_place(spoken, before, after):
            continue
        moved = table[spoken]
        if moved is None:
            return None
        if moved != spoken:
            between = caption[end : match.start()]
            if quarter and spoken in _SIDES[0] and not _SIDE_NOUN.search(after):
                between = _AT_OR_ON.sub(_other_preposition, between)
            parts += [between, _in_case_of(word, moved)]
            end = match.end()
    return "".join([*parts, caption[end:]])


def _is_no_place(word: str, before: str, after: str) -> bool:
    if word in ("left", "right"):
        if re.match(r"^[\s-]*angle", after, re.IGNORECASE):
            return True
        if _BEFORE_A_PLACE.search(before) or _PLACE_NOUN.search(after):
            return False
        return bool(_AFTER_NO_PLACE.search(after) or _AFTER_A_VERB.search(before))
    if word in ("top", "bottom"):
        on_top_of = _ON_TOP_OF[0].search(before) and _ON_TOP_OF[1].search(after)
        return bool(on_top_of or _ROOF.search(before))
    if word in ("upper", "lower"):
        return bool(_COMPARED.search(after))
    return False


def _other_preposition(match: re.Match[str]) -> str:
    return _in_case_of(match.group(1), "on" if match.group(1).lower() == "at" else "at") + match.group(2)


def _in_case_of(model: str, word: str) -> str:
    """Give `word` the capitals and the white space of `model`, part by part where both are compounds."""
    models, parts = re.split(r"([\s-]+)", model), re.split(r"([\s-]+)", word)
    if len(models) == len(parts) > 1:
        return "".join(
            given if place % 2 else _in_case_of(given, part)
            for place, (given, part) in enumerate(zip(models, parts, strict=True))
        )
    if model.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if model[:1].isupper() else word
