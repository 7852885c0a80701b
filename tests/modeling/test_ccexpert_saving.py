"""Checkpoints that load with the package, where it cannot be imported, and over several devices."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import watched
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

import rscc_hf
from rscc_hf.modeling import CCExpertConfig, CCExpertForConditionalGeneration

Make = Callable[..., CCExpertForConditionalGeneration]
Prompts = Callable[..., dict[str, torch.Tensor]]
WORDS = {"min_new_tokens": 6, "max_new_tokens": 6}

ELSEWHERE = """
import sys
sys.modules["rscc_hf"] = None  # any import of it fails
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

folder, again = sys.argv[1:3]
inputs = load_file(folder + "/inputs.safetensors")
expected = inputs.pop("expected")
words = {"min_new_tokens": 6, "max_new_tokens": 6}
assert AutoConfig.from_pretrained(folder, trust_remote_code=True).model_type == "ccexpert"
for auto in (AutoModel, AutoModelForImageTextToText):
    model, info = auto.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    assert type(model).__name__ == "CCExpertForConditionalGeneration"
    assert torch.equal(model.generate(**inputs, **words), expected)
    # what was loaded so saves and loads so again, with the other Auto class too
    model.save_pretrained(again)
    other = AutoModel if auto is AutoModelForImageTextToText else AutoModelForImageTextToText
    model = other.from_pretrained(again, trust_remote_code=True)
    assert torch.equal(model.generate(**inputs, **words), expected)
# new weights are initialised there as well
fresh = AutoModel.from_config(AutoConfig.from_pretrained(folder, trust_remote_code=True), trust_remote_code=True)
assert 0 < fresh.integration.expert.layers[0].before_flag.std() < 0.1
print("loaded elsewhere")
"""


@pytest.fixture
def saved(make_ccexpert: Make, make_prompts: Prompts, tmp_path: Path) -> Path:
    """A checkpoint, and inputs with what it answers."""
    model = make_ccexpert()
    inputs = make_prompts(model.config, batch=2)
    model.save_pretrained(tmp_path / "model")
    expected = model.generate(**inputs, **WORDS)
    save_file({**inputs, "expected": expected.contiguous()}, tmp_path / "model" / "inputs.safetensors")
    return tmp_path / "model"


def test_the_folder_holds_code_and_map(saved: Path) -> None:
    files = {path.name for path in saved.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "configuration_ccexpert.py"} <= files
    assert {"modeling_ccexpert.py", "modeling_ccexpert_integration.py", "loading_ccexpert.py"} <= files
    assert json.loads((saved / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "configuration_ccexpert.CCExpertConfig",
        "AutoModel": "modeling_ccexpert.CCExpertForConditionalGeneration",
        "AutoModelForImageTextToText": "modeling_ccexpert.CCExpertForConditionalGeneration",
    }
    assert {name.split(".")[0] for name in load_file(saved / "model.safetensors")} == {
        "vision_tower", "integration", "projector", "language_model", "lm_head"
    }  # fmt: skip


def test_it_loads_where_the_package_is_not(saved: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = watched.run(
        [sys.executable, "-c", ELSEWHERE, str(saved), str(tmp_path / "again")],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded elsewhere"


def test_with_the_package_its_classes_are_loaded(saved: Path) -> None:
    inputs = load_file(saved / "inputs.safetensors")
    expected = inputs.pop("expected")
    assert type(AutoConfig.from_pretrained(saved)) is CCExpertConfig
    for auto in (AutoModel, AutoModelForImageTextToText):
        model = auto.from_pretrained(saved)
        assert type(model) is CCExpertForConditionalGeneration
        assert torch.equal(model.generate(**inputs, **WORDS), expected)
    assert rscc_hf.CCExpertForConditionalGeneration is CCExpertForConditionalGeneration


@pytest.mark.parametrize(
    "changes", [{"integration": False}, {"integration_gate": False}, {"tie_word_embeddings": True}]
)
def test_every_kind_is_saved_whole(make_ccexpert: Make, tmp_path: Path, changes: dict) -> None:
    model = make_ccexpert(**changes)
    model.save_pretrained(tmp_path)
    loaded, info = CCExpertForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_a_module_added_on_loading_is_initialised(make_ccexpert: Make, tmp_path: Path) -> None:
    make_ccexpert(integration=False).save_pretrained(tmp_path)
    loaded, info = CCExpertForConditionalGeneration.from_pretrained(
        tmp_path, integration=True, output_loading_info=True
    )
    assert {name.split(".")[0] for name in info["missing_keys"]} == {"integration"}
    for name, parameter in loaded.integration.named_parameters():
        assert torch.isfinite(parameter).all() and parameter.abs().max() <= 1, name


@pytest.mark.parametrize(
    "device_map",
    [
        {"vision_tower": "cpu", "integration": "disk", "projector": "cpu", "language_model": "disk", "lm_head": "cpu"},
        {
            "vision_tower.model.embeddings": "cpu", "vision_tower.model.encoder.layers.0": "disk",
            "vision_tower.model.encoder.layers.1": "cpu", "vision_tower.model.encoder.layers.2": "disk",
            "vision_tower.model.encoder.layers.3": "cpu", "vision_tower.model.post_layernorm": "cpu",
            "integration": "cpu", "projector": "disk", "language_model.embed_tokens": "disk",
            "language_model.layers": "cpu", "language_model.norm": "cpu", "language_model.rotary_emb": "cpu",
            "lm_head": "disk",
        },
    ],
    ids=["parts", "layers"],
)  # fmt: skip
def test_parts_may_lie_elsewhere(saved: Path, tmp_path: Path, device_map: dict[str, str]) -> None:
    inputs = load_file(saved / "inputs.safetensors")
    expected = inputs.pop("expected")
    model = CCExpertForConditionalGeneration.from_pretrained(
        saved, device_map=device_map, offload_folder=tmp_path / "offload"
    )
    assert any(parameter.device.type == "meta" for parameter in model.parameters())  # what lies on disk
    assert torch.equal(model.generate(**inputs, **WORDS), expected)


def test_what_must_not_be_split_exists(make_ccexpert: Make) -> None:
    """accelerate's FSDP refuses a name that it cannot find in the model."""
    from accelerate import infer_auto_device_map

    model = make_ccexpert()
    kinds = {type(module).__name__ for module in model.modules()}
    assert (
        {"DifferenceAwareIntegration", "Qwen2DecoderLayer", "SiglipEncoderLayer"} <= model._no_split_modules <= kinds
    )
    assert "DifferenceAwareIntegration" not in make_ccexpert(integration=False)._no_split_modules
    placed = infer_auto_device_map(
        model, max_memory={0: "90KB", "cpu": "10GB"}, no_split_module_classes=list(model._no_split_modules)
    )
    assert not any(name.startswith("integration.") for name in placed)
