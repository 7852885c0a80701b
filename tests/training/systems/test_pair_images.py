"""What training reads of images of more than 8 bits and of change masks: as captioning does, or nothing."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from toys.pairs import toy_pairs_recipe

from rscc_hf.errors import RecipeError
from rscc_hf.processing.image_processing_mmodalcc import MModalCCImageProcessor
from rscc_hf.training.systems.mmodalcc.task import MModalCCTask
from rscc_hf.training.systems.pairs.pixels import PixelReader

SIDE = 16
GREY = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE), dtype=np.uint8)


def rows(folder, make, mask=None):
    """A row whose images are TIFF files of what `make` makes of grey images."""
    sources = []
    for date in (0, 1):
        Image.fromarray(make(GREY[date])).save(folder / f"{date}.tif")
        sources.append({"bytes": (folder / f"{date}.tif").read_bytes(), "path": None})
    masks = {} if mask is None else {"change_mask": Image.fromarray(mask)}
    return [{"pair_id": "p1", "image_before": sources[0], "image_after": sources[1], **masks}]


def reader(masks=False, **settings):
    return PixelReader(MModalCCImageProcessor(size=SIDE, **settings), False, True, "toy", masks)


def test_files_of_any_depth_are_the_same_pixels_or_refused(tmp_path):
    expected = reader().read(rows(tmp_path, lambda grey: grey)).images
    assert expected.dtype == torch.uint8 and torch.equal(expected[0, :, 0], torch.from_numpy(GREY))
    for make, settings in (
        (lambda grey: grey.astype(np.uint16) * 257, {}),
        (lambda grey: (grey / 255).astype(np.float32), {}),
        (lambda grey: grey.astype(np.uint16) * 16, {"value_range": (0, 4080)}),
        (lambda grey: grey.astype(np.int32) * 100, {"value_range": (0, 25500)}),
        (lambda grey: grey.astype(np.float32) * 40, {"value_range": (0, 10200)}),
    ):
        pixels = reader(**settings).read(rows(tmp_path, make)).images
        assert pixels.dtype == torch.uint8 and torch.equal(pixels, expected)
    for make in (lambda grey: grey.astype(np.uint16) * 16, lambda grey: grey.astype(np.float32)):
        with pytest.raises(ValueError, match=r"Pair 'p1': image before .*value_range"):
            reader().read(rows(tmp_path, make))


def test_a_mask_of_zeros_and_ones_does_not_say_unchanged(tmp_path):
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    for nothing_or_all in (mask, mask + 255):
        changes = reader(masks=True).read(rows(tmp_path, lambda grey: grey, nothing_or_all)).changes
        assert changes.all() == nothing_or_all.all()
    mask[3:5] = 1
    with pytest.raises(ValueError, match="pair 'p1' has a change_mask of values up to 1"):
        reader(masks=True).read(rows(tmp_path, lambda grey: grey, mask))


def test_a_recipe_sets_the_range(tmp_path):
    recipe = toy_pairs_recipe("data", tmp_path, value_range=[0, 4095])
    recipe.validate()
    assert MModalCCTask._image_processor(SimpleNamespace(recipe=recipe)).value_range == (0, 4095)
    for wrong in ([4095, 0], [1], [0, float("inf")]):
        with pytest.raises(RecipeError, match="value_range is"):
            toy_pairs_recipe("data", tmp_path, value_range=wrong).validate()
