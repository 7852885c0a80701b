"""What a stage starts from: whatever is wrong with it is one sentence before the first step."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from toys.ccexpert_stages import save_llava, save_start, stage_recipe

from rscc_hf.errors import RecipeError
from rscc_hf.training.systems.ccexpert.samples import PromptedBatchMaker
from rscc_hf.training.systems.ccexpert.start import load_start

MODULE = {"vision_levels": [1, 2], "num_integration_layers": 1}


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("starts")
    save_start(folder / "ours")
    save_llava(folder / "llava")
    return folder


def begin(start, **changes):
    recipe = stage_recipe("", None if start is None else str(start), "unused", **changes)
    model, processor = load_start(recipe)
    PromptedBatchMaker(processor, recipe.seed, max_length=recipe.max_length)
    return model


def setting(**values):
    def spoil(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return spoil


def deleted(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def cut(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:1000])


def pickled(folder):
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


DAMAGES = [
    ("ours", deleted("processor_config.json"), {}, r"holds no processor \(processor_config\.json is missing\)"),
    ("ours", deleted("tokenizer.json", "tokenizer_config.json"), {}, "cannot be read"),
    ("ours", lambda folder: (folder / "tokenizer.json").write_text('{"model": {}}'), {}, "cannot be read"),
    ("ours", deleted("model.safetensors"), {}, "cannot be read"),
    ("ours", pickled, {}, "cannot be read"),
    ("ours", cut("model.safetensors"), {}, "cannot be read"),
    ("ours", cut("config.json"), {}, "cannot be read"),
    ("ours", lambda folder: (folder / "config.json").write_text("[]"), {}, "cannot be read"),
    ("ours", lambda folder: (folder / "chat_template.jinja").write_text("{% for"), {}, "chat template .* cannot be"),
    ("ours", setting(vision=7), {}, "cannot be read"),
    ("ours", setting(integration_ffn_dim=3), {}, "has missing or foreign weights, first integration"),
    ("ours", setting(image_token_id=3), {}, "the id of <image> is 383 in one and 3 in the other"),
    ("ours", setting(model_type="mmodalcc"), {}, "is a mmodalcc; name a ccexpert"),
    ("ours", setting(model_type="of_tomorrow"), {}, "cannot be read"),
    ("ours", setting(quantization_config={"quant_method": "bitsandbytes"}), {}, "was saved quantised"),
    ("llava", deleted("tokenizer.json", "tokenizer_config.json"), MODULE, "cannot be read"),
    ("llava", cut("model.safetensors"), MODULE, "cannot be read"),
    ("llava", setting(image_token_id=3), MODULE, "the tokenizer has <image> at 383"),
]


@pytest.mark.parametrize("number", range(len(DAMAGES)))
def test_a_damaged_start_is_one_sentence(number, starts, tmp_path):
    kind, spoil, changes, sentence = DAMAGES[number]
    shutil.copytree(starts / kind, tmp_path / "start")
    spoil(tmp_path / "start")
    with pytest.raises(ValueError, match=sentence) as caught:
        begin(tmp_path / "start", **changes)
    assert "\n" not in str(caught.value) and str(tmp_path / "start") in str(caught.value)


MISTAKES = [
    ("ours", {"init_revision": "v1"}, "init_revision v1 is of a checkpoint on the Hub and .* is a folder"),
    ("ours/config.json", {}, r"config\.json is a file; name the folder"),
    ("ours", {"prompt": "what changed?"}, "prompt is 'what changed"),
    ("ours", {"num_integration_layers": 3}, "num_integration_layers is 3 in the recipe and 1 in"),
    ("ours", {"max_length": 9}, "max_length is 9 and the prompt"),
    ("llava", {}, "choose vision_levels"),
    ("llava", {**MODULE, "vision_levels": [2, 1]}, r"vision_levels=\[2, 1\] must be"),
    ("llava", {**MODULE, "integration_attention_heads": 3}, "integration_attention_heads=3 must divide"),
    ("llava", {**MODULE, "integration": False}, "num_integration_layers is of the module, which .* without"),
    (
        "llava",
        {"vision_levels": [1, 2], "integration": False, "trained_parts": ["integration"]},
        "has no module; name a part that is there",
    ),
    ("llava", {**MODULE, "attn_implementation": "flash_attention_2"}, "needs a GPU and `pip install flash-attn`"),
]


@pytest.mark.parametrize(("name", "changes", "sentence"), MISTAKES, ids=[case[2] for case in MISTAKES])
def test_a_recipe_that_contradicts_its_start(name, changes, sentence, starts):
    with pytest.raises(ValueError, match=sentence):
        begin(starts / name, **changes)


@pytest.mark.parametrize("where", ["org/absent", "outputs/stage1", "absent"])
def test_neither_folder_nor_checkpoint(where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(
        RecipeError, match=f"init_from {where}: there is no such folder.*; run the stage before, or name another"
    ):
        begin(where)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"lora_alpha": 8.0}, "lora_alpha is 8.0 and there are no adapters; set lora_rank, or leave lora_alpha out"),
        ({"lora_dropout": 0.1}, "lora_dropout is 0.1 and there are no adapters"),
        ({"lora_target_modules": ["q_proj"]}, "there are no adapters"),
        ({"lora_rank": 2, "lora_alpha": 0.0}, "lora_alpha is 0, a scale with which adapters learn nothing"),
    ],
)
def test_settings_of_adapters(changes, sentence):
    with pytest.raises(RecipeError, match=sentence):
        stage_recipe("", "start", Path("unused"), **changes)


def test_keys_without_effect_are_told():
    recipe = stage_recipe("", "start", "unused", trained_parts=["integration"], projector_learning_rate_ratio=2.0)
    assert recipe.idle() == ["projector_learning_rate_ratio is 2.0 and has no effect: projector does not learn."]
    adapted = stage_recipe("", "start", "unused", lora_rank=2)
    assert adapted.idle() == [
        "vision_tower is among trained_parts and stays frozen: with lora_rank it does not learn."
    ]
    assert stage_recipe("", "start", "unused").idle() == []


def test_words_that_a_llava_lacks_are_the_mean_of_its_own(tmp_path):
    """So they are the same whenever adapters are loaded; they were random."""
    start = save_llava(tmp_path, few_words=True)
    models = [begin(start, **MODULE, seed=seed) for seed in (1, 2)]
    old = models[0].config.text.vocab_size - 3
    for layer in ("get_input_embeddings", "get_output_embeddings"):
        one, other = (getattr(model, layer)().weight for model in models)
        assert torch.equal(one, other)
        torch.testing.assert_close(one[old:], one[:old].mean(dim=0, keepdim=True).expand(3, -1))
    assert not torch.equal(models[0].integration.expert.layers[0].mlp.lin1.weight,
                           models[1].integration.expert.layers[0].mlp.lin1.weight)  # fmt: skip
