"""CCExpert's image processor: what SigLIP's own does with a square, and the errors of MModalCC's."""

import numpy as np
import pytest
import torch
from PIL import Image

# transformers before 5.18 hides this class at its top level where torchvision is absent, though it needs none
from transformers.models.auto.image_processing_auto import AutoImageProcessor

import rscc_hf  # noqa: F401 (registers the classes)
from rscc_hf.processing.change_pair_images import PairError
from rscc_hf.processing.image_processing_ccexpert import CCExpertImageProcessor


def colours(seed, height=40, width=40):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_papers_settings_are_the_defaults():
    pixels = CCExpertImageProcessor()([[colours(0), colours(1)]], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 2, 3, 384, 384) and pixels.dtype == torch.float32
    for date, seed in enumerate((0, 1)):
        resized = Image.fromarray(colours(seed)).resize((384, 384), Image.Resampling.BICUBIC)
        expected = (np.asarray(resized, dtype=np.float32) / 255 - 0.5) / 0.5
        assert np.allclose(pixels[0, date].numpy(), np.moveaxis(expected, 2, 0), atol=1e-6)


def test_the_aspect_ratio_is_not_kept():
    wide = np.zeros((20, 80, 3), dtype=np.uint8)
    wide[:, 40:] = 255
    pixels = CCExpertImageProcessor(size={"height": 16, "width": 16})([[wide, wide]])["pixel_values"]
    assert pixels.shape == (1, 2, 3, 16, 16)
    assert np.allclose(pixels[0, 0, :, :, 0], -1) and np.allclose(pixels[0, 0, :, :, -1], 1)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK", "I;16"])
def test_any_mode_becomes_three_channels(mode):
    image = Image.fromarray(colours(2)[..., 0]) if mode == "I;16" else Image.fromarray(colours(2))
    image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    pixels = CCExpertImageProcessor(size={"height": 8, "width": 8})([[image, colours(3)]])["pixel_values"]
    assert pixels.shape == (1, 2, 3, 8, 8) and np.isfinite(pixels).all() and pixels.min() >= -1


def test_a_ready_batch_and_single_images_agree():
    processor = CCExpertImageProcessor(size={"height": 40, "width": 40})
    batch = np.stack([np.stack([np.moveaxis(colours(2 * row + date), 2, 0) for date in (0, 1)]) for row in (0, 1)])
    ready = processor(torch.from_numpy(batch), return_tensors="pt")["pixel_values"]
    one_by_one = processor([[colours(0), colours(1)], [colours(2), colours(3)]], return_tensors="pt")["pixel_values"]
    assert torch.equal(ready, one_by_one)


def test_errors_name_pair_and_file(tmp_path):
    processor = CCExpertImageProcessor()
    with pytest.raises(PairError, match=r"Pair 'west': image after .*gone\.png does not exist") as caught:
        processor([[colours(0), tmp_path / "gone.png"]], pair_ids=["west"])
    assert caught.value.pair == "west" and caught.value.file.endswith("gone.png")
    with pytest.raises(PairError, match="aspect ratios differ"):
        processor([[colours(0), colours(1, 20, 40)]])
    with pytest.raises(TypeError, match="semantic_maps: no setting"):
        processor([[colours(0), colours(1)]], semantic_maps=[None])


def test_settings_come_back(tmp_path):
    settings = {"size": {"height": 12, "width": 16}, "resample": 2, "image_mean": [0.1, 0.2, 0.3], "uint16_max": 4095}
    saved = CCExpertImageProcessor(**settings)
    saved.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(loaded) is CCExpertImageProcessor and loaded.to_dict() == saved.to_dict()
    pair = [colours(0), colours(1)]
    assert np.array_equal(loaded([pair])["pixel_values"], saved([pair])["pixel_values"])
