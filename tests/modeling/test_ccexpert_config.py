"""What a CCExpertConfig holds, checks and keeps."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, SiglipVisionConfig

from rscc_hf.modeling import CCExpertConfig, CCExpertForConditionalGeneration
from rscc_hf.modeling.configuration_ccexpert import relative_levels

Make = Callable[..., CCExpertConfig]

MODULE = 63_765_505  # parameters at width 1152 with K=2


def siglip_parameters(layers: int) -> int:
    """So400m up to a layer: patches, positions, layers; no final norm and no pooling head."""
    width, ffn = 1152, 4304
    layer = 4 * (width**2 + width) + 2 * width * ffn + ffn + width + 4 * width
    return 3 * 14 * 14 * width + width + 729 * width + layers * layer


def qwen2_parameters(width: int, ffn: int, layers: int, heads: int, kv_heads: int, words: int, tied: bool) -> int:
    """Qwen2 with its output projection."""
    kv = width // heads * kv_heads
    attention = 2 * width**2 + width + 2 * (width * kv + kv)
    return words * width * (1 if tied else 2) + layers * (attention + 3 * width * ffn + 2 * width) + width


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        ("0.5b", (896, 4864, 24, 14, 2, 151936, True)),
        ("7b", (3584, 18944, 28, 28, 4, 152064, False)),
        ("72b", (8192, 29568, 80, 64, 8, 152064, False)),
    ],
)
def test_presets_have_the_papers_sizes(size: str, sizes: tuple) -> None:
    config = CCExpertConfig.preset(size)
    with torch.device("meta"):
        model = CCExpertForConditionalGeneration(config)
    width = sizes[0]
    assert config.tokens_per_image == 729 and config.vision_levels == [17, 20, 23, 26]
    assert sum(parameter.numel() for parameter in model.integration.parameters()) == MODULE
    projector = 1152 * width + width + width**2 + width
    assert model.num_parameters() == MODULE + projector + siglip_parameters(26) + qwen2_parameters(*sizes)


def test_presets_take_changes_and_refuse_other_sizes() -> None:
    config = CCExpertConfig.preset("7b", integration=False, vision_levels=[26])
    assert not config.integration and config.text.hidden_size == 3584 and not config.tie_word_embeddings
    assert CCExpertConfig().to_dict() == CCExpertConfig.preset("0.5b").to_dict()
    with pytest.raises(ValueError, match=r"size='1b' is unknown; choose one of 0\.5b, 7b, 72b"):
        CCExpertConfig.preset("1b")


@pytest.mark.parametrize("changes", [{}, {"integration": False}, {"integration_gate": False, "vision_levels": [0, 3]}])
def test_saved_and_loaded_it_is_the_same(make_ccexpert_config: Make, tmp_path: Path, changes: dict) -> None:
    config = make_ccexpert_config(**changes)
    config.save_pretrained(tmp_path)
    for loaded in (CCExpertConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is CCExpertConfig
        assert loaded.to_dict().keys() == config.to_dict().keys()
        for name, value in config.to_dict().items():
            if name not in ("transformers_version", "_name_or_path"):
                assert loaded.to_dict()[name] == value, name


def test_what_is_never_run_is_not_built_and_the_callers_tower_stays_as_it_was(make_ccexpert_config: Make) -> None:
    vision = SiglipVisionConfig(
        hidden_size=32, num_hidden_layers=5, num_attention_heads=2, image_size=28, patch_size=7
    )
    config = make_ccexpert_config(vision_config=vision, vision_levels=[1, 3])
    assert config.vision.num_hidden_layers == 3 and vision.num_hidden_layers == 5
    model = CCExpertForConditionalGeneration(config)
    names = [name for name in model.state_dict() if name.startswith("vision_tower.")]
    assert any(".layers.2." in name for name in names) and not any(".layers.3." in name for name in names)
    assert not any("post_layernorm" in name or ".head." in name for name in names)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([-2], "must be absolute; write level -2 of a tower of 5 layers as 4"),
        ([2, 6], "asks for level 6, but the vision tower has 5 layers"),
        ([], "one or more ascending"),
        ([3, 2], "one or more ascending"),
        ([2, 2], "one or more ascending"),
    ],
)
def test_levels_that_do_not_exist_are_refused(make_ccexpert_config: Make, levels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_ccexpert_config(vision_levels=levels)


def test_levels_assigned_later_are_checked_when_the_model_is_built(make_ccexpert_config: Make) -> None:
    config = make_ccexpert_config()
    config.vision_levels = [2]
    assert len(CCExpertForConditionalGeneration(config).vision_tower.model.encoder.layers) == 2
    config.vision_levels = [3]
    with pytest.raises(ValueError, match="asks for level 3, but the vision tower has 2 layers"):
        CCExpertForConditionalGeneration(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_integration_layers": 0}, "num_integration_layers=0 must be at least 1"),
        ({"integration_attention_heads": 5}, "must divide the vision tower's width 32"),
        ({"integration_ffn_dim": 0}, "integration_ffn_dim=0"),
        ({"image_token_id": -200}, "image_token_id=-200"),
        ({"vision_config": {"model_type": "vit"}, "vision_levels": [1]}, "model_type='vit'"),
    ],
)
def test_wrong_settings_are_refused(make_ccexpert_config: Make, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_ccexpert_config(**changes)


def test_tying_is_what_the_language_model_says_unless_told() -> None:
    text = {"model_type": "qwen2", "tie_word_embeddings": True}
    assert CCExpertConfig(text_config=text).tie_word_embeddings is True
    config = CCExpertConfig(text_config=text, tie_word_embeddings=False)
    assert config.tie_word_embeddings is False and config.text.tie_word_embeddings is False


def test_relative_levels_become_absolute() -> None:
    assert relative_levels([-11, -8, -5, -2], 27) == [17, 20, 23, 26]
    assert relative_levels([-1], 26) == [26]
    with pytest.raises(ValueError, match=r"Levels \[-11\] do not exist in a vision tower of 5 layers"):
        relative_levels([-11], 5)
