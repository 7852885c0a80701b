"""The released CCExpert's names and config.json -> ours."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rscc_hf.conversion.ccexpert import rename_state_dict, translate_config
from rscc_hf.modeling import CCExpertForConditionalGeneration

GOLDEN = Path(__file__).resolve().parents[3] / "shared/golden/ccexpert"
Weights = dict[str, torch.Tensor]
TOWER = "model.vision_tower.vision_tower.vision_model"
GATE = "model.vision_resampler.ChangeAwareTokenReduce.feature_map_level_gate"


@pytest.fixture(scope="module")
def weights() -> Weights:
    if not GOLDEN.is_dir():
        pytest.skip("the golden numbers in ../shared are not on this machine")
    return load_file(GOLDEN / "model.safetensors")


@pytest.fixture
def release(weights: Weights) -> dict[str, Any]:
    return json.loads((GOLDEN / "config.json").read_text())


def test_config(release: dict[str, Any], weights: Weights) -> None:
    config = translate_config(release, weights)
    assert config.vision_levels == [1, 2, 3, 4] and config.vision.num_hidden_layers == 4
    assert (config.num_integration_layers, config.integration_attention_heads, config.integration_ffn_dim) == (
        2,
        2,
        512,
    )
    assert config.text.model_type == "qwen2" and config.text.vocab_size == 512 and config.text.hidden_size == 64
    assert config.text.rope_parameters["rope_theta"] == 10000.0
    assert not config.tie_word_embeddings and config.integration and config.image_token_id == 151646


def test_weights_are_renamed_not_copied(release: dict[str, Any], weights: Weights) -> None:
    config = translate_config(release, weights)
    renamed = rename_state_dict(weights, config)
    model = CCExpertForConditionalGeneration(config)
    model.load_state_dict(renamed.state_dict, strict=True)
    assert len(renamed.state_dict) + len(renamed.dropped) == len(weights)
    ours = {tensor.untyped_storage().data_ptr() for tensor in renamed.state_dict.values()}
    assert ours <= {tensor.untyped_storage().data_ptr() for tensor in weights.values()}
    layer = model.integration.expert.layers[1]
    for flag, official in (("before", "image_a"), ("after", "image_b"), ("change", "change")):
        theirs = weights[f"model.vision_resampler.layers.1.{official}_flag_embed.weight"][0]
        assert torch.equal(getattr(layer, f"{flag}_flag"), theirs.float())


def test_what_is_dropped_is_listed(release: dict[str, Any], weights: Weights) -> None:
    extra = {"model.image_newline": torch.zeros(64)}
    dropped = rename_state_dict(weights | extra, translate_config(release, weights)).dropped
    kinds = {
        "model.image_newline": 1, "model.mm_cc_projector.": 4, "model.vision_resampler.ChangeAwareTokenReduce.": 6,
        "model.vision_resampler.layers.0.norm4.": 2, "model.vision_resampler.layers.1.norm4.": 2,
        "model.vision_tower.vision_tower.vision_model.encoder.layers.4.": 16,
        "model.vision_tower.vision_tower.vision_model.post_layernorm.": 2,
    }  # fmt: skip
    for prefix, number in kinds.items():
        assert len([name for name in dropped if name.startswith(prefix)]) == number, prefix
    assert len(dropped) == sum(kinds.values()) and dropped == sorted(dropped)


def test_lower_levels_need_fewer_layers(release: dict[str, Any], weights: Weights) -> None:
    config = translate_config(release | {"mm_vision_select_layer": "[-5,-4]"}, weights)
    assert config.vision_levels == [1, 2]
    names = rename_state_dict(weights, config).state_dict
    assert not any("encoder.layers.2." in name for name in names)


def test_tied_embeddings(release: dict[str, Any], weights: Weights) -> None:
    tied = {name: tensor for name, tensor in weights.items() if name != "lm_head.weight"}
    del release["tie_word_embeddings"]  # leaves it to the weights
    config = translate_config(release, tied)
    assert config.tie_word_embeddings
    state = rename_state_dict(tied, config).state_dict
    assert state["lm_head.weight"] is state["language_model.embed_tokens.weight"]
    CCExpertForConditionalGeneration(config).load_state_dict(state, strict=True)


def test_the_config_says_whether_embeddings_are_tied(release: dict[str, Any], weights: Weights) -> None:
    """A head that is missing is no tied one, and one that the release overwrites when it loads is not carried on."""
    headless = {name: tensor for name, tensor in weights.items() if name != "lm_head.weight"}
    with pytest.raises(ValueError, match=r"1 weights are missing for this config: lm_head\.weight"):
        rename_state_dict(headless, translate_config(release | {"tie_word_embeddings": False}, headless))
    renamed = rename_state_dict(weights, translate_config(release | {"tie_word_embeddings": True}, weights))
    assert renamed.state_dict["lm_head.weight"] is renamed.state_dict["language_model.embed_tokens.weight"]
    assert "lm_head.weight" in renamed.dropped


def test_everything_that_is_wrong_is_listed(release: dict[str, Any], weights: Weights) -> None:
    state = {name: tensor for name, tensor in weights.items() if not name.endswith("input_layernorm.weight")}
    state |= {"model.layers.0.extra.weight": torch.zeros(1), "model.norm.weight": torch.zeros(65)}
    state |= {"model.mm_projector.0.bias": torch.zeros(3), "other": torch.zeros(1)}
    with pytest.raises(ValueError) as error:
        rename_state_dict(state, translate_config(release, state))
    assert str(error.value) == (
        "2 weights are missing for this config: language_model.layers.{0-1}.input_layernorm.weight; 1 weights do not "
        "belong to this config: language_model.layers.0.extra.weight; other is no weight of such a model; "
        "language_model.norm.weight has shape (65,), this config needs (64,); projector.linear_1.bias has shape (3,), "
        "this config needs (64,); give all weights of one release and its own config."
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000, and there are"),
        ({"num_hidden_layers": 100}, r"model\.layers\.2 is missing: .* 2 layers and this config needs 100"),
        ({"cc_expert_args": {"per_expert_depth": 10**9}}, r"model\.vision_resampler\.layers\.2 is missing"),
    ],
)
def test_giant_numbers_of_layers_build_nothing(
    release: dict[str, Any], weights: Weights, changes: dict[str, Any], message: str
) -> None:
    if "cc_expert_args" in changes:
        changes = {"cc_expert_args": release["cc_expert_args"] | changes["cc_expert_args"]}
    with pytest.raises(ValueError, match=message):
        rename_state_dict(weights, translate_config(release | changes, weights))


def test_a_giant_number_in_a_name_builds_nothing(release: dict[str, Any], weights: Weights) -> None:
    state = weights | {f"{TOWER}.encoder.layers.999999.mlp.fc1.bias": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"encoder\.layers\.5 is missing"):
        rename_state_dict(state, translate_config(release, state))


def test_a_baseline_has_no_module(release: dict[str, Any], weights: Weights) -> None:
    plain = {name: tensor for name, tensor in weights.items() if ".vision_resampler." not in name}
    plain |= {"model.image_newline": torch.zeros(64)}
    without = {name: value for name, value in release.items() if name not in ("mm_resampler_type", "cc_expert_args")}
    config = translate_config(without | {"mm_vision_select_layer": -2}, plain)
    assert not config.integration and config.vision_levels == [4]
    state = rename_state_dict(plain, config).state_dict
    CCExpertForConditionalGeneration(config).load_state_dict(state, strict=True)


def test_the_paper_sizes_need_no_description_of_the_tower(release: dict[str, Any]) -> None:
    """A config as it is published: no `vision_tower_config`; levels from a tower of 27 layers."""
    published = {
        name: value for name, value in release.items() if name not in ("vision_tower_config", "cc_expert_args")
    }
    published |= {
        "mm_vision_select_layer": "[-11,-8,-5,-2]",
        "cc_expert_args": {"downsample_ratio": 1, "per_expert_depth": 2},
    }
    layers = {
        f"model.vision_tower.vision_tower.vision_model.encoder.layers.{index}.layer_norm1.bias": torch.zeros(1)
        for index in range(27)
    }
    config = translate_config(published, layers | {"model.embed_tokens.weight": torch.zeros(512, 64)})
    assert config.vision_levels == [17, 20, 23, 26] and config.vision.num_hidden_layers == 26
    assert config.tokens_per_image == 729 and config.integration_ffn_dim == 4608
    assert config.integration_attention_heads == 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llava_qwen"}, "model_type='llava_qwen'"),
        ({"mm_projector_type": "linear"}, "mm_projector_type='linear'"),
        ({"mm_resampler_type": "qformer"}, "mm_resampler_type='qformer'"),
        ({"mm_vision_select_layer": "[-11,-8]"}, r"Levels \[-11, -8\] do not exist"),
        ({"mm_vision_select_layer": "last"}, "mm_vision_select_layer='last' is no list"),
        ({"mm_vision_select_layer": "[3]"}, "must be negative"),
        ({"cc_expert_args": {"downsample_ratio": 2}}, "downsample_ratio"),
        ({"cc_expert_args": {"embedding_dim": 64}}, "embedding_dim=64, the vision tower 256; give its own config"),
        ({"cc_expert_args": {"extra": 1}}, "unknown field extra"),
        ({"vision_tower_config": None, "mm_vision_tower": "clip"}, "mm_vision_tower='clip'"),
    ],
)
def test_other_configs_are_refused(
    release: dict[str, Any], weights: Weights, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        translate_config(release | changes, weights)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda state: state | {"model.extra.weight": torch.zeros(1)}, r"model\.extra\.weight is no weight"),
        (lambda state: state | {f"{GATE}.4.weight": torch.zeros(1)}, "is no weight"),
        (
            lambda state: {k: v for k, v in state.items() if k != f"{GATE}.0.bias"},
            r"missing.*adjustment\.linear_1\.bias",
        ),
        (lambda state: state | {"model.norm.weight": torch.zeros(65)}, r"norm\.weight has shape \(65,\)"),
        (lambda state: state | {"model.layers.7.mlp.up_proj.weight": torch.zeros(1)}, "do not belong"),
    ],
)
def test_wrong_weights_are_refused(
    release: dict[str, Any], weights: Weights, edit: Callable[[Weights], Weights], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        rename_state_dict(edit(weights), translate_config(release, weights))
