"""Read a caption of a synthetic pair, and judge it against the record of what happened.

Scores of words hide wrong content: "the lake on the left disappears" and "the building on the left disappears" differ
by one word. Here a caption is taken apart into the events that it states, and each is compared with the pair's record.
The words are those of `rscc_hf.synthetic.words`, which the captions are written with, and some common synonyms.
"""

import re
from dataclasses import dataclass
from typing import Any

from rscc_hf.data.captions import is_no_change, normalise
from rscc_hf.errors import InputError
from rscc_hf.synthetic.words import COUNT_WORDS, NOUNS, SETTINGS


@dataclass(frozen=True)
class StatedEvent:
    """One event as a caption states it; None is what it leaves open.

    Attributes:
        kind: appear, disappear, replace or widen.
        object: The object's name in records.
        replaced: What the object replaces.
        place: A place of `rscc_hf.synthetic.places.PLACES`.
        count: The count word ("two", "several", "a row of").
    """

    kind: str | None
    object: str | None
    replaced: str | None = None
    place: str | None = None
    count: str | None = None


@dataclass(frozen=True)
class Facts:
    """What a caption states: its events in order, or that nothing changed."""

    events: tuple[StatedEvent, ...]
    unchanged: bool = False


_NAMES: dict[str, str] = {
    **{word: name for name, noun in NOUNS.items() for word, _ in (*noun.singular, *noun.plural)},
    "building": "building",
    "buildings": "building",
    "tree": "forest",
    "forests": "forest",
    "wood": "forest",
    "crossroad": "road",
    "bare land": "bare land",
}
"""Words to object names. "building" alone is no object of the scenes: a house and a large building are told apart."""

_VERBS: tuple[tuple[str, str], ...] = (
    (
        "replace",
        r"replaced by|replace|replaces|become|becomes|turned into|in place of|takes? the place of|makes? way for",
    ),
    ("widen", r"widened|wider|larger|expands?|expanded"),
    (
        "disappear",
        r"removed|demolished|torn down|cut down|cleared|filled in|drained|disappears?|disappeared|gone|vanish(?:es)?"
        r"|no longer exists?",
    ),
    (
        "appear",
        r"built|constructed|erected|planted|formed|created|appears?|appeared|shows? up|added|can be seen"
        r"|there (?:is|are)",
    ),
)
_OLD_FIRST = re.compile(r"replaced by|\bbecomes?\b|turned into|makes? way for")
_WIDER = re.compile(r"\b(?:wider|larger)\b")
_OBJECT = re.compile(r"\b(" + "|".join(sorted(map(re.escape, _NAMES), key=len, reverse=True)) + r")\b")
_COUNT = re.compile(r"\b(" + "|".join(sorted(map(re.escape, COUNT_WORDS), key=len, reverse=True)) + r") (?:new )?$")
_SETTING = re.compile(SETTINGS)
_CLAUSES = re.compile(r"\s*(?:,|\band\b|\bwhile\b)\s*")


def _place(text: str) -> str | None:
    if re.search(r"\b(?:across|through) the scene\b", text):
        return "across"
    vertical = "top" if re.search(r"\b(?:top|upper)\b", text) else None
    if vertical is None and re.search(r"\b(?:bottom|lower)\b", text):
        vertical = "bottom"
    side = re.search(r"\b(left|right)\b", text)
    if vertical or side:
        return " ".join(part for part in (vertical, side.group(1) if side else None) if part)
    return "center" if re.search(r"\b(?:center|centre|middle)\b", text) else None


def _kind(text: str) -> str | None:
    if _WIDER.search(text):  # "becomes wider" replaces nothing
        return "widen"
    for kind, pattern in _VERBS:
        if re.search(rf"\b(?:{pattern})\b", text):
            return kind
    return None


def _clause(text: str) -> StatedEvent | None:
    kind, place = _kind(text), _place(text)
    bare = _SETTING.sub(" ", text)
    objects: list[tuple[str | None, str | None]] = []
    for match in _OBJECT.finditer(bare):
        counted = _COUNT.search(bare[: match.start()])
        objects.append((_NAMES[match.group(1)], counted.group(1) if counted else None))
    if kind is None and not objects:
        return None
    if kind == "replace":
        first, second = [*objects, (None, None), (None, None)][:2]
        new, old = (second, first) if _OLD_FIRST.search(bare) else (first, second)
        return StatedEvent(kind, new[0], old[0], place, new[1])
    name, count = objects[0] if objects else (None, None)
    return StatedEvent(kind, name, None, place, count)


def parse_caption(caption: str) -> Facts:
    """Take a caption apart into the events that it states.

    "The forest is removed and two villas are built on the left" states one event, a replacement: something goes,
    without a place of its own, and something comes.

    Args:
        caption: Any text; what is not understood is left open.
    """
    text = normalise(caption)
    if is_no_change(text):
        return Facts((), unchanged=True)
    events: list[StatedEvent] = []
    for part in _CLAUSES.split(text):
        event = _clause(part)
        if event is None:
            continue
        if event.kind is None:  # "a road appears at the top and two houses on the left"
            event = StatedEvent(events[-1].kind if events else None, event.object, None, event.place, event.count)
        last = events[-1] if events else None
        if event.kind == "appear" and last is not None and last.kind == "disappear" and last.place is None:
            events[-1] = StatedEvent("replace", event.object, last.object, event.place, event.count)
        else:
            events.append(event)
    return Facts(tuple(events))


def _matches(stated: StatedEvent, event: dict[str, Any]) -> dict[str, bool | None]:
    meaning = COUNT_WORDS.get(stated.count or "")
    count = event["count"]
    if count is None:
        right_count = None
    elif meaning is None:
        # "the road", "the lake": a definite singular stands for one.
        right_count = count == 1 and stated.count is None and event["kind"] in ("disappear", "widen")
    else:
        right_count = meaning.low <= count <= meaning.high
    same = stated.object == event["object"]
    if event["replaced"] is not None:
        same = same and stated.replaced == event["replaced"]
    return {
        "kind": stated.kind == event["kind"],
        "object": same,
        "place": stated.place == event["place"],
        "count": right_count,
    }


def judge(caption: str, record: dict[str, Any]) -> dict[str, bool | None]:
    """Judge what a caption states against the record of the pair.

    The stated event that agrees best with an event of the record is judged. What a caption leaves open is wrong.

    Args:
        caption: The caption.
        record: `{"events": [...]}` as `rscc_hf.synthetic.dataset.SyntheticPair` describes it.

    Returns:
        `kind`, `object` (for a replacement: both what comes and what goes), `place` and `count`: whether each is
        right; `count` is None where the event's object is not counted. `invented`: whether the caption states an event
        that the record has not (by kind and object), or "nothing changed" of a pair that changed. For an unchanged
        pair the four are True when the caption says that nothing changed, and False otherwise.

    Raises:
        ValueError: The record has no list of events.
    """
    if not isinstance(record, dict) or not isinstance(record.get("events"), list):
        raise InputError("The record has no list `events`; pass the record of a synthetic pair, parsed from its JSON.")
    facts, events = parse_caption(caption), record["events"]
    if not events:
        return {
            **dict.fromkeys(("kind", "object", "place", "count"), facts.unchanged),
            "invented": not facts.unchanged,
        }
    table = [[_matches(stated, event) for event in events] for stated in facts.events]
    best: dict[str, bool | None] = dict.fromkeys(("kind", "object", "place"), False)
    best["count"] = None if events[0]["count"] is None else False

    def agreement(answer: dict[str, bool | None]) -> tuple[int, int]:
        return 2 * (bool(answer["kind"]) + bool(answer["object"])) + bool(answer["place"]), bool(answer["count"])

    rank = (0, 0)
    for row in table:
        for answer in row:
            if agreement(answer) > rank:
                best, rank = answer, agreement(answer)
    # Two stated events need two of the record: "a house and a house" of one house invents one.
    free = list(range(len(events)))
    invented = facts.unchanged
    for row in table:
        found = next((i for i in free if row[i]["kind"] and row[i]["object"]), None)
        if found is None:
            invented = True
        else:
            free.remove(found)
    return {**best, "invented": invented}
