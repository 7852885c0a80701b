"""Captions are read back as facts, and judged against the record."""

import copy

import numpy as np
import pytest

from rscc_hf.data.captions import NO_CHANGE_SENTENCES
from rscc_hf.synthetic.caption_facts import StatedEvent, judge, parse_caption
from rscc_hf.synthetic.dataset import SceneOptions, generate_pair, plain_sentence
from rscc_hf.synthetic.places import PLACES
from rscc_hf.synthetic.wording import write_captions
from rscc_hf.synthetic.words import COUNT_WORDS, NOUNS, PLACE_WORDS


@pytest.fixture(scope="module")
def records():
    options = SceneOptions(size=64, changed_fraction=1.0)
    return [generate_pair(index, 31, options).record for index in range(90)]


def captions_of(record, n=4):
    """Many captions of one record: each seed gives five."""
    return [text for seed in range(n) for text, _ in write_captions(record, np.random.default_rng(seed))]


def test_every_caption_agrees_with_its_own_record(records):
    without_place = total = 0
    for record in records:
        for caption in captions_of(record):
            verdict = judge(caption, record)
            assert verdict["kind"], caption
            assert verdict["object"], caption
            assert verdict["count"] is not False, caption
            assert not verdict["invented"], caption
            without_place += not verdict["place"]
            if not verdict["place"]:
                assert all(event.place is None for event in parse_caption(caption).events), caption
            total += 1
    assert without_place / total < 0.15


def test_the_oracle_is_right_in_everything(records):
    for record in records:
        verdict = judge(plain_sentence(record), record)
        assert verdict.pop("invented") is False
        assert all(value is not False for value in verdict.values()), plain_sentence(record)


@pytest.mark.parametrize("key", ["object", "place", "count", "kind"])
def test_a_caption_of_another_truth_is_wrong(records, key):
    """The record is falsified in one respect: a caption of the false record is wrong in just that."""
    rng = np.random.default_rng(0)
    tried = 0
    for record in records:
        if len(record["events"]) > 1:
            continue
        event = record["events"][0]
        false = copy.deepcopy(record)
        lie = false["events"][0]
        if key == "object":
            if event["kind"] == "widen" or event["count"] is None:
                continue
            others = [name for name in ("house", "villa", "large building", "parking lot") if name != event["object"]]
            lie["object"] = others[int(rng.integers(len(others)))]
        elif key == "place":
            others = [place for place in PLACES if place != event["place"]]
            lie["place"] = others[int(rng.integers(len(others)))]
        elif key == "count":
            if event["object"] not in ("house", "villa", "large building"):
                continue
            lie["count"], lie["row"] = (7 if event["count"] < 4 else 1), False
        else:
            if event["kind"] not in ("appear", "disappear"):
                continue
            lie["kind"] = "disappear" if event["kind"] == "appear" else "appear"
        for caption in [plain_sentence(false), *captions_of(false, 1)]:
            verdict = judge(caption, record)
            assert verdict[key] is False, (caption, event)
            assert verdict["invented"] == (key in ("object", "kind")), caption
            tried += 1
    assert tried > 40


def test_a_lake_called_a_building_is_wrong():
    record = {"events": [{"kind": "disappear", "object": "lake", "replaced": None, "count": None, "place": "left"}]}
    right = judge("the lake on the left disappears", record)
    assert right == {"kind": True, "object": True, "place": True, "count": None, "invented": False}
    wrong = judge("the building on the left disappears", record)
    assert wrong == {"kind": True, "object": False, "place": True, "count": None, "invented": True}


HOUSES = {
    "events": [
        {"kind": "replace", "object": "house", "replaced": "forest", "count": 6, "place": "top left"},
        {"kind": "widen", "object": "road", "replaced": None, "count": 1, "place": "right"},
    ]
}


@pytest.mark.parametrize(
    ("caption", "kind", "object_", "place", "count", "invented"),
    [
        ("The trees in the top left corner are replaced by many houses.", True, True, True, True, False),
        ("the forest is removed and many houses are built on the upper left", True, True, True, True, False),
        ("many houses replace the field in the top left corner", True, False, True, True, True),
        ("many houses are built in the top left corner", False, False, True, True, True),
        ("the road on the right becomes wider", True, True, True, True, False),
        ("the road is widened", True, True, False, True, False),
        ("the forest on the left is replaced by two houses", True, True, False, False, False),
        ("the forest at the top left becomes many houses and a lake appears at the top", True, True, True, True, True),
        ("there is no difference", False, False, False, False, True),
        ("", False, False, False, False, False),
        ("gibberish of a model", False, False, False, False, False),
    ],
)  # fmt: skip
def test_verdicts(caption, kind, object_, place, count, invented):
    assert judge(caption, HOUSES) == {
        "kind": kind,
        "object": object_,
        "place": place,
        "count": count,
        "invented": invented,
    }


def test_one_true_event_said_twice_is_invented_once():
    once = {"events": [HOUSES["events"][1]]}
    assert not judge("the road on the right is widened", once)["invented"]
    assert judge("the road on the right is widened and the road on the left is widened", once)["invented"]


@pytest.mark.parametrize("sentence", NO_CHANGE_SENTENCES)
def test_unchanged_pairs(sentence):
    assert parse_caption(sentence).unchanged
    assert judge(sentence, {"events": []}) == {
        "kind": True,
        "object": True,
        "place": True,
        "count": True,
        "invented": False,
    }
    assert judge("a road appears at the top", {"events": []}) == {
        "kind": False,
        "object": False,
        "place": False,
        "count": False,
        "invented": True,
    }


def test_parsed_events():
    facts = parse_caption("Two new villas are built on the grass at the bottom, and the lake on the right expands.")
    assert facts.events == (
        StatedEvent("appear", "villa", None, "bottom", "two"),
        StatedEvent("widen", "lake", None, "right", None),
    )
    facts = parse_caption("a road appears at the top and a row of houses along the road on the left")
    assert facts.events == (
        StatedEvent("appear", "road", None, "top", "a"),
        StatedEvent("appear", "house", None, "left", "a row of"),
    )


def test_every_count_has_a_word_and_every_place_a_phrase():
    for count in range(1, 12):
        assert any(word.weight and word.low <= count <= word.high for word in COUNT_WORDS.values())
    for place in PLACES:
        for phrase, _ in PLACE_WORDS[place].phrases:
            assert parse_caption(f"a road appears {phrase}").events[0].place == place
    assert all(len(noun.singular) and len(noun.plural) for noun in NOUNS.values())


def test_a_record_without_events_is_refused():
    with pytest.raises(ValueError, match="no list `events`"):
        judge("a road appears", {})
