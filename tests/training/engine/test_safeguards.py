"""What would end in weights that nobody can use, or in none, is found in time."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from toys.task import ToyTask, toy_recipe

from rscc_hf.errors import RecipeError, TrainingError
from rscc_hf.training.engine.loop import train


def test_statistics_that_are_no_numbers_are_saved_nowhere(tmp_path):
    """A buffer that is not saved, as a mask with infinities, may have them."""
    tasks = []

    def build(recipe, accelerator):
        task = ToyTask(recipe, accelerator)
        task.model.norm.register_buffer("mask", torch.full((2,), -torch.inf), persistent=False)
        tasks.append(task)
        return task

    train(toy_recipe(tmp_path / "good", batch_norm=True, max_epochs=1), build)

    def on_step(step, total, loss):
        tasks[-1].model.norm.running_var[0] = float("inf")

    with pytest.raises(TrainingError, match=r"not finite after step 6 \(first norm\.running_var\)"):
        train(toy_recipe(tmp_path / "bad", batch_norm=True), build, on_step=on_step)
    assert not list((tmp_path / "bad").rglob("weights.pt")) and not list((tmp_path / "bad").rglob("step-*"))


def test_room_is_that_of_what_is_written_and_of_what_is_deleted(tmp_path, monkeypatch):
    def disk(free, total=10**12):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free, total=total))

    again = {"max_epochs": 1, "resume": "never", "overwrite": True, "eval_unit": "never"}
    train(toy_recipe(tmp_path, max_epochs=2), ToyTask)
    disk(100)
    with pytest.raises(RecipeError, match="the model of this run need"):
        train(toy_recipe(tmp_path / "new", max_epochs=1, save_unit="never"), ToyTask)
    disk(0, total=0)  # the file system does not say
    train(toy_recipe(tmp_path / "unknown", max_epochs=1, save_unit="never"), ToyTask)
    disk(0)
    kept = tmp_path / "kept"
    kept.mkdir()
    run = [tmp_path / "weights.pt", *(tmp_path / "checkpoints").rglob("*.*")]
    for number, path in enumerate(run):
        (kept / str(number)).hardlink_to(path)
    with pytest.raises(RecipeError, match="a model and a checkpoint of this run need"):  # nothing would be set free
        train(toy_recipe(tmp_path, **again), ToyTask)
    shutil.rmtree(kept)
    assert train(toy_recipe(tmp_path, **again), ToyTask).state.step == 6

    class Small(ToyTask):
        def saved_bytes(self):
            return 50

    disk(100)
    train(toy_recipe(tmp_path / "small", max_epochs=1, save_unit="never"), Small)
