"""Starting from tiny LLaVA-OneVision and LLaVA checkpoints that transformers' own classes wrote."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedModel,
    Qwen2Config,
    SiglipVisionConfig,
)

from rscc_hf.modeling import CCExpertForConditionalGeneration

Load = Callable[..., CCExpertForConditionalGeneration]
LEVELS = [1, 2, 3, 4]

# transformers' names in memory -> each of the namings that it has written
NAMINGS: dict[str, Callable[[str], str]] = {
    "hub": lambda name: in_hub(name).replace("vision_tower.", "vision_tower.vision_model.", 1),
    "5.4": lambda name: name.replace("model.vision_tower.", "model.vision_tower.vision_model.", 1).replace(
        "model.language_model.", "model.language_model.model.", 1
    ),
    "5.10": lambda name: in_hub(name),
    "memory": lambda name: name,
}


def in_hub(name: str) -> str:
    if name == "lm_head.weight":
        return "language_model.lm_head.weight"
    name = name.removeprefix("model.")
    return name.replace("language_model.", "language_model.model.", 1)


def onevision(tied: bool = False) -> PreTrainedModel:
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=2, image_size=28, patch_size=7,
        vision_use_head=False,
    )  # fmt: skip
    text = Qwen2Config(
        hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=60, bos_token_id=1, eos_token_id=2, tie_word_embeddings=tied,
    )  # fmt: skip
    torch.manual_seed(0)
    return LlavaOnevisionForConditionalGeneration(
        LlavaOnevisionConfig(
            vision_config=vision, text_config=text, image_token_index=59, video_token_index=58, vision_feature_layer=-1
        )
    ).eval()


def llava(tied: bool = False) -> PreTrainedModel:
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=5, num_attention_heads=2, image_size=28, patch_size=7,
        projection_dim=16,
    )  # fmt: skip
    text = LlamaConfig(
        hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2, vocab_size=60,
        bos_token_id=1, eos_token_id=2, tie_word_embeddings=tied,
    )  # fmt: skip
    torch.manual_seed(0)
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=59, vision_feature_layer=-2)
    ).eval()


def write(source: PreTrainedModel, folder: Path, naming: str) -> Path:
    """Save config and weights, these under one of the namings."""
    source.save_pretrained(folder)
    weights = {NAMINGS[naming](name): tensor for name, tensor in source.state_dict().items()}
    if source.config.tie_word_embeddings:
        weights = {name: tensor for name, tensor in weights.items() if "lm_head" not in name}
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
    return folder


def read(folder: Path) -> dict[str, torch.Tensor]:
    """A folder's weights, apart from the file, which may then be written again."""
    return {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Edit the weights of a folder."""
    weights = read(folder)
    edit(weights)
    save_file(weights, folder / "model.safetensors")


def load_onevision(folder: Path, **options: Any) -> CCExpertForConditionalGeneration:
    return CCExpertForConditionalGeneration.from_llava_onevision(folder, **{"vision_levels": LEVELS, **options})


def load_llava(folder: Path, **options: Any) -> CCExpertForConditionalGeneration:
    return CCExpertForConditionalGeneration.from_llava(folder, **{"vision_levels": LEVELS, **options})


FAMILIES: dict[str, tuple[Callable[..., PreTrainedModel], Load]] = {
    "onevision": (onevision, load_onevision),
    "llava": (llava, load_llava),
}
both = pytest.mark.parametrize("family", FAMILIES)


def check_parts(model: CCExpertForConditionalGeneration, source: PreTrainedModel) -> None:
    """Everything but the module is the source's."""
    pairs = [
        (model.vision_tower.model, source.model.vision_tower),
        (model.language_model, source.model.language_model),
        (model.projector, source.model.multi_modal_projector),
        (model.lm_head, source.lm_head),
    ]
    for ours, theirs in pairs:
        expected = theirs.state_dict()
        assert ours.state_dict()
        for name, tensor in ours.state_dict().items():
            assert torch.equal(tensor, expected[name]), name


@both
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("naming", NAMINGS)
def test_every_naming_is_taken_whole(family: str, naming: str, tied: bool, tmp_path: Path) -> None:
    make, load = FAMILIES[family]
    source = make(tied)
    model = load(write(source, tmp_path / "source", naming))
    check_parts(model, source)
    assert model.config.tie_word_embeddings == tied and model.config.image_token_id == 59
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    # the module is new, and initialised
    for name, parameter in model.integration.named_parameters():
        assert torch.isfinite(parameter).all() and parameter.abs().max() <= 1, name
    assert model.integration.expert.layers[0].mlp.lin1.weight.std() > 0
    # what is saved has our names and is whole
    model.save_pretrained(tmp_path / "ours")
    assert {name.split(".")[0] for name in load_file(tmp_path / "ours" / "model.safetensors")} <= {
        "vision_tower", "integration", "projector", "language_model", "lm_head"
    }  # fmt: skip
    again, info = CCExpertForConditionalGeneration.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    check_parts(again, source)


@both
def test_as_transformers_itself_saves_it(family: str, tmp_path: Path) -> None:
    make, load = FAMILIES[family]
    source = make()
    source.save_pretrained(tmp_path)
    check_parts(load(tmp_path), source)


@both
def test_without_the_module_it_is_the_llava(family: str, tmp_path: Path) -> None:
    """Two images in one prompt: the same logits as the model that it started from."""
    make, load = FAMILIES[family]
    source = make()
    source.save_pretrained(tmp_path)
    model = load(tmp_path, integration=False, vision_levels=None).eval()
    assert model.integration is None and model.config.vision_levels == [4]
    image = [59] * 16
    ids = torch.tensor([[5, *image, 6, *image, 7, 8]])
    pixel_values = torch.rand(1, 2, 3, 28, 28) * 2 - 1
    with torch.no_grad():
        tower = source.model.vision_tower(pixel_values[0], output_hidden_states=True).hidden_states
        features = source.model.multi_modal_projector(tower[source.config.vision_feature_layer][:, -16:])
        embeds = source.get_input_embeddings()(ids)
        embeds[ids == 59] = features.flatten(0, 1)
        expected = source.lm_head(source.model.language_model(inputs_embeds=embeds).last_hidden_state)
        torch.testing.assert_close(model(input_ids=ids, pixel_values=pixel_values).logits, expected)


def test_default_levels_are_the_papers(tmp_path: Path) -> None:
    source = onevision()
    config = source.config
    config.vision_config.num_hidden_layers = 11
    torch.manual_seed(0)
    LlavaOnevisionForConditionalGeneration(config).save_pretrained(tmp_path / "deep")
    model = CCExpertForConditionalGeneration.from_llava_onevision(tmp_path / "deep")
    assert model.config.vision_levels == [2, 5, 8, 11]
    source = onevision()
    source.save_pretrained(tmp_path / "shallow")
    with pytest.raises(ValueError, match="read at level 4, too low for the paper's four levels; choose vision_levels"):
        CCExpertForConditionalGeneration.from_llava_onevision(tmp_path / "shallow")


def test_layers_above_the_highest_level_are_left_out(tmp_path: Path) -> None:
    source = onevision()
    source.save_pretrained(tmp_path)
    model = load_onevision(tmp_path, vision_levels=[1, 3], num_integration_layers=1)
    assert len(model.vision_tower.model.encoder.layers) == 3 == model.config.vision.num_hidden_layers
    assert len(model.integration.expert.layers) == 1
    check_parts(model, source)


@both
def test_dtype_and_settings(family: str, tmp_path: Path) -> None:
    make, load = FAMILIES[family]
    source = make()
    source.generation_config.update(do_sample=True, temperature=0.7, eos_token_id=[2, 3])
    source.save_pretrained(tmp_path)
    model = load(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    settings = model.generation_config
    assert settings.eos_token_id == [2, 3] and not settings.do_sample and settings.max_new_tokens == 256


@both
@pytest.mark.parametrize("naming", NAMINGS)
def test_missing_weights_are_refused(family: str, naming: str, tmp_path: Path) -> None:
    make, load = FAMILIES[family]
    folder = write(make(), tmp_path, naming)
    rename = NAMINGS[naming]
    for name in (
        "lm_head.weight",
        "model.vision_tower.encoder.layers.0.mlp.fc1.bias",
        "model.language_model.norm.weight",
    ):
        kept = read(folder)
        change(folder, lambda weights, name=name: weights.pop(rename(name)))
        with pytest.raises(ValueError, match=r"lacks 1 weights: .*; give a whole checkpoint"):
            load(folder)
        save_file(kept, folder / "model.safetensors")


@both
@pytest.mark.parametrize(
    "name",
    [
        "model.vision_tower.encoder.layers.0.mlp.fc3.bias",
        "model.language_model.layers.7.mlp.up_proj.weight",
        "model.something.weight",
        "model.multi_modal_projector.linear_3.weight",
    ],
)
def test_left_over_weights_are_refused(family: str, name: str, tmp_path: Path) -> None:
    make, load = FAMILIES[family]
    for naming in ("hub", "memory"):
        folder = write(make(), tmp_path / naming, naming)
        change(folder, lambda weights, naming=naming: weights.update({NAMINGS[naming](name): torch.zeros(1)}))
        with pytest.raises(ValueError, match="has 1 weights that do not belong"):
            load(folder)


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    llava().save_pretrained(tmp_path / "llava")
    with pytest.raises(ValueError, match=r"has model_type='llava'; give a LLaVA-OneVision checkpoint"):
        load_onevision(tmp_path / "llava")
    folder = tmp_path / "several"
    llava().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vision_feature_layer": [-2, -1]}))
    with pytest.raises(ValueError, match=r"vision_feature_layer=\[-2, -1\] joins several levels"):
        load_llava(folder)


def test_fields_beside_a_config_are_refused(tmp_path: Path) -> None:
    onevision().save_pretrained(tmp_path)
    model = load_onevision(tmp_path, num_integration_layers=1)
    again = CCExpertForConditionalGeneration.from_llava_onevision(tmp_path, config=model.config, vision_levels=None)
    assert len(again.integration.expert.layers) == 1
    with pytest.raises(ValueError, match="config is given and num_integration_layers beside it; set"):
        CCExpertForConditionalGeneration.from_llava_onevision(tmp_path, config=model.config, num_integration_layers=4)


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    source = onevision()
    source.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(source.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_onevision(tmp_path)
