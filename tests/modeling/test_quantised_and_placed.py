"""Quantised loading and `device_map`, for both systems: what stays in full precision, and what is not split."""

import importlib.util
import json

import pytest
import torch
from accelerate import infer_auto_device_map, init_empty_weights
from torch import nn
from toys.ccexpert import save_tiny_ccexpert
from transformers import AutoModel, AutoProcessor, BitsAndBytesConfig, QuantoConfig, pipeline
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from rscc_hf import CCExpertConfig, CCExpertForConditionalGeneration, MModalCCConfig, MModalCCForConditionalGeneration

MODELS = [CCExpertForConditionalGeneration, MModalCCForConditionalGeneration]
FULL_PRECISION = {
    CCExpertForConditionalGeneration: ["vision_tower", "integration", "projector", "lm_head"],
    MModalCCForConditionalGeneration: ["lm_head", "rgb_gate", "semantic_gate", "word_gate"],
}


@pytest.fixture(scope="module")
def folders(tiny_checkpoints, tmp_path_factory):
    return {
        "ccexpert": save_tiny_ccexpert(tmp_path_factory.mktemp("ccexpert")),
        "mmodalcc": tiny_checkpoints["optional"],
    }


@pytest.fixture(scope="module")
def pairs():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 2, 3, 32, 32), generator=generator, dtype=torch.uint8)


def full_size(model_class):
    """The paper's size, on no device."""
    config = CCExpertConfig.preset("7b") if model_class is CCExpertForConditionalGeneration else MModalCCConfig()
    with init_empty_weights():
        return model_class(config)


@pytest.mark.parametrize("model_class", MODELS)
def test_a_quantiser_is_told_what_stays_in_full_precision(model_class):
    names = FULL_PRECISION[model_class]
    for field, given in (
        ("llm_int8_skip_modules", BitsAndBytesConfig(load_in_4bit=True)),
        ("llm_int8_skip_modules", BitsAndBytesConfig(load_in_8bit=True)),
        ("modules_to_not_convert", QuantoConfig(weights="int8")),
    ):
        before = given.to_dict()
        named = model_class.name_full_precision(given)
        assert getattr(named, field) == names
        assert given.to_dict() == before  # the user's own is not touched
    own = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["lm_head"])
    assert model_class.name_full_precision(own).llm_int8_skip_modules == ["lm_head"]
    assert model_class.name_full_precision({"load_in_8bit": True})["llm_int8_skip_modules"] == names
    assert model_class.name_full_precision({"quant_method": "fp8"})["modules_to_not_convert"] == names
    own = {"load_in_4bit": True, "llm_int8_skip_modules": []}
    assert model_class.name_full_precision(own) == own


@pytest.mark.parametrize("model_class", MODELS)
def test_what_transformers_quantises_then_is_the_bulk_and_none_of_the_rest(model_class):
    model = full_size(model_class)
    config = model_class.name_full_precision(BitsAndBytesConfig(load_in_4bit=True))
    left = HfQuantizer.get_modules_to_not_convert(model, config.llm_int8_skip_modules, model._keep_in_fp32_modules)
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    quantised = {name for name in linear if should_convert_module(name, left)}
    for name in FULL_PRECISION[model_class]:
        assert any(name in full.split(".") for full in linear), name  # the name means something
        assert not any(name in full.split(".") for full in quantised), name
    if model_class is CCExpertForConditionalGeneration:
        assert quantised == {name for name in linear if name.startswith("language_model.")}
        assert sum(linear[name].weight.numel() for name in quantised) > 6e9
    else:
        assert {name.split(".")[0] for name in quantised} == {"encoder", "decoder"}


@pytest.mark.parametrize("load", ["model", "pipeline"])
@pytest.mark.parametrize("name", ["ccexpert", "mmodalcc"])
def test_loading_passes_the_names_on(folders, name, load, monkeypatch):
    """As far as it goes without bitsandbytes: to the quantiser."""
    seen = []

    def stop(self, *args, **kwargs):
        seen.append(self.quantization_config)
        raise KeyboardInterrupt  # nothing catches that on its way

    monkeypatch.setattr("transformers.quantizers.quantizer_bnb_4bit.Bnb4BitHfQuantizer.validate_environment", stop)
    config = BitsAndBytesConfig(load_in_4bit=True)
    with pytest.raises(KeyboardInterrupt):
        if load == "model":
            AutoModel.from_pretrained(folders[name], quantization_config=config)
        else:
            pipeline("change-captioning", model=str(folders[name]), model_kwargs={"quantization_config": config})
    model_class = CCExpertForConditionalGeneration if name == "ccexpert" else MModalCCForConditionalGeneration
    assert seen[0].llm_int8_skip_modules == FULL_PRECISION[model_class]


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("name", ["ccexpert", "mmodalcc"])
def test_eight_bits_answer_and_are_saved(folders, pairs, tmp_path, name):
    processor = AutoProcessor.from_pretrained(folders[name])
    inputs = processor(images=pairs)
    model = AutoModel.from_pretrained(folders[name], quantization_config=BitsAndBytesConfig(load_in_8bit=True))
    quantised = {name for name, module in model.named_modules() if type(module).__name__ == "Linear8bitLt"}
    assert quantised and not any(set(one.split(".")) & set(model.full_precision_modules) for one in quantised)
    whole = AutoModel.from_pretrained(folders[name])
    asked = {**inputs, "labels": inputs["input_ids"]} if name == "ccexpert" else inputs
    if name == "ccexpert":
        assert torch.isclose(model(**asked).loss, whole(**asked).loss, rtol=0.1)
    expected = model.generate(**inputs, max_new_tokens=4)
    model.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert stored["llm_int8_skip_modules"] == model.full_precision_modules
    assert torch.equal(AutoModel.from_pretrained(tmp_path).generate(**inputs, max_new_tokens=4), expected)


@pytest.mark.parametrize("model_class", MODELS)
@pytest.mark.parametrize("shares", [{0: 0.15, 1: 0.15}, {0: 0.4, 1: 0.4}], ids=str)
def test_device_maps_keep_together_what_must_be(model_class, shares):
    model = full_size(model_class)
    size = sum(parameter.numel() * 4 for parameter in model.parameters())
    kinds = {type(module).__name__ for module in model.modules()}
    assert set(model._no_split_modules) <= kinds
    budget = {device: int(size * share) for device, share in shares.items()}
    budget |= {"cpu": 2 * size}
    placed = infer_auto_device_map(model, max_memory=budget, no_split_module_classes=list(model._no_split_modules))
    if model_class is CCExpertForConditionalGeneration:  # MModalCC is too small to be shared out
        assert len(set(placed.values())) > 1
    for name, module in model.named_modules():
        if type(module).__name__ in model._no_split_modules:
            assert not any(part.startswith(f"{name}.") for part in placed), name


@pytest.mark.parametrize("name", ["ccexpert", "mmodalcc"])
def test_automatic_placement_answers_alike(folders, pairs, name):
    inputs = AutoProcessor.from_pretrained(folders[name])(images=pairs)
    expected = AutoModel.from_pretrained(folders[name]).generate(**inputs, max_new_tokens=4)
    model = AutoModel.from_pretrained(folders[name], device_map="auto").cpu()
    assert torch.equal(model.generate(**inputs, max_new_tokens=4), expected)
    captioner = pipeline("change-captioning", model=str(folders[name]), device_map="auto")
    ids = captioner(pairs, batch_size=2, max_new_tokens=4, return_tensors=True)
    assert [one[0]["generated_token_ids"].tolist() for one in ids] == expected.tolist()


MAPS = [
    {"encoder": "disk", "decoder": "cpu", "lm_head": "disk"},
    {"encoder": "cpu", "decoder": "disk", "lm_head": "cpu"},
    {"encoder.rgb_backbone": "disk", "encoder.semantic_backbone": "cpu", "encoder.enhancement": "disk",
     "decoder": "cpu", "lm_head": "cpu"},
]  # fmt: skip


@pytest.mark.parametrize("device_map", MAPS)
def test_parts_of_mmodalcc_may_lie_on_the_disk(folders, pairs, tmp_path, device_map):
    processor = AutoProcessor.from_pretrained(folders["mmodalcc"])
    whole = AutoModel.from_pretrained(folders["mmodalcc"])
    placed = AutoModel.from_pretrained(folders["mmodalcc"], device_map=device_map, offload_folder=tmp_path)
    assert any(parameter.device.type == "meta" for parameter in placed.parameters())
    for maps in (None, [list(pairs[1]), None], list(pairs.flip(0))):
        inputs = processor(images=pairs, semantic_maps=maps)
        assert torch.equal(placed.generate(**inputs), whole.generate(**inputs))
