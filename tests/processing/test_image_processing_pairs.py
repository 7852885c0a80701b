"""The law of both image processors: a call reads, then normalises, and the two can be done apart."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rscc_hf.processing.change_pair_reader import PairPixels
from rscc_hf.processing.image_processing_ccexpert import CCExpertImageProcessor
from rscc_hf.processing.image_processing_mmodalcc import MModalCCImageProcessor

SIDE = st.integers(4, 24)
SETTINGS = st.fixed_dictionaries(
    {"size": st.tuples(SIDE, SIDE).map(lambda sides: {"height": sides[0], "width": sides[1]})},
    optional={
        "do_resize": st.booleans(),
        "do_rescale": st.booleans(),
        "do_normalize": st.booleans(),
        "resample": st.sampled_from([0, 2, 3]),
        "rescale_factor": st.sampled_from([1 / 255, 1 / 256, 0.3]),
        "image_mean": st.sampled_from([0.4, [0.1, 0.2, 0.3]]),
        "image_std": st.sampled_from([0.5, [0.5, 0.6, 0.7]]),
        "value_range": st.sampled_from([None, (0, 200)]),
    },
)
MAP_SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "white_to_void": st.booleans(),
        "semantic_resample": st.sampled_from([0, 2]),
        "statistics": st.just({"semantic_mean": 0.3, "semantic_std": [0.5, 0.6, 0.7]}),
    },
)
BATCHES = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "maps": st.lists(st.booleans(), min_size=1, max_size=3),  # which pairs have them
        "side": st.tuples(SIDE, SIDE),
        "ready": st.booleans(),
        "kind": st.sampled_from([np.uint8, np.uint16, np.float32]),
    }
)


def pairs_and_maps(batch, size):
    """Pairs of images of one type, and their maps; `ready`: one array of the model's size."""
    random = np.random.default_rng(batch["seed"])
    height, width = (size["height"], size["width"]) if batch["ready"] else batch["side"]
    shape = (len(batch["maps"]), 2, 3, height, width)
    images = random.integers(0, 256, shape).astype(np.uint8)
    images[..., 0, 0] = 255  # so that no range is doubted
    if batch["kind"] is np.uint16:
        images = images.astype(np.uint16) * 257
    elif batch["kind"] is np.float32:
        images = (images / 255).astype(np.float32)
    maps = random.choice(np.array([0, 128, 255], dtype=np.uint8), shape)
    if batch["ready"] and all(batch["maps"]):
        return images, maps
    return [list(pair) for pair in images], [
        list(pair) if there else None for pair, there in zip(maps, batch["maps"], strict=True)
    ]


def same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@given(SETTINGS, MAP_SETTINGS, BATCHES)
@settings(deadline=None, max_examples=100)
def test_a_call_reads_and_then_normalises(shared, of_maps, batch):
    of_maps |= of_maps.pop("statistics", {})
    images, maps = pairs_and_maps(batch, shared["size"])
    for processor, given_maps, chosen in (
        (CCExpertImageProcessor(), None, shared),
        (MModalCCImageProcessor(), maps, {**shared, **of_maps}),
    ):
        arguments = () if given_maps is None else (given_maps,)
        called = processor(images, *arguments, return_tensors="pt", **chosen)
        pixels = processor.read_pairs(images, given_maps, **chosen)
        before = pixels.images.clone()
        same(called, processor.normalize_pairs(pixels, **chosen))
        assert torch.equal(pixels.images, before)
        floats = batch["kind"] is np.float32 and not shared.get("do_rescale", True) and not shared.get("value_range")
        assert pixels.images.dtype == (torch.float32 if floats else torch.uint8)
        # settings of a construction are those of a call
        made = type(processor)(**chosen)
        same(called, made.normalize_pairs(made.read_pairs(images, given_maps)))
        if given_maps is not None:
            assert pixels.present.tolist() == called["semantic_present"].tolist() == batch["maps"]
            assert not called["semantic_values"][~pixels.present].any()


def test_what_was_augmented_is_normalised_as_it_is():
    processor = MModalCCImageProcessor(size=8, do_normalize=False)
    maps = torch.full((2, 2, 3, 8, 8), 255, dtype=torch.uint8)  # white, and (below) greys that read as class numbers
    maps[1] = 3
    pixels = PairPixels(torch.zeros_like(maps), maps, torch.tensor([True, False]))
    values = processor.normalize_pairs(pixels)["semantic_values"]
    assert (values[0] == 1).all() and (values[1] == 0).all() and (maps[1] == 3).all()


def test_reading_keeps_the_notes():
    images = [np.full((size, size, 3), 9, dtype=np.uint8) for size in (8, 16)]
    pixels = MModalCCImageProcessor(size=8).read_pairs([images], pair_ids=["west"])
    assert [note["pair"] for note in pixels.notes] == ["west"] and "is 16x16" in pixels.notes[0]["message"]
    assert not pixels.present.any() and pixels.maps is None


@pytest.mark.parametrize("do", ["read_pairs", "normalize_pairs"])
def test_unknown_settings_are_errors(do):
    processor = CCExpertImageProcessor(size=8)
    given = torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8)
    if do == "normalize_pairs":
        given = processor.read_pairs(given)
    with pytest.raises(TypeError, match="colour: no setting"):
        getattr(processor, do)(given, colour=1)


def test_a_model_without_maps_refuses_them():
    with pytest.raises(TypeError, match="semantic_maps: no setting of this processor, whose model takes no maps"):
        CCExpertImageProcessor().read_pairs([[None, None]], [None])
