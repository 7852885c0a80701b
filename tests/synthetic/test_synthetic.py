"""Synthetic pairs: truth of masks, maps and records; nuisances; determinism."""

from collections import Counter, deque
from dataclasses import replace

import numpy as np
import pytest

from rscc_hf.data.captions import NO_CHANGE_TEMPLATES
from rscc_hf.data.palette import CLASS_NAMES, colours_to_classes, restrict_to_changes
from rscc_hf.synthetic.dataset import Nuisances, SceneOptions, generate_pair, plain_sentence
from rscc_hf.synthetic.events import make_layout
from rscc_hf.synthetic.pair import describe, draw_pair
from rscc_hf.synthetic.places import PLACES, describe_mask
from rscc_hf.synthetic.style import NUISANCES, make_styles
from rscc_hf.synthetic.wording import write_captions

STILL = SceneOptions(nuisances=Nuisances.off())
SMALL = SceneOptions(size=64)


def components(mask: np.ndarray, least: int = 60) -> int:
    """Count the connected parts (4 neighbours) of at least `least` pixels."""
    todo, parts = set(map(tuple, np.argwhere(mask).tolist())), 0
    while todo:
        queue, size = deque([todo.pop()]), 0
        while queue:
            y, x = queue.popleft()
            size += 1
            for other in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if other in todo:
                    todo.remove(other)
                    queue.append(other)
        parts += size >= least
    return parts


def same(a, b) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("image_before", "image_after", "semantic_before", "semantic_after", "change_mask")
    ) and (a.captions, a.record, a.pair_id) == (b.captions, b.record, b.pair_id)


def test_a_pair_depends_on_its_index_and_seed_alone():
    first = generate_pair(5, 3, SMALL)
    generate_pair(6, 3, SMALL)
    assert same(first, generate_pair(5, 3, SMALL))
    assert not same(first, generate_pair(5, 4, SMALL))
    assert not same(first, generate_pair(7, 3, SMALL))


@pytest.mark.parametrize("index", range(8))
def test_shapes_values_and_captions(index):
    pair = generate_pair(index, 1)
    for array in (pair.image_before, pair.image_after, pair.semantic_before, pair.semantic_after):
        assert array.shape == (256, 256, 3)
        assert array.dtype == np.uint8
    assert pair.change_mask.shape == (256, 256)
    assert set(np.unique(pair.change_mask)) <= {0, 255}
    assert pair.changed == bool(pair.change_mask.any()) == bool(pair.record["events"])
    assert len(set(pair.captions)) == 5
    assert all(caption == " ".join(caption.lower().split()) and "." not in caption for caption in pair.captions)
    if not pair.changed:
        assert tuple(pair.captions) == NO_CHANGE_TEMPLATES
    for colours in (pair.semantic_before, pair.semantic_after):
        assert colours_to_classes(colours).min() > 0  # the whole scene is labelled


def test_half_of_the_pairs_change_and_any_other_share_is_met():
    assert [generate_pair(i, 0, SMALL).changed for i in range(4)] == [False, True] * 2
    for fraction, expected in ((0.0, 0), (0.1, 1), (0.3, 3)):
        options = replace(SMALL, changed_fraction=fraction)
        assert sum(generate_pair(i, 0, options).changed for i in range(10)) == expected


@pytest.mark.parametrize("index", [0, 2, 4])
def test_without_nuisances_an_unchanged_pair_shows_the_same_image_twice(index):
    pair = generate_pair(index, 2, STILL)
    np.testing.assert_array_equal(pair.image_before, pair.image_after)
    np.testing.assert_array_equal(pair.semantic_before, pair.semantic_after)
    noisy = generate_pair(index, 2)
    assert not np.array_equal(noisy.image_before, noisy.image_after)
    assert not noisy.change_mask.any()


@pytest.mark.parametrize("index", range(1, 16, 2))
def test_what_differs_lies_in_the_mask(index):
    pair = generate_pair(index, 8, STILL)
    changed = pair.change_mask > 0
    differs = (pair.semantic_before != pair.semantic_after).any(-1)
    assert not (differs & ~changed).any()
    # Shadows fall beyond the mask; far from it the two images agree.
    apart = np.abs(pair.image_before.astype(int) - pair.image_after).max(-1) > 0
    box = np.zeros_like(changed)
    for event in pair.record["events"]:
        left, top, right, bottom = event["bbox"]
        box[max(0, top - 24) : bottom + 24, max(0, left - 24) : right + 24] = True
    assert not (apart & ~box).any()
    assert apart[changed].mean() > 0.8  # a change can be seen
    kept = restrict_to_changes(pair.semantic_after, pair.change_mask)
    assert ((colours_to_classes(kept) == 0) == ~changed).all()


def test_places_are_those_of_the_mask_and_events_are_big_enough():
    for index in range(1, 40, 2):
        pair = generate_pair(index, 4, SceneOptions(size=128))
        mask, events = pair.change_mask > 0, pair.record["events"]
        assert all(event["place"] in PLACES and event["area"] > 0.006 for event in events)
        assert sum(event["area"] for event in events) == pytest.approx(mask.mean(), abs=1e-3)
        if len(events) == 1:
            place, box, centre, area = describe_mask(mask)
            assert (place, box, centre, area) == tuple(events[0][k] for k in ("place", "bbox", "centroid", "area"))
            rows, columns = np.nonzero(mask)
            assert centre == pytest.approx([(columns.mean() + 0.5) / 128, (rows.mean() + 0.5) / 128], abs=1e-3)
        for event in events:
            x, y = event["centroid"]
            left, top, right, bottom = event["bbox"]
            assert left <= x * 128 <= right
            assert top <= y * 128 <= bottom
            if event["place"] != "across":
                assert ("left" in event["place"]) == (x < 0.37)
                assert ("right" in event["place"]) == (x >= 0.63)
                assert ("top" in event["place"]) == (y < 0.37)
                assert ("bottom" in event["place"]) == (y >= 0.63)


def test_counts_are_those_of_the_buildings_in_the_mask():
    building, counted = CLASS_NAMES.index("building"), Counter()
    for index in range(36):
        rng = np.random.default_rng([21, index])
        layout = make_layout(rng, 1 + index % 3)
        _, maps, mask, parts = draw_pair(layout, make_styles(rng, Nuisances.off()), 256)
        np.testing.assert_array_equal(np.sum(parts, axis=0), mask)  # every changed pixel has one event
        for event, part in zip(layout.events, parts, strict=True):
            record = describe(event, part, None)
            if event.name not in ("house", "villa", "large building"):
                assert record["count"] in (1, None)
                continue
            classes = colours_to_classes(maps[0 if event.kind == "disappear" else 1])
            assert components((classes == building) & part) == record["count"]
            counted[event.name] += 1
    assert all(counted[name] > 2 for name in ("house", "villa", "large building"))


@pytest.mark.parametrize(("kind", "gone", "come"), [("forest", "tree", None), ("lake", "water", None)])
def test_what_disappears_was_there(kind, gone, come):
    number, found = CLASS_NAMES.index(gone), 0
    for index in range(200):
        layout = make_layout(np.random.default_rng([5, index]), 1)
        event = layout.events[0]
        if (event.kind, event.name) != ("disappear", kind):
            continue
        _, maps, mask, _ = draw_pair(layout, make_styles(np.random.default_rng(index), Nuisances.off()), 128)
        before, after = (colours_to_classes(each)[mask] == number for each in maps)
        assert before.mean() > 0.5
        assert after.mean() < 0.1
        found += 1
        if found == 3:
            return
    raise AssertionError(f"200 scenes without a {kind} that disappears")


def test_nuisances_change_neither_scene_nor_words():
    strong = Nuisances(**dict.fromkeys(NUISANCES, 1.0))
    for index in (1, 2, 3):
        calm = generate_pair(index, 6, replace(SMALL, nuisances=Nuisances.off()))
        wild = generate_pair(index, 6, replace(SMALL, nuisances=strong))
        np.testing.assert_array_equal(calm.change_mask, wild.change_mask)
        assert calm.captions == wild.captions
        assert calm.record == wild.record


@pytest.mark.parametrize("name", NUISANCES)
def test_each_nuisance_has_its_effect_alone(name):
    index = 4  # unchanged
    off = generate_pair(index, 9, STILL)
    weak, strong = (
        generate_pair(index, 9, SceneOptions(nuisances=replace(Nuisances.off(), **{name: strength})))
        for strength in (0.5, 1.0)
    )

    def difference(pair):
        return np.abs(pair.image_before.astype(float) - pair.image_after).mean()

    assert difference(off) == 0
    assert 0 < difference(weak) < difference(strong)
    maps_agree = np.array_equal(strong.semantic_before, strong.semantic_after)
    assert maps_agree == (name not in ("viewpoint", "registration"))


def test_viewpoint_moves_buildings_only():
    options = SceneOptions(nuisances=replace(Nuisances.off(), viewpoint=1.0))
    pair = generate_pair(4, 9, options)
    before, after = colours_to_classes(pair.semantic_before), colours_to_classes(pair.semantic_after)
    building = CLASS_NAMES.index("building")
    moved = before != after
    assert moved.any()
    assert ((before == building) | (after == building))[moved].all()


@pytest.mark.parametrize("size", [64, 96, 320])
def test_sizes_show_the_same_scene(size):
    pair = generate_pair(1, 11, SceneOptions(size=size))
    large = generate_pair(1, 11)
    assert pair.image_after.shape == pair.semantic_after.shape == (size, size, 3)
    facts = [[(e["kind"], e["object"], e["count"], e["place"]) for e in p.record["events"]] for p in (pair, large)]
    assert facts[0] == facts[1]
    assert (pair.change_mask > 0).mean() == pytest.approx((large.change_mask > 0).mean(), rel=0.1)


@pytest.mark.parametrize("size", [0, 32, 100, 128.0, "256"])
def test_a_wrong_size_is_refused(size):
    with pytest.raises(ValueError, match=r"^size is .*multiple of 32"):
        SceneOptions(size=size)


@pytest.mark.parametrize("strength", [-0.1, 1.5, True, "much", float("nan")])
def test_a_wrong_strength_is_refused(strength):
    with pytest.raises(ValueError, match=r"^nuisances\.blur is .*between 0"):
        Nuisances(blur=strength)


@pytest.mark.parametrize(
    "options", [{"changed_fraction": 1.1}, {"max_events": 0}, {"max_events": 4}, {"nuisances": 1}]
)
def test_other_wrong_options_are_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=rf"^{name} is "):
        SceneOptions(**options)


def test_negative_numbers_are_refused():
    with pytest.raises(ValueError, match="index is -1"):
        generate_pair(-1, 0)


def test_the_number_of_events():
    options = replace(SMALL, changed_fraction=1.0)
    counts = Counter(len(generate_pair(i, 2, options).record["events"]) for i in range(60))
    assert set(counts) == {1, 2, 3}
    assert counts[1] > counts[2] > counts[3]
    alone = replace(options, max_events=1)
    assert all(len(generate_pair(i, 2, alone).record["events"]) == 1 for i in range(10))


def test_the_oracle_names_the_largest_event():
    unchanged, changed = generate_pair(0, 2, SMALL), generate_pair(1, 2, SMALL)
    assert plain_sentence(unchanged.record) == "the scene is the same as before"
    sentence = plain_sentence(changed.record)
    largest = max(changed.record["events"], key=lambda event: event["area"])
    flipped = {"events": [{**largest, "place": "bottom" if largest["place"] != "bottom" else "top"}]}
    assert sentence == plain_sentence({"events": [largest]})
    assert sentence != plain_sentence(flipped)


def _variety(pairs: int) -> tuple[Counter, Counter, Counter]:
    shapes, words, kinds = Counter(), Counter(), Counter()
    for index in range(1, pairs, 2):
        record = generate_pair(index, 12, SMALL).record
        for caption, shape in write_captions(record, np.random.default_rng(index)):
            shapes[shape] += 1
            words.update(caption.replace(",", " ,").split())
        kinds.update((event["kind"], event["object"], event["replaced"]) for event in record["events"])
    return shapes, words, kinds


def test_captions_vary_and_their_vocabulary_stays_small():
    shapes, words, kinds = _variety(180)
    assert len(shapes) >= 30
    assert len(words) <= 150
    assert {kind for kind, _, _ in kinds} == {"appear", "disappear", "replace", "widen"}
    assert len(kinds) >= 20


@pytest.mark.slow
def test_every_shape_and_every_event_occur_in_a_thousand_pairs():
    from rscc_hf.synthetic.events import EVENTS
    from rscc_hf.synthetic.wording import SHAPES

    shapes, words, kinds = _variety(1000)
    single = {shape for group in SHAPES.values() for _, shape in group}
    assert len(single & set(shapes)) >= 40
    assert max(shapes.values()) / sum(shapes.values()) < 0.25
    assert len(words) <= 150
    assert len(kinds) >= len(EVENTS) - 2
