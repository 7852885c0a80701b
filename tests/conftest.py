"""Tiny MModalCC checkpoints with random weights, and small pairs of images, for what is built on top of a model."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from hypothesis import settings
from PIL import Image

from rscc_hf import (
    MModalCCConfig,
    MModalCCForConditionalGeneration,
    MModalCCImageProcessor,
    MModalCCProcessor,
    precision,
)
from rscc_hf.data.vocabulary import build_word_tokenizer

sys.path.insert(0, str(Path(__file__).parent))  # for `toys` and `watched`

# A busy machine is no fault of the code: how long an example takes is never a reason to fail.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

WORDS = ("two houses appear along the road", "a lake replaces the trees", "no change has occurred")


def save_tiny_checkpoint(folder: Path, seed: int = 0, **config: object) -> Path:
    """Saves a model of some thousand parameters whose captions differ between pairs."""
    tokenizer = build_word_tokenizer(WORDS)
    backbone = {"embedding_size": 8, "hidden_sizes": [8, 16, 16], "depths": [1, 1, 1], "layer_type": "basic"}
    torch.manual_seed(seed)
    model = MModalCCForConditionalGeneration(
        MModalCCConfig(
            rgb_backbone_config=backbone,
            semantic_backbone_config=backbone,
            image_size=32,
            grid_size=2,
            d_model=16,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            vocab_size=len(tokenizer),
            max_caption_length=6,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            **config,
        )
    ).eval()
    with torch.no_grad():  # random words follow the images more when both speak up; a caption is never empty
        model.lm_head.weight.mul_(20)
        model.lm_head.bias[: tokenizer.unk_token_id + 1] = -50
        for layer in model.decoder.layers:
            layer.mgca.attention.out_proj.weight.mul_(5)
    model.save_pretrained(folder)
    image_processor = MModalCCImageProcessor(size={"height": 32, "width": 32}, max_image_pixels=100 * 100)
    MModalCCProcessor(image_processor, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def no_accelerator_left() -> Iterator[None]:
    """Forgets the process-wide state of accelerate that a test (a `transformers.Trainer`, say) leaves behind."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def fake_trial(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Sets how many times as long as float32 a 16-bit format takes, on any device; its products may differ."""

    def fake(factor: float, product: float | None = None, problem: str | None = None) -> None:
        def measure(device: torch.device, dtype: torch.dtype) -> precision.Trial:
            products = factor if product is None else product
            return precision.Trial(str(device), dtype, (1e-3, products * 1e-3), (1e-3, factor * 1e-3), None, problem)

        precision._tried.cache_clear()
        monkeypatch.setattr(precision, "measure", measure)

    yield fake
    precision._tried.cache_clear()


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of models whose maps are `optional`, `required` or (RGB alone) `none`."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {
        "optional": save_tiny_checkpoint(root / "optional", semantics_optional=True),
        "required": save_tiny_checkpoint(root / "required"),
        "none": save_tiny_checkpoint(root / "none", modalities="rgb"),
    }


@pytest.fixture
def write_image() -> Callable[..., Path]:
    """Writes a random image; the same seed gives the same image."""

    def write(path: Path, seed: int = 0, size: tuple[int, int] = (32, 32)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return write
