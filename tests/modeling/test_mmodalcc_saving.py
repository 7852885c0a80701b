"""Checkpoints that load with the package, and where it cannot be imported."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import watched
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

import rscc_hf
from rscc_hf.modeling import MModalCCConfig, MModalCCForConditionalGeneration

Make = Callable[..., MModalCCForConditionalGeneration]
Inputs = Callable[..., dict[str, torch.Tensor]]

ELSEWHERE = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "rscc_hf":
            raise ImportError("rscc_hf is not installed here")

sys.meta_path.insert(0, Refuse())
try:
    import rscc_hf
    raise SystemExit("rscc_hf could be imported: this shows nothing")
except ImportError:
    pass

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

folder, again = sys.argv[1:3]
inputs = load_file(folder + "/inputs.safetensors")
expected = inputs.pop("expected")
assert AutoConfig.from_pretrained(folder, trust_remote_code=True).model_type == "mmodalcc"
for auto in (AutoModel, AutoModelForImageTextToText):
    model, info = auto.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    assert type(model).__name__ == "MModalCCForConditionalGeneration"
    assert torch.equal(model.generate(**inputs, max_new_tokens=6), expected)
    # what was loaded so saves and loads so again, with the other Auto class too
    model.save_pretrained(again)
    other = AutoModel if auto is AutoModelForImageTextToText else AutoModelForImageTextToText
    model = other.from_pretrained(again, trust_remote_code=True)
    assert torch.equal(model.generate(**inputs, max_new_tokens=6), expected)
# weights survive being built on the meta device, and new ones are initialised there as well
fresh = AutoModel.from_config(AutoConfig.from_pretrained(folder, trust_remote_code=True), trust_remote_code=True)
assert 0.05 < fresh.lm_head.weight.abs().max() <= 0.1
print("loaded elsewhere")
"""


@pytest.fixture
def saved(make_model: Make, make_inputs: Inputs, tmp_path: Path) -> Path:
    """A checkpoint, and inputs with the captions that it gives."""
    model, inputs = make_model(semantics_optional=True), make_inputs(2)
    model.save_pretrained(tmp_path / "model")
    expected = model.generate(**inputs, max_new_tokens=6)
    save_file({**inputs, "expected": expected.contiguous()}, tmp_path / "model" / "inputs.safetensors")
    return tmp_path / "model"


def test_the_folder_holds_code_and_map(saved: Path) -> None:
    files = {path.name for path in saved.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "configuration_mmodalcc.py"} <= files
    assert {"modeling_mmodalcc.py", "modeling_mmodalcc_encoder.py", "modeling_mmodalcc_decoder.py"} <= files
    assert json.loads((saved / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "configuration_mmodalcc.MModalCCConfig",
        "AutoModel": "modeling_mmodalcc.MModalCCForConditionalGeneration",
        "AutoModelForImageTextToText": "modeling_mmodalcc.MModalCCForConditionalGeneration",
    }


def test_it_loads_where_the_package_is_not(saved: Path, tmp_path: Path) -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "HF_HOME": str(tmp_path / "home"),
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
        "HF_HUB_OFFLINE": "1",
    }
    done = watched.run(
        [sys.executable, "-c", ELSEWHERE, str(saved), str(tmp_path / "again")],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        limit=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("loaded elsewhere")


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForImageTextToText])
@pytest.mark.parametrize("trust", [None, True])
def test_with_the_package_its_own_classes_are_used(saved: Path, auto: type, trust: bool | None) -> None:
    """No question about trust is asked, and the same captions come."""
    options = {} if trust is None else {"trust_remote_code": trust}
    assert type(AutoConfig.from_pretrained(saved, **options)) is MModalCCConfig
    model, info = auto.from_pretrained(saved, output_loading_info=True, **options)
    assert type(model) is MModalCCForConditionalGeneration
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_config_round_trip(make_config: Callable[..., MModalCCConfig], tmp_path: Path) -> None:
    for index, changes in enumerate(
        [{}, {"modalities": "rgb"}, {"feature_enhancement": "parallel", "semantics_optional": True}]
    ):
        config = make_config(**changes)
        config.save_pretrained(tmp_path / str(index))
        loaded = MModalCCConfig.from_pretrained(tmp_path / str(index))
        for ours, theirs in ((config, loaded), (loaded, config)):
            for name, value in ours.to_dict().items():
                if name not in ("_name_or_path", "transformers_version", "auto_map"):
                    assert theirs.to_dict()[name] == value, name
    assert loaded.semantic_backbone_config.depths == [1, 1, 2]


def test_weights_missing_from_a_file_are_initialised(make_model: Make, tmp_path: Path) -> None:
    """A model of maps becomes one that can do without: the new embedding is finite and small, the rest is kept."""
    model = make_model()
    model.save_pretrained(tmp_path)
    loaded, info = MModalCCForConditionalGeneration.from_pretrained(
        tmp_path, semantics_optional=True, output_loading_info=True
    )
    assert set(info["missing_keys"]) == {"encoder.enhancement.missing_semantic"}
    assert 0 < loaded.encoder.enhancement.missing_semantic.abs().max() < 0.2
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_public_names() -> None:
    assert rscc_hf.__version__
    assert rscc_hf.MModalCCConfig is MModalCCConfig
    with pytest.raises(AttributeError, match="no attribute 'Captioner'"):
        _ = rscc_hf.Captioner
