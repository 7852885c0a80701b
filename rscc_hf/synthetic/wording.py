"""Write captions in LEVIR-CC's manner from the record of a pair.

A few shapes are common and many are rare, as in captions by people; the words come from `words`.
"""

from typing import Any

import numpy as np

from rscc_hf.data.captions import NO_CHANGE_TEMPLATES
from rscc_hf.synthetic.words import COUNT_WORDS, NOUNS, PLACE_WORDS

Record = dict[str, Any]
Event = dict[str, Any]

# {N} the thing, {O} what it replaces, {P} where; {be}, {have}, {s}, {es} agree with {N}, {obe}, {ohave}, {os} with
# {O}.
SHAPES: dict[str, tuple[tuple[float, str], ...]] = {
    "appear": (
        (25, "{N} {be} {built} {P}"),
        (21, "{N} appear{s} {P}"),
        (9, "{N} {have} been {built} {P}"),
        (6, "{N} {have} appeared {P}"),
        (4, "{N} show{s} up {P}"),
        (4, "{P} {N} {be} {built}"),
        (3, "there {be} {N} {P} now"),
        (2.5, "{N} {be} added {P}"),
        (2, "{N} can be seen {P} now"),
        (2, "{P} {N} appear{s}"),
    ),
    "disappear": (
        (24, "{N} {P} {be} {removed}"),
        (21, "{N} {P} disappear{s}"),
        (9, "{N} {P} {have} been {removed}"),
        (6, "{N} {P} {have} disappeared"),
        (4, "{N} {be} {removed} {P}"),
        (3, "{N} {P} {be} gone"),
        (3, "{P} {N} {be} {removed}"),
        (2, "{N} {P} vanish{es}"),
        (2, "{N} {P} no longer exist{s}"),
    ),
    "replace": (
        (24, "{O} {P} {obe} replaced by {N}"),
        (18, "{N} replace{s} {O} {P}"),
        (11, "{O} {obe} {removed} and {N} {be} {built} {P}"),
        (8, "{O} {P} {ohave} been replaced by {N}"),
        (5, "{O} {P} {obe} turned into {N}"),
        (4, "{O} {P} become{os} {N}"),
        (4, "{N} {be} {built} in place of {O} {P}"),
        (3, "{P} {O} {obe} replaced by {N}"),
        (2, "{N} take{s} the place of {O} {P}"),
        (2, "{O} {P} make{os} way for {N}"),
    ),
    "widen road": (
        (28, "{N} {P} {be} widened"),
        (20, "{N} {P} become{s} wider"),
        (9, "{N} {P} {have} been widened"),
        (6, "{N} {P} {have} become wider"),
        (4, "{P} {N} {be} widened"),
        (3, "{N} {P} {be} wider now"),
        (2, "{P} {N} become{s} wider"),
        (2, "{N} {P} {be} made wider"),
    ),
    "widen lake": (
        (28, "{N} {P} become{s} larger"),
        (20, "{N} {P} expand{s}"),
        (9, "{N} {P} {have} become larger"),
        (6, "{N} {P} {have} expanded"),
        (4, "{P} {N} become{s} larger"),
        (3, "{N} {P} {be} larger now"),
        (2, "{P} {N} expand{s}"),
        (2, "{N} {P} grow{s} larger"),
    ),
}

# How two events are joined.
JOINTS: tuple[tuple[float, str], ...] = ((30, "{} and {}"), (6, "{} while {}"), (2, "{} , and {}"))

# How often a caption of several events tells two of them, and how often the place is left out.
TWO_EVENTS = 0.55
NO_PLACE = 0.09
SETTING = 0.35


def _choose(rng: np.random.Generator, options: "tuple[tuple[Any, float], ...]") -> Any:
    weights = np.array([weight for _, weight in options])
    return options[int(np.searchsorted(np.cumsum(weights), rng.random() * weights.sum(), side="right"))][0]


def _count_words(event: Event) -> tuple[tuple[str, float], ...]:
    count = event["count"]
    return tuple(
        (word, meaning.weight)
        for word, meaning in COUNT_WORDS.items()
        if meaning.weight and meaning.low <= count <= meaning.high and (word != "a row of" or event.get("row"))
    )


def _thing(event: Event, rng: np.random.Generator | None, definite: bool) -> tuple[str, bool]:
    """Return the noun phrase of the event's object and whether it is plural; without `rng` the commonest."""
    name, count = event["object"], event["count"]
    noun = NOUNS[name]
    if name == "forest":
        single = rng is not None and rng.random() < 0.35
        if single:
            return ("the " if definite else "a ") + noun.singular[0][0], False
        word = noun.plural[0][0] if rng is None else _choose(rng, noun.plural)
        return ("the " if definite else "many ") + word, True
    if count is None or (count == 1 and definite and name == "road"):
        word = noun.singular[0][0] if rng is None else _choose(rng, noun.singular)
        return ("the " if definite else "a ") + word, False
    options = _count_words(event)
    determiner = options[0][0] if rng is None else _choose(rng, options)
    if rng is None and event.get("row"):
        determiner = "a row of"
    words = noun.singular if count == 1 else noun.plural
    word = words[0][0] if rng is None else _choose(rng, words)
    new = not definite and determiner != "a row of" and rng is not None and rng.random() < 0.06
    return f"{determiner} {'new ' if new else ''}{word}", count != 1 and determiner != "a row of"


def _former(event: Event, rng: np.random.Generator | None) -> tuple[str, bool]:
    """Return "the forest", "the houses": what was replaced, and whether it is plural."""
    name = event["replaced"]
    noun = NOUNS[name]
    plural = name == "house" or (name == "forest" and rng is not None and rng.random() < 0.4)
    words = noun.plural if plural else noun.singular
    return "the " + (words[0][0] if rng is None else _choose(rng, words)), plural


def _clause(event: Event, shape: str, rng: np.random.Generator | None, place: bool) -> str:
    noun = NOUNS[event["object"]]
    definite = event["kind"] in ("disappear", "widen") and event["count"] in (None, 1)
    thing, plural = _thing(event, rng, definite)
    where = ""
    if place:
        phrases = PLACE_WORDS[event["place"]].phrases
        where = phrases[0][0] if rng is None else _choose(rng, phrases)
        if rng is not None and rng.random() < SETTING and not shape.startswith("{P}"):
            if event.get("along_road") and not event.get("new_road"):
                where = f"along the road {where}"
            elif event.get("ground") and event["kind"] == "appear":
                where = f"on the {event['ground']} {where}"
    if event.get("new_road") and event["object"] == "house" and (rng is None or rng.random() < 0.45):
        thing += " along a new road"
    words = {
        "N": thing,
        "P": where,
        "be": "are" if plural else "is",
        "have": "have" if plural else "has",
        "s": "" if plural else "s",
        "es": "" if plural else "es",
        "built": noun.built[0][0] if rng is None else _choose(rng, noun.built),
        "removed": noun.removed[0][0] if rng is None else _choose(rng, noun.removed),
        "O": "",
        "obe": "",
        "ohave": "",
        "os": "",
    }
    if event["replaced"]:
        former, several = _former(event, rng)
        removed = NOUNS[event["replaced"]].removed
        words |= {
            "O": former,
            "obe": "are" if several else "is",
            "ohave": "have" if several else "has",
            "os": "" if several else "s",
            "removed": removed[0][0] if rng is None else _choose(rng, removed),
        }
    return " ".join(shape.format(**words).split())


def _shapes(event: Event) -> tuple[tuple[float, str], ...]:
    return SHAPES[f"widen {event['object']}" if event["kind"] == "widen" else event["kind"]]


def _shape(event: Event, rng: np.random.Generator) -> str:
    return str(_choose(rng, tuple((shape, weight) for weight, shape in _shapes(event))))


def by_size(record: Record) -> list[Event]:
    """Return the record's events, the largest area first."""
    return sorted(record["events"], key=lambda event: -event["area"])


def write_captions(record: Record, rng: np.random.Generator, n: int = 5) -> list[tuple[str, str]]:
    """Write `n` different captions of a pair.

    Args:
        record: The record of the pair (see `rscc_hf.synthetic.dataset`).
        rng: Source of the choices.
        n: How many; an unchanged pair always has the five templates of LEVIR-CC.

    Returns:
        The captions, each with the name of its shape.
    """
    events = by_size(record)
    if not events:
        return [(sentence, "unchanged") for sentence in NO_CHANGE_TEMPLATES]
    captions: dict[str, str] = {}
    while len(captions) < n:
        main = events[0]
        shape = _shape(main, rng)
        if len(events) > 1 and rng.random() < TWO_EVENTS:
            other = events[1] if len(events) == 2 or rng.random() < 0.65 else events[2]
            second = _shape(other, rng)
            joint = str(_choose(rng, tuple((each, weight) for weight, each in JOINTS)))
            text = joint.format(_clause(main, shape, rng, True), _clause(other, second, rng, True))
            name = f"{joint} / {main['kind']}"
        else:
            text = _clause(main, shape, rng, bool(rng.random() >= NO_PLACE))
            name = shape
        captions.setdefault(" ".join(text.replace(" ,", ",").split()), name)
    return list(captions.items())


def plain_sentence(record: Record) -> str:
    """Say the record's largest event in one plain sentence shape for each kind: the oracle of the demo's table.

    An unchanged pair is "the scene is the same as before".
    """
    events = by_size(record)
    if not events:
        return NO_CHANGE_TEMPLATES[2]
    return _clause(events[0], _shapes(events[0])[0][1], None, True)
