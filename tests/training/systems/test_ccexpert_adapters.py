"""LoRA: what learns, what is saved, and that load and merge give the trained model's answers."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from toys.ccexpert_stages import save_start, stage_recipe
from toys.pairs import write_pairs

from rscc_hf import CCExpertForConditionalGeneration
from rscc_hf.errors import CheckpointError, RecipeError
from rscc_hf.training.systems.ccexpert.adapter_base import weights_digest
from rscc_hf.training.systems.ccexpert.adapters import load_adapters, main, merge_adapters
from rscc_hf.training.systems.ccexpert.task import part_of, train_ccexpert


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"), 8, 4)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return save_start(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def trained(pairs, start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    recipe = stage_recipe(pairs, start, folder, lora_rank=4, lora_dropout=0.1, max_steps=6)
    return train_ccexpert(recipe), folder


def logits(model, batch):
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        return model.eval()(**inputs).logits


def test_adapters_module_and_projector_learn_and_nothing_else(trained, start):
    result, _ = trained
    learning = {name for name, parameter in result.task.model.named_parameters() if parameter.requires_grad}
    assert {part_of(name) for name in learning} == {"integration", "projector", "language_model"}
    assert all("lora_" in name for name in learning if part_of(name) == "language_model")
    assert all("modules_to_save" in name for name in learning if part_of(name) != "language_model")
    before = CCExpertForConditionalGeneration.from_pretrained(start).state_dict()
    for name, tensor in result.task.model.state_dict().items():
        bare = name.removeprefix("base_model.model.").replace(".base_layer", "").replace(".original_module", "")
        if bare in before:
            assert torch.equal(tensor, before[bare]), name
    lora_b = [p for name, p in result.task.model.named_parameters() if "lora_B" in name]
    assert len(lora_b) == 2 * 7 and all(bool(parameter.any()) for parameter in lora_b)  # they start as zeros


def test_load_and_merge_give_the_same_logits(trained, tmp_path):
    result, folder = trained
    batch = result.task.samples.batch([(0, 0), (0, 5)])
    expected = logits(result.task.model, batch)
    weights = sorted(path.name for path in folder.glob("*.safetensors"))
    assert weights == ["adapter_model.safetensors"]  # no second copy of the model

    loaded, processor = load_adapters(folder)
    torch.testing.assert_close(logits(loaded, batch), expected, rtol=0, atol=0)
    assert processor.prompt == result.task.processor.prompt

    merge_adapters(folder, tmp_path / "merged")
    merged, info = CCExpertForConditionalGeneration.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    torch.testing.assert_close(logits(merged, batch), expected, rtol=1e-4, atol=1e-5)
    base = CCExpertForConditionalGeneration.from_pretrained(result.recipe.init_from)
    assert not torch.allclose(logits(base, batch), expected, atol=1e-3)


def test_a_resumed_run_with_adapters_is_bit_for_bit_the_uninterrupted_one(pairs, start, tmp_path):
    changes = {"lora_rank": 2, "lora_dropout": 0.2, "max_steps": 4, "save_unit": "steps", "save_every": 2}

    class Stop(Exception):
        pass

    def stop(step, total, loss):
        if step == 3:
            raise Stop

    whole = train_ccexpert(stage_recipe(pairs, start, tmp_path / "whole", **changes)).task.model.state_dict()
    with pytest.raises(Stop):
        train_ccexpert(stage_recipe(pairs, start, tmp_path / "parts", **changes), on_step=stop)
    parts = train_ccexpert(stage_recipe(pairs, start, tmp_path / "parts", **changes)).task.model.state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_run_goes_on_with_the_very_prompt_and_the_very_weights_below_its_adapters(pairs, start, tmp_path):
    own = Path(shutil.copytree(start, tmp_path / "start"))
    recipe = stage_recipe(pairs, str(own), tmp_path / "run", lora_rank=2, save_unit="steps", max_steps=2)

    def stop(step, total, loss):
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_ccexpert(recipe, on_step=stop)
    state = tmp_path / "run" / "checkpoints" / "step-00000001" / "state.json"
    content = json.loads(state.read_text())
    assert content["identity"]["init_from_weights"] == weights_digest(start, None)

    template = own / "chat_template.jinja"
    written = template.read_text()
    template.write_text(f"Hello. {written}")
    with pytest.raises(CheckpointError, match=r"init_from writes the prompt in other words than that of .*step-0+1's"):
        train_ccexpert(recipe)
    template.write_text(written + "{# a remark writes nothing #}")
    content["identity"]["init_from_weights"] = "0" * 64  # as if samples of them were the same
    state.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"init_from has other weights than that of .*\(000000000000 then, "):
        train_ccexpert(recipe)


def test_mistakes_are_one_sentence(pairs, start, trained, tmp_path):
    with pytest.raises(RecipeError, match="the language model has no such layers"):
        train_ccexpert(stage_recipe(pairs, start, tmp_path, lora_rank=2, lora_target_modules=["qq_proj"]))
    with pytest.raises(RecipeError, match="quantization 4bit trains adapters; set lora_rank"):
        stage_recipe(pairs, start, tmp_path, quantization="4bit")
    with pytest.raises(RecipeError, match=r"holds adapters; write a whole model with `python training/adapters\.py"):
        train_ccexpert(stage_recipe(pairs, str(trained[1]), tmp_path))
    with pytest.raises(SystemExit, match=r"adapters\.py: .* holds no adapters"):
        main([start, str(tmp_path / "out")])
    with pytest.raises(ValueError, match="holds the adapters; name another folder"):
        merge_adapters(trained[1], trained[1])


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_four_bits_need_bitsandbytes(pairs, start, tmp_path):
    with pytest.raises(RecipeError, match="quantization 4bit needs bitsandbytes; run `pip install bitsandbytes`"):
        train_ccexpert(stage_recipe(pairs, start, tmp_path, quantization="4bit", lora_rank=2))


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_four_bits_train(pairs, start, tmp_path):
    losses = []
    recipe = stage_recipe(
        pairs, start, tmp_path, quantization="4bit", lora_rank=4, max_steps=40, per_device_batch_size=8,
        schedule="constant", learning_rate=1e-2,
    )  # fmt: skip
    result = train_ccexpert(recipe, on_step=lambda step, total, loss: losses.append(loss))
    kinds = {type(module).__name__ for name, module in result.task.model.named_modules() if "base_layer" in name}
    assert "Linear4bit" in kinds and sum(losses[-5:]) < 0.97 * sum(losses[:5])
    loaded, _ = load_adapters(tmp_path)  # into the model as it was before quantisation
    after = loaded.state_dict()
    learnt = {name: p for name, p in result.task.model.named_parameters() if p.requires_grad}
    assert learnt and all(torch.equal(after[name], parameter) for name, parameter in learnt.items())
