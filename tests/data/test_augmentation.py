"""Moves of pixels and words together: the laws of mirrors and turns, what stays, and what cannot be said."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rscc_hf.data.augmentation import Augmentation, jitter_colours, mirror_pair, rotate_pair
from rscc_hf.data.place_words import Move, move_words

MIRRORS = [Move.MIRROR_HORIZONTAL, Move.MIRROR_VERTICAL]
PHRASES = [
    "on the left",
    "to the right of the lake",
    "in the top left corner",
    "at the bottom-right",
    "in the left top corner",
    "at the bottom",
    "in the upper left",
    "in the lower part",
    "above the road",
    "on the Left-hand side",
    "in the northwest",
    "in the north-eastern area",
    "on the west",
    "from left to right",
    "nothing is left",
    "right next to",
    "a horizontal road",
    "on top of the building",
    "in the middle",
    "Top Left",
    "houses",
    ",",
    "and",
]
captions = st.lists(st.sampled_from(PHRASES), min_size=1, max_size=5).map(" ".join)


def pixels(seed=0, size=12, width=None, kind="torch"):
    draw = np.random.default_rng(seed)
    array = draw.integers(0, 256, (2, 3, size, width or size), dtype=np.uint8)
    return torch.from_numpy(array) if kind == "torch" else array


# --- words


@pytest.mark.parametrize(
    ("caption", "horizontal", "vertical", "quarter"),
    [
        ("a house on the left .", "a house on the right .", "a house on the left .", "a house at the bottom ."),
        (
            "at the top of the scene",
            "at the top of the scene",
            "at the bottom of the scene",
            "on the left of the scene",
        ),
        ("on the left side", "on the right side", "on the left side", "on the bottom side"),
        (
            "in the top left corner",
            "in the top right corner",
            "in the bottom left corner",
            "in the bottom left corner",
        ),
        ("in the top right corner", "in the top left corner", "in the bottom right corner", "in the top left corner"),
        ("at the left bottom", "at the right bottom", "at the left top", "at the right bottom"),
        ("the upper right", "the upper left", "the lower right", "the upper left"),
        ("in the upper part", "in the upper part", "in the lower part", None),
        ("Left, right", "Right, left", "Left, right", "Bottom, top"),
        ("TOP  LEFT", "TOP  RIGHT", "BOTTOM  LEFT", "BOTTOM  LEFT"),
        ("upper left-hand corner", "upper right-hand corner", "lower left-hand corner", "lower left-hand corner"),
        ("on the left-hand side", "on the right-hand side", "on the left-hand side", None),
        ("trees below the road", "trees below the road", "trees above the road", None),
        ("the northwest", "the northeast", "the southwest", "the southwest"),
        ("the southeastern part", "the southwestern part", "the northeastern part", "the northeastern part"),
        ("north west of it", "north east of it", "south west of it", "south west of it"),
        ("the leftmost, topmost", "the rightmost, topmost", "the leftmost, bottommost", "the bottommost, leftmost"),
        ("a vertical road on the left", "a vertical road on the right", "a vertical road on the left", None),
        ("at the top and at the left", "at the top and at the right", "at the bottom and at the left", None),
        ("the houses on the rooftop", "the houses on the rooftop", "the houses on the rooftop", None),
    ],
)
def test_words_of_place_move_with_the_image(caption, horizontal, vertical, quarter):
    assert move_words(caption, Move.MIRROR_HORIZONTAL) == horizontal
    assert move_words(caption, Move.MIRROR_VERTICAL) == vertical
    turned = {
        "a vertical road on the left": "a horizontal road at the bottom",
        "at the top and at the left": "at the left and on the bottom",
        "the houses on the rooftop": caption,
    }
    assert move_words(caption, Move.ROTATE_90) == turned.get(caption, quarter)


@pytest.mark.parametrize(
    "caption",
    [
        "only some bareland is left",
        "nothing left",
        "a few trees are left behind",
        "houses are built right next to the lake",
        "the road makes a right angle",
        "solar panels on top of the building",
        "a garden on the roof top",
        "lower density of houses",
        "the houses are torn down",
    ],
)
@pytest.mark.parametrize("move", list(Move))
def test_words_that_only_look_like_places_stay(caption, move):
    assert move_words(caption, move) == caption


def test_place_beside_a_word_that_is_none():
    caption = "some land is left on the left of the road , right beside the house on top of the scene"
    assert move_words(caption, Move.MIRROR_HORIZONTAL) == caption.replace("the left", "the right")
    assert move_words(caption, Move.MIRROR_VERTICAL) == caption.replace("on top of", "on bottom of")


@settings(deadline=None)
@given(captions, st.sampled_from([*MIRRORS, Move.ROTATE_180]))
def test_moving_words_twice_gives_them_back(caption, move):
    moved = move_words(caption, move)
    assert moved is None or move_words(moved, move) == caption


@settings(deadline=None)
@given(captions)
def test_turns_of_words_form_a_circle(caption):
    turned = [caption]
    for _ in range(4):
        step = move_words(turned[-1], Move.ROTATE_90)
        if step is None:
            assert len(turned) == 1  # refused at once or never
            return
        turned.append(step)
    assert turned[4] == caption
    assert move_words(caption, Move.ROTATE_180) == turned[2]
    assert move_words(caption, Move.ROTATE_270) == turned[3]
    # a half turn is both mirrors
    both = move_words(move_words(caption, Move.MIRROR_HORIZONTAL), Move.MIRROR_VERTICAL)
    assert both == turned[2]


def test_every_phrase_of_the_synthetic_scenes_moves_with_its_place():
    words = pytest.importorskip("rscc_hf.synthetic.words")
    for place, spoken in words.PLACE_WORDS.items():
        for move in Move:
            quarter = move in (Move.ROTATE_90, Move.ROTATE_270)
            there = {phrase for phrase, _ in words.PLACE_WORDS[move_words(place, move)].phrases}
            for phrase, _ in spoken.phrases:
                if quarter and phrase.endswith(" side"):
                    continue  # "on the top side" is understood but not written
                moved = move_words(f"two houses are built {phrase} , beside the road", move)
                said = moved.removeprefix("two houses are built ").removesuffix(" , beside the road")
                assert said.removesuffix(" of the scene" if quarter else "") in there, (phrase, move, said)


def test_moved_synthetic_captions_are_true_of_the_moved_record():
    """What the sentence says is judged against a record whose place has been moved with the image."""
    facts = pytest.importorskip("rscc_hf.synthetic.caption_facts")
    synthetic = pytest.importorskip("rscc_hf.synthetic.dataset")
    judged = 0
    for index in range(12):
        pair = synthetic.generate_pair(index, 5, synthetic.SceneOptions())
        if not pair.record["events"]:
            continue
        for move in Move:
            events = [{**event, "place": move_words(event["place"], move)} for event in pair.record["events"]]
            for caption in pair.captions:
                moved = move_words(caption, move)
                if moved is None:
                    continue
                expected = facts.judge(caption, pair.record)
                assert facts.judge(moved, {**pair.record, "events": events}) == expected, (caption, moved)
                judged += 1
    assert judged > 50


# --- pixels


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_a_mark_goes_where_the_words_say(kind):
    images = np.zeros((2, 3, 8, 8), dtype=np.uint8)
    images[:, :, 1, 6] = 255  # top right
    semantics = images.copy()
    places = {"top left": (1, 1), "top right": (1, 6), "bottom left": (6, 1), "bottom right": (6, 6)}
    give = torch.from_numpy if kind == "torch" else np.asarray
    moves = [
        lambda *pair: mirror_pair(*pair, "horizontal"),
        lambda *pair: mirror_pair(*pair, "vertical"),
        *[lambda *pair, turns=turns: rotate_pair(*pair, turns) for turns in (-1, 0, 1, 2, 3, 5)],
    ]
    seen = set()
    for move in moves:
        moved, maps, caption = move(give(images), give(semantics), "a lake at the top right")
        row, column = places[caption.removeprefix("a lake at the ")]
        seen.add((row, column))
        for result in (moved, maps):
            assert type(result) is type(give(images))
            result = np.asarray(result)
            assert (result[:, :, row, column] == 255).all() and result.sum() == 6 * 255
    assert len(seen) == 4


@settings(deadline=None, max_examples=30)
@given(captions, st.sampled_from(["horizontal", "vertical"]), st.sampled_from(["torch", "numpy"]), st.booleans())
def test_mirroring_twice_gives_the_pair_back(caption, axis, kind, with_maps):
    images, maps = pixels(1, 6, 9, kind), pixels(2, 6, 9, kind) if with_maps else None
    once = mirror_pair(images, maps, caption, axis)
    images_again, maps_again, caption_again = mirror_pair(*once, axis)
    assert np.array_equal(images_again, images) and caption_again == caption
    assert np.array_equal(maps_again, maps) if with_maps else maps_again is None


def test_four_turns_give_the_pair_back():
    state = (pixels(1), pixels(2), "a lake in the top left corner and a road on the right")
    turned = state
    for _ in range(4):
        turned = rotate_pair(*turned)
    assert torch.equal(turned[0], state[0]) and torch.equal(turned[1], state[1]) and turned[2] == state[2]


def test_what_cannot_be_said_is_refused():
    with pytest.raises(ValueError, match="'above the road' cannot be said of an image after rotate_90"):
        rotate_pair(pixels(), None, "above the road", 1)
    assert rotate_pair(pixels(), None, "above the road", 2)[2] == "below the road"
    with pytest.raises(ValueError, match="axis"):
        mirror_pair(pixels(), None, "", "left")


# --- colours


def test_jitter_changes_images_by_at_most_its_strength():
    images = torch.full((2, 3, 4, 4), 128, dtype=torch.uint8)
    changes = []
    for seed in range(200):
        jittered = jitter_colours(images, np.random.default_rng(seed), 0.2).float() / 128
        changes.append(jittered[:, :, 0, 0])
        assert (jittered == jittered[:, :, :1, :1]).all()
    changes = torch.stack(changes)  # (200, 2, 3)
    assert changes.min() > 1 - 0.1 - 0.2 - 0.02 and changes.max() < 1 + 0.1 + 0.2 + 0.02
    assert changes.std(0).min() > 0.03 and abs(changes.mean() - 1) < 0.02
    assert torch.equal(images, torch.full_like(images, 128))


def test_jitter_of_both_dates_alike_or_apart():
    images = pixels(0).clone()
    images[1] = images[0]
    alike = jitter_colours(images, torch.Generator().manual_seed(0), 0.3, independent=0)
    apart = jitter_colours(images, torch.Generator().manual_seed(0), 0.3, independent=1)
    assert torch.equal(alike[0], alike[1]) and not torch.equal(alike, images)
    assert not torch.equal(apart[0], apart[1])
    assert torch.equal(jitter_colours(images, np.random.default_rng(0), 0.0), images)


def test_jitter_never_wraps_around():
    ramp = np.tile(np.arange(256, dtype=np.uint8), (2, 3, 1, 1))
    for seed in range(20):
        steps = np.diff(jitter_colours(ramp, np.random.default_rng(seed), 0.9).astype(int), axis=-1)
        assert (steps >= 0).all()


# --- the recipe's choice


def test_nothing_is_changed_by_zeros_and_all_by_ones():
    images, maps = pixels(1), pixels(2)
    off = Augmentation(mirror_horizontal=0, mirror_vertical=0)
    same = off(images, maps, "on the left", np.random.default_rng(0))
    assert torch.equal(same[0], images) and torch.equal(same[1], maps) and same[2] == "on the left"
    assert same[0].data_ptr() != images.data_ptr()  # writing into the result must not write into a cache
    both = Augmentation(mirror_horizontal=1, mirror_vertical=1)(images, maps, "top left", np.random.default_rng(0))
    assert torch.equal(both[0], images.flip(-1, -2)) and both[2] == "bottom right"


@pytest.mark.parametrize("make", [np.random.default_rng, lambda seed: torch.Generator().manual_seed(seed)])
def test_same_generator_same_result_and_same_number_of_draws(make):
    augment = Augmentation(rotate=0.5, colour_jitter=0.2)
    first, second = make(3), make(3)
    for _ in range(10):
        one = augment(pixels(1), pixels(2), "at the top", first)
        two = augment(pixels(1), pixels(2), "at the top", second)
        assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1]) and one[2] == two[2]
    # what the samples were does not move the generator
    third = make(3)
    for _ in range(10):
        Augmentation(0, 0)(pixels(4, 6, 9), None, None, third)
    draw = (lambda g: g.random()) if isinstance(first, np.random.Generator) else (lambda g: torch.rand(1, generator=g))
    assert draw(first) == draw(third)


def test_shares_are_as_asked_and_words_agree_with_pixels():
    augment = Augmentation(mirror_horizontal=0.3, mirror_vertical=0.6, rotate=0.4)
    generator = np.random.default_rng(0)
    images = np.zeros((2, 1, 8, 8), dtype=np.uint8)
    images[:, :, 1, 1] = 255
    corners = {"top left": (1, 1), "top right": (1, 6), "bottom left": (6, 1), "bottom right": (6, 6)}
    seen = dict.fromkeys(corners, 0)
    for _ in range(600):
        moved, maps, caption = augment(images, images, "top left", generator)
        row, column = corners[caption]
        assert moved[0, 0, row, column] == maps[1, 0, row, column] == 255
        seen[caption] += 1
    # without turns: 0.7*0.4 stay; with one (probability 0.4) each of the three others is as likely
    stay, right, down, both = 0.28, 0.12, 0.42, 0.18
    for corner, share in (("top left", stay), ("top right", right), ("bottom left", down), ("bottom right", both)):
        expected = 0.6 * share + 0.4 * (1 - share) / 3
        assert abs(seen[corner] / 600 - expected) < 0.06


def test_moves_that_cannot_be_said_are_not_made():
    augment = Augmentation(mirror_horizontal=0, mirror_vertical=0, rotate=1)
    generator = np.random.default_rng(0)
    images = pixels(1)
    for _ in range(20):
        moved, _, caption = augment(images, None, "above the road", generator)
        assert caption == "below the road" and torch.equal(moved, images.flip(-1, -2))
        wide = augment(pixels(1, 6, 9), None, "on the left", generator)
        assert wide[0].shape == (2, 3, 6, 9) and wide[2] == "on the right"


def test_maps_and_channels_are_free():
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 8, 8), dtype=np.uint8)
    maps = pixels(1, 8, kind="numpy")
    augment = Augmentation(1, 0, 0, colour_jitter=0.3)
    moved, moved_maps, _ = augment(images, maps, None, np.random.default_rng(0))
    assert moved.shape == images.shape and np.array_equal(moved_maps, maps[..., ::-1])  # maps are never jittered


@pytest.mark.parametrize(
    ("images", "maps", "message"),
    [
        (pixels().float(), None, "images is torch.float32"),
        (pixels()[0], None, r"images is torch.uint8 \(3, 12, 12\)"),
        (pixels(), pixels(size=6), r"semantics has size \(6, 6\), images \(12, 12\)"),
    ],
)
def test_wrong_inputs_are_named(images, maps, message):
    with pytest.raises(ValueError, match=message):
        Augmentation()(images, maps, "a", np.random.default_rng(0))


def test_probabilities_are_checked():
    with pytest.raises(ValueError, match=r"rotate is 1\.5; give a number between 0 and 1"):
        Augmentation(rotate=1.5)
