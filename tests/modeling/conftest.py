"""Tiny models of both kinds and random pairs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rscc_hf.modeling import (
    CCExpertConfig,
    CCExpertForConditionalGeneration,
    MModalCCConfig,
    MModalCCForConditionalGeneration,
)

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


@pytest.fixture
def make_ccexpert_config() -> Callable[..., CCExpertConfig]:
    """Configs of a tiny CCExpert of a 4x4 grid, SigLIP and Qwen2; keywords override."""

    def make(**changes: Any) -> CCExpertConfig:
        options: dict[str, Any] = {
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 5,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 7,
            },
            "text_config": {
                "model_type": "qwen2",
                "hidden_size": 24,
                "intermediate_size": 40,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "vocab_size": 60,
                "bos_token_id": 1,
                "eos_token_id": 2,
            },
            "vision_levels": [1, 2, 4],
            "integration_attention_heads": 2,
            "image_token_id": 59,
        }
        return CCExpertConfig(**(options | changes))

    return make


@pytest.fixture
def make_ccexpert(
    make_ccexpert_config: Callable[..., CCExpertConfig],
) -> Callable[..., CCExpertForConditionalGeneration]:
    """Models of `make_ccexpert_config`, in eval mode, of a fixed seed, whose words differ between pairs."""

    def make(**changes: Any) -> CCExpertForConditionalGeneration:
        torch.manual_seed(0)
        model = CCExpertForConditionalGeneration(make_ccexpert_config(**changes)).eval()
        with torch.no_grad():  # random words follow images and words more when all speak up
            model.get_input_embeddings().weight.mul_(30)
            model.projector.linear_1.weight.mul_(3)
            model.projector.linear_2.weight.mul_(60)
            for name, parameter in model.language_model.named_parameters():
                if name.endswith("_proj.weight"):
                    parameter.mul_(30)
        return model

    return make


@pytest.fixture
def make_prompts() -> Callable[..., dict[str, torch.Tensor]]:
    """Random pairs with prompts of 3 to 9 words around two images, padded with 0 on one side."""

    def make(config: CCExpertConfig, batch: int = 3, side: str = "left") -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(batch)
        shape = (batch, 2, 3, config.image_size, config.image_size)
        image = torch.full((config.tokens_per_image,), config.image_token_id)
        rows = []
        for row in range(batch):
            words = torch.randint(3, 50, (3 + 3 * row,), generator=generator)
            rows.append(torch.cat([words[:1], image, words[1:2], image, words[2:]]))
        longest = max(len(row) for row in rows)
        inputs = {
            "input_ids": torch.zeros(batch, longest, dtype=torch.long),
            "attention_mask": torch.zeros(batch, longest, dtype=torch.long),
            "pixel_values": torch.rand(shape, generator=generator) * 2 - 1,
        }
        for index, row in enumerate(rows):
            place = slice(longest - len(row), None) if side == "left" else slice(len(row))
            inputs["input_ids"][index, place] = row
            inputs["attention_mask"][index, place] = 1
        return inputs

    return make
