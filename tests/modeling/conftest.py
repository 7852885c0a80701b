"""Tiny MModalCC models and random pairs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rscc_hf.modeling import MModalCCConfig, MModalCCForConditionalGeneration

GOLDEN = Path(__file__).resolve().parents[3] / "shared/golden/mmodalcc"


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of numbers from the authors' code."""
    if not GOLDEN.is_dir():
        pytest.skip("the golden numbers in ../shared are not on this machine")
    return GOLDEN


@pytest.fixture
def make_config() -> Callable[..., MModalCCConfig]:
    """Configs of a few ten thousand parameters; keywords override."""

    def make(**changes: Any) -> MModalCCConfig:
        backbone = {"embedding_size": 8, "hidden_sizes": [8, 16, 16], "depths": [1, 1, 2], "layer_type": "basic"}
        options: dict[str, Any] = {
            "rgb_backbone_config": backbone,
            "semantic_backbone_config": backbone,
            "image_size": 32,
            "grid_size": 3,
            "d_model": 16,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "vocab_size": 23,
        }
        return MModalCCConfig(**(options | changes))

    return make


@pytest.fixture
def make_model(make_config: Callable[..., MModalCCConfig]) -> Callable[..., MModalCCForConditionalGeneration]:
    """Models of `make_config`, in eval mode, of a fixed seed, whose captions differ between pairs."""

    def make(**changes: Any) -> MModalCCForConditionalGeneration:
        torch.manual_seed(0)
        model = MModalCCForConditionalGeneration(make_config(**changes)).eval()
        with torch.no_grad():  # random words follow the image more when both speak up
            model.lm_head.weight.mul_(20)
            for layer in model.decoder.layers:
                layer.mgca.attention.out_proj.weight.mul_(5)
        return model

    return make


@pytest.fixture
def make_inputs() -> Callable[..., dict[str, torch.Tensor]]:
    """Random pairs with maps."""

    def make(batch: int = 3, size: int = 32, channels: int = 3, maps: bool = True) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(batch)
        inputs = {"pixel_values": torch.rand(batch, 2, channels, size, size, generator=generator) * 4 - 2}
        if maps:
            inputs["semantic_values"] = torch.rand(batch, 2, 3, size, size, generator=generator) * 4 - 2
        return inputs

    return make
