"""Adapters come back as the model that was trained, wherever its base lies now, or are refused in one sentence."""

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from toys.ccexpert_stages import save_llava, save_start, stage_recipe
from transformers import AutoModel

from rscc_hf import ChangeCaptioner
from rscc_hf.errors import RecipeError
from rscc_hf.formats.records import AdapterBase
from rscc_hf.training.systems.ccexpert import adapters
from rscc_hf.training.systems.ccexpert.adapter_base import describe_base, weights_digest
from rscc_hf.training.systems.ccexpert.adapters import load_adapters, main, merge_adapters
from rscc_hf.training.systems.ccexpert.parts import prepare_to_learn
from rscc_hf.training.systems.ccexpert.start import find_start, load_start

MODULE = {"vision_levels": [1, 2], "num_integration_layers": 1}
STARTS = {
    "ccexpert": {},
    "ccexpert, module frozen": {"trained_parts": ["language_model"]},
    "llava": {**MODULE, "integration_attention_heads": 2, "integration_ffn_dim": 24, "integration_gate": False},
    "llava, module frozen": {**MODULE, "trained_parts": ["projector", "language_model"]},
    "llava, only adapters": {**MODULE, "trained_parts": ["language_model"], "lora_target_modules": ["q_proj"]},
    "llava without module": {"vision_levels": [1, 2], "integration": False},
    "llava of few words": MODULE,
}


def trained(start: str, folder: Path, **changes) -> torch.nn.Module:
    """Saves adapters as a run leaves them, without a run: whatever learns has other values than at the start."""
    recipe = stage_recipe("", start, folder, **{"lora_rank": 2, **changes})
    found = find_start(recipe)
    model, processor = load_start(recipe, adapters.quantization(recipe.quantization, "float32"))
    model = prepare_to_learn(model, recipe, found)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    adapters.save_adapters(model, folder, model.state_dict(), describe_base(found, recipe))
    processor.save_pretrained(folder)
    return model


def logits(model) -> torch.Tensor:
    """Of a prompt with a caption, on images of noise."""
    processor = logits.processor
    ids = torch.tensor(processor(captions=["two houses appear"], return_tensors=None)["input_ids"])
    images = torch.randn(1, 2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.eval()(pixel_values=images, input_ids=ids).logits


@pytest.fixture(scope="module", autouse=True)
def starts(tmp_path_factory):
    from toys.ccexpert import tiny_processor

    logits.processor = tiny_processor()
    folder = tmp_path_factory.mktemp("starts")
    save_start(folder / "ccexpert")
    save_llava(folder / "llava")
    save_llava(folder / "few", few_words=True)
    return folder


@pytest.fixture
def run(starts, tmp_path):
    """A tree of a base and adapters, to spoil; and the logits."""
    shutil.copytree(starts / "ccexpert", tmp_path / "tree" / "base")
    model = trained(str(tmp_path / "tree" / "base"), tmp_path / "tree" / "run")
    return tmp_path / "tree" / "run", logits(model)


@pytest.mark.parametrize("name", STARTS)
def test_what_is_loaded_and_what_is_merged_answers_as_what_was_trained(name, starts, tmp_path):
    start = starts / ("few" if "few" in name else name.split()[0].strip(","))
    expected = logits(trained(str(start), tmp_path / "run", **STARTS[name]))
    loaded, processor = load_adapters(tmp_path / "run")
    assert torch.equal(logits(loaded), expected) and processor.num_image_tokens == 4
    merged = AutoModel.from_pretrained(merge_adapters(tmp_path / "run", tmp_path / "merged"))
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)
    if name.startswith("ccexpert"):  # peft by itself, too
        plain = PeftModel.from_pretrained(AutoModel.from_pretrained(start), tmp_path / "run")
        assert torch.equal(logits(plain), expected)


@pytest.mark.parametrize("revision", ["v1", "b" * 40])
def test_the_base_is_of_the_commit_that_was_trained_on(revision, starts, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--org--cc"
    (repository / "refs").mkdir(parents=True)
    for name, commit in (("main", "a" * 40), ("v1", "b" * 40)):
        (repository / "refs" / name).write_text(commit)
        shutil.copytree(starts / "ccexpert", repository / "snapshots" / commit)
    weights = repository / "snapshots" / ("a" * 40) / "model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    expected = logits(trained("org/cc", tmp_path / "run", init_revision=revision))
    assert json.loads((tmp_path / "run" / "adapter_config.json").read_text())["revision"] == "b" * 40
    (repository / "refs" / "v1").write_text("a" * 40)  # a branch moves on
    assert torch.equal(logits(load_adapters(tmp_path / "run")[0]), expected)
    main([str(tmp_path / "run"), str(tmp_path / "merged")])
    torch.testing.assert_close(logits(AutoModel.from_pretrained(tmp_path / "merged")), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(load_adapters(tmp_path / "run", "org/cc")[0]), expected)
    shutil.rmtree(repository / "snapshots" / ("b" * 40))
    with pytest.raises(RecipeError, match="org/cc: there is no such folder, and on the Hub it cannot be found now"):
        load_adapters(tmp_path / "run")


def test_the_base_is_found_where_it_went(run, starts, tmp_path):
    folder, expected = run
    (folder / "last").mkdir()
    for path in [path for path in folder.iterdir() if path.is_file()]:
        shutil.copy(path, folder / "last")
    moved = tmp_path / "elsewhere"
    folder.parent.rename(moved)
    assert torch.equal(logits(load_adapters(moved / "run")[0]), expected)  # side by side as before
    assert torch.equal(logits(load_adapters(moved / "run" / "last")[0]), expected)
    (moved / "base").rename(tmp_path / "base")
    with pytest.raises(ValueError, match=r"belong to .*base, where no model is; say where it lies now \(--base\)"):
        load_adapters(moved / "run")
    assert torch.equal(logits(load_adapters(moved / "run", str(tmp_path / "base"))[0]), expected)
    AutoModel.from_pretrained(tmp_path / "base").save_pretrained(tmp_path / "sharded", max_shard_size="30KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert torch.equal(logits(load_adapters(moved / "run", str(tmp_path / "sharded"))[0]), expected)
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere to take for what the adapters"):
        load_adapters(moved / "run", str(tmp_path / "nowhere"))


def test_a_base_with_other_weights_is_refused(run):
    folder, _ = run
    weights = folder.parent / "base" / "model.safetensors"
    tensors = load_file(weights)
    tensors["lm_head.weight"][3, 3] += 1e-3
    save_file(tensors, weights, {"format": "pt"})
    sentence = r"were trained on .*base, and the weights in .*base are others; say where those lie"
    with pytest.raises(ValueError, match=sentence):
        load_adapters(folder)
    with pytest.raises(ValueError, match=sentence):
        load_adapters(folder, str(folder.parent / "base"))


def test_the_settings_are_those_of_the_training(run):
    """Whatever was written into the base's config.json since then."""
    folder, expected = run
    path = folder.parent / "base" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "integration_hidden_act": "relu"}))
    assert torch.equal(logits(load_adapters(folder)[0]), expected)


def test_a_folder_of_adapters_is_no_whole_model(run, tmp_path):
    folder, _ = run
    for load in (AutoModel, ChangeCaptioner):
        with pytest.raises(ValueError, match=r"^.*run holds adapters .* and no whole model; write one with `python"):
            load.from_pretrained(folder)
    merge_adapters(folder, tmp_path / "merged")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(folder / name, tmp_path / "merged")
    for load in (AutoModel, ChangeCaptioner):
        with pytest.raises(ValueError, match="merged holds a whole model and adapters"):
            load.from_pretrained(tmp_path / "merged")
    with pytest.raises(ValueError, match="holds a whole model and adapters"):
        load_adapters(tmp_path / "merged")


def test_a_merged_model_is_replaced_when_that_is_asked_for_and_nothing_else_is(run, tmp_path):
    folder, expected = run
    out = tmp_path / "merged"
    merge_adapters(folder, out)
    (folder / "training_summary.json").write_text("{}")
    with pytest.raises(ValueError, match="merged exists; choose another folder or --overwrite it"):
        merge_adapters(folder, out)
    merge_adapters(folder, out, overwrite=True)
    assert (out / "training_summary.json").is_file()
    main([str(folder), str(out), "--overwrite"])
    torch.testing.assert_close(logits(AutoModel.from_pretrained(out)), expected, rtol=1e-4, atol=1e-4)
    (out / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds mine\.txt beside the merged model, so it is not replaced"):
        merge_adapters(folder, out, overwrite=True)
    for read in (folder.parent, folder.parent / "base"):
        with pytest.raises(ValueError, match="would be overwritten"):
            merge_adapters(folder, read, overwrite=True)
    assert (folder.parent / "base" / "model.safetensors").is_file()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without(path: Path, wanted: str) -> None:
    tensors = load_file(path)
    del tensors[next(name for name in tensors if wanted in name)]
    save_file(tensors, path)


def renamed(path: Path) -> None:
    save_file({f"{name}.x": tensor for name, tensor in load_file(path).items()}, path)


def setting(name, value):
    return lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))


WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
DAMAGES = [
    (WEIGHTS, cut, "cannot be read"),
    (WEIGHTS, Path.unlink, "holds no adapter_model"),
    (WEIGHTS, lambda path: without(path, "lora_A"), "adapter_model.safetensors lacks"),
    (WEIGHTS, lambda path: without(path, "integration"), "adapter_model.safetensors lacks|cannot be read"),
    (WEIGHTS, renamed, "adapter_model.safetensors|cannot be read"),
    (CONFIG, cut, "cannot be read"),
    (CONFIG, lambda path: path.write_text("[]"), "cannot be read"),
    (CONFIG, setting("peft_type", "OF_TOMORROW"), "cannot be read"),
    (CONFIG, setting("peft_type", "IA3"), "cannot be read"),
    (CONFIG, setting("r", 3), "cannot be read"),
    (CONFIG, setting("use_lora_of_tomorrow", True), r"has use_lora_of_tomorrow, which peft .* does not know"),
    (CONFIG, setting("target_modules", "language_model.*k_proj"), "adapter_model.safetensors has too much|cannot be"),
    ("config.json", cut, "cannot be read"),
    ("config.json", setting("integration_ffn_dim", 8), "cannot be read|missing or foreign weights"),
    ("config.json", setting("vision_levels", [1]), "cannot be read|missing or foreign weights"),
    ("tokenizer.json", cut, "cannot be read"),
    ("tokenizer.json", Path.unlink, "cannot be read"),
    ("processor_config.json", setting("num_image_tokens", 9), "num_image_tokens is 9 in one and 4 in the other"),
    (AdapterBase.NAME, cut, "adapter_base.json is damaged"),
    (AdapterBase.NAME, setting("weights", 3), "adapter_base.json is damaged"),
    (AdapterBase.NAME, Path.unlink, r"adapter_base.json is missing, which says .*; name that model \(--base\)"),
]


def test_damaged_files_are_one_sentence(run, tmp_path, capsys):
    folder, expected = run
    for name, damage, sentence in DAMAGES:
        spoilt = tmp_path / "tree" / "spoilt"
        shutil.rmtree(spoilt, ignore_errors=True)
        shutil.copytree(folder, spoilt)
        damage(spoilt / name)
        with pytest.raises(ValueError, match=sentence) as caught:
            load_adapters(spoilt)
        assert "\n" not in str(caught.value), name
    with pytest.raises(SystemExit, match=r"adapters\.py: .*adapter_base\.json is missing"):
        main([str(spoilt), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    # the user names it
    assert torch.equal(logits(load_adapters(spoilt, str(tmp_path / "tree" / "base"))[0]), expected)


def test_the_digest_is_of_values_not_of_files(starts, tmp_path):
    here = weights_digest(str(starts / "ccexpert"), None)
    single = {
        name: sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode() + tensor.numpy().tobytes()).hexdigest()
        for name, tensor in load_file(starts / "ccexpert" / "model.safetensors").items()
    }
    assert here == sha256(json.dumps(single, sort_keys=True).encode()).hexdigest()  # which records of old runs hold
    AutoModel.from_pretrained(starts / "ccexpert").save_pretrained(tmp_path / "again", max_shard_size="20KB")
    assert weights_digest(str(tmp_path / "again"), None) == here
    AutoModel.from_pretrained(starts / "ccexpert").bfloat16().save_pretrained(tmp_path / "rounded")
    assert weights_digest(str(tmp_path / "rounded"), None) != here
