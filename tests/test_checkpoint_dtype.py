"""The number format that a checkpoint is loaded in: as saved, or float32 where that is emulated and there is room."""

import json
import shutil

import pytest
import torch

from rscc_hf import ChangeCaptioner, MModalCCForConditionalGeneration, precision, trial
from rscc_hf.checkpoint import load_checkpoint
from rscc_hf.precision import quick_dtype

CPU = torch.device("cpu")
SAVED = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@pytest.fixture(scope="module")
def saved(tiny_checkpoints, tmp_path_factory):
    """A checkpoint in each format, with its processor."""
    folders = {}
    for name, dtype in SAVED.items():
        folders[name] = tmp_path_factory.mktemp("saved") / name
        shutil.copytree(tiny_checkpoints["optional"], folders[name])
        model = MModalCCForConditionalGeneration.from_pretrained(folders[name], dtype=torch.float32)
        model.to(dtype).save_pretrained(folders[name])
    return folders


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "rscc_hf.checkpoint"]


@pytest.mark.parametrize("given", [None, "auto"])
@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_auto_leaves_a_format_that_is_emulated(saved, caplog, fake_trial, name, given, files_of_a_pair):
    """And its answers are those of the same weights in float32, asked for by name."""
    fake_trial(15.0)
    captioner = ChangeCaptioner.from_pretrained(saved[name], device="cpu", dtype=given)
    assert captioner.model.dtype == torch.float32
    assert warnings_of(caplog) == [
        f"{saved[name]}: it is saved in {name}, and {name} is emulated here and takes 15.0 times as long as float32 ("
        f"a product and a convolution take 2.0 ms in float32 and 30.0 ms in {name} on cpu): loaded in float32 (dtype "
        f"{name} loads it as it is saved)."
    ]
    caplog.clear()
    asked = ChangeCaptioner.from_pretrained(saved[name], device="cpu", dtype="float32")
    assert not warnings_of(caplog)
    for key, tensor in asked.model.state_dict().items():
        assert torch.equal(tensor, captioner.model.state_dict()[key])
    assert captioner(*files_of_a_pair) == asked(*files_of_a_pair)


def test_auto_keeps_a_format_that_pays(saved, caplog, fake_trial):
    fake_trial(0.7)
    assert load_checkpoint(saved["bfloat16"], device="cpu").model.dtype == torch.bfloat16
    assert not caplog.records


def test_float32_is_not_tried(saved, caplog, monkeypatch):
    """Loading an ordinary checkpoint costs nothing more than it did."""
    monkeypatch.setattr("rscc_hf.precision.try_dtype", None)
    monkeypatch.setattr("rscc_hf.checkpoint.try_dtype", None)
    assert load_checkpoint(saved["float32"], device="cpu").model.dtype == torch.float32
    assert load_checkpoint(saved["bfloat16"], device="cpu", dtype="float32").model.dtype == torch.float32
    assert not caplog.records


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_what_is_asked_for_is_taken_with_a_sentence(saved, caplog, fake_trial, name):
    fake_trial(15.0)
    for where in ("float32", name):
        caplog.clear()
        assert load_checkpoint(saved[where], device="cpu", dtype=name).model.dtype == SAVED[name]
        [sentence] = warnings_of(caplog)
        assert sentence.startswith(f"dtype {name}: {name} is emulated here and takes 15.0 times as long as float32 (a")
        assert sentence.endswith("; give float32 where it fits into memory.")
    fake_trial(0.7)
    caplog.clear()
    load_checkpoint(saved["float32"], device="cpu", dtype=name)
    assert not caplog.records


def test_what_does_not_fit_stays_as_it_is_saved(saved, caplog, fake_trial, monkeypatch):
    """A model of 7 billion numbers has 14 GB in bfloat16 and 28 GB in float32."""
    fake_trial(15.0)
    monkeypatch.setattr(precision, "free_memory", lambda device: 30e9)
    dtype, why = quick_dtype(torch.bfloat16, lambda: 14e9, CPU)
    assert dtype == torch.bfloat16
    assert why.endswith("): float32 would need 35.0 GB and 30.0 GB are free, so it is loaded as it is saved")
    assert quick_dtype(torch.bfloat16, lambda: 1e9, CPU)[0] == torch.float32
    monkeypatch.setattr(precision, "free_memory", lambda device: 1000)
    assert load_checkpoint(saved["bfloat16"], device="cpu").model.dtype == torch.bfloat16
    [sentence] = warnings_of(caplog)
    assert "GB are free, so it is loaded as it is saved." in sentence


def test_the_size_is_that_of_the_file_or_of_the_index(saved, tmp_path):
    """Shards are counted by their index; what has no weights is infinite, and loading says so."""
    from rscc_hf.checkpoint import _weight_bytes

    whole = (saved["bfloat16"] / "model.safetensors").stat().st_size
    assert _weight_bytes(str(saved["bfloat16"]), None) == whole
    model = MModalCCForConditionalGeneration.from_pretrained(saved["bfloat16"], dtype="auto")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").is_file()
    assert 0.8 * whole < _weight_bytes(str(tmp_path / "shards"), None) <= whole
    shutil.copy(saved["bfloat16"] / "config.json", tmp_path)
    assert _weight_bytes(str(tmp_path), None) == float("inf")


@pytest.mark.parametrize("shards", [False, True])
def test_a_configuration_that_does_not_say_the_format(saved, tmp_path, caplog, fake_trial, shards):
    """Then it is that of the first tensor, as for transformers."""
    fake_trial(15.0)
    folder = tmp_path / "silent"
    shutil.copytree(saved["bfloat16"], folder)
    if shards:
        model = MModalCCForConditionalGeneration.from_pretrained(saved["bfloat16"], dtype="auto")
        (folder / "model.safetensors").unlink()
        model.save_pretrained(folder, max_shard_size="20KB")
    config = json.loads((folder / "config.json").read_text())
    assert config.pop("dtype") == "bfloat16"
    (folder / "config.json").write_text(json.dumps(config))
    assert load_checkpoint(folder, device="cpu").model.dtype == torch.float32
    assert len(warnings_of(caplog)) == 1
    fake_trial(0.7)
    assert load_checkpoint(folder, device="cpu").model.dtype == torch.bfloat16


def test_free_memory_is_that_of_the_machine_or_of_the_container(tmp_path):
    assert 0 < precision.free_memory(CPU) <= precision.psutil.virtual_memory().total
    assert precision._left_to_container(tmp_path) == float("inf")
    old = tmp_path / "memory"
    old.mkdir()
    (old / "memory.limit_in_bytes").write_text("1000\n")
    (old / "memory.usage_in_bytes").write_text("700\n")
    (old / "memory.stat").write_text("cache 250\ntotal_inactive_file 200\n")
    assert precision._left_to_container(tmp_path) == 500
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 100\n")
    assert precision._left_to_container(tmp_path) == float("inf")
    (tmp_path / "memory.max").write_text("800\n")
    assert precision._left_to_container(tmp_path) == 200


def test_a_conversion_tries_its_result_in_what_is_quick(saved, fake_trial, monkeypatch):
    """Of float16 it must see overflows, so that it stays."""
    fake_trial(15.0)
    found = {name: trial._dtype_to_try(folder) for name, folder in saved.items()}
    assert found == {"bfloat16": "float32", "float16": "auto", "float32": "auto"}
    monkeypatch.setattr(precision, "free_memory", lambda device: 1000)
    assert trial._dtype_to_try(saved["bfloat16"]) == "auto"
    fake_trial(0.7)
    assert trial._dtype_to_try(saved["bfloat16"]) == "auto"
    assert trial._dtype_to_try(saved["bfloat16"].parent) == "auto"


@pytest.fixture
def files_of_a_pair(write_image, tmp_path):
    return write_image(tmp_path / "a.png", seed=1), write_image(tmp_path / "b.png", seed=2)
