"""What of a recipe or a launcher's configuration DeepSpeed is not started with; needs no DeepSpeed."""

from types import SimpleNamespace

import pytest
from toys.task import ToyTask, toy_recipe

from rscc_hf.errors import RecipeError
from rscc_hf.training.engine import backend_deepspeed
from rscc_hf.training.engine.loop import train


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(backend_deepspeed.importlib.util, "find_spec", lambda name: object())


def test_is_an_extra(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setattr(backend_deepspeed.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"which is not installed; run `pip install rscc_hf\[deepspeed\]`"):
        train(toy_recipe(tmp_path), ToyTask)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cpu": True}, "cpu is true and accelerate is set to DeepSpeed; set cpu to false"),
        ({"optimizer": "muon"}, "optimizer muon needs whole matrices, which DeepSpeed cuts up; set it to adamw"),
        ({"mixed_precision": "fp16"}, "mixed_precision fp16 was never tried with DeepSpeed; set it to bf16 or no"),
    ],
)
def test_recipes(tmp_path, installed, changes, message):
    with pytest.raises(RecipeError, match=message):
        backend_deepspeed.check(toy_recipe(tmp_path, **{"cpu": False, **changes}))
    backend_deepspeed.check(toy_recipe(tmp_path, cpu=False))


def accelerator_with(**config):
    config = {"zero_optimization": {"stage": 2}, **config}
    plugin = SimpleNamespace(deepspeed_config=config)
    return SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin), num_processes=4), config


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"zero_optimization": {"stage": 1}}, "zero_stage is 1; set it to 2 or 3"),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
            "offload_optimizer_device was never tried; set it to none",
        ),
        ({"optimizer": {"type": "Adam"}}, "configuration has 'optimizer'; remove it"),
        ({"scheduler": {"type": "WarmupLR"}}, "configuration has 'scheduler'; remove it"),
        ({"bf16": {"enabled": True}}, "configuration has 'bf16'; remove it, mixed_precision is the recipe's"),
        ({"gradient_clipping": 2.0}, "gradient_clipping is 2.0 and the recipe's max_grad_norm 1.0; remove the first"),
    ],
)
def test_configurations(tmp_path, config, message):
    accelerator, _ = accelerator_with(**config)
    with pytest.raises(RecipeError, match=message):
        backend_deepspeed.configure(accelerator, toy_recipe(tmp_path, max_grad_norm=1.0))


def test_the_recipe_decides(tmp_path):
    accelerator, config = accelerator_with(gradient_accumulation_steps=7, bf16={"enabled": False})
    recipe = toy_recipe(tmp_path, mixed_precision="bf16", per_device_batch_size=2)
    backend_deepspeed.configure(accelerator, recipe)
    assert config["gradient_accumulation_steps"] == 1 and config["gradient_clipping"] == 0.0
    assert (config["train_micro_batch_size_per_gpu"], config["train_batch_size"]) == (2, 8)
    assert config["torch_autocast"]["enabled"] and config["torch_autocast"]["dtype"] == "bfloat16"
