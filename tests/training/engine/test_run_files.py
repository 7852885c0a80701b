"""What the user deletes, edits or puts into the folder of a run, and what kills leave there."""

import shutil

import pytest
import torch
from toys.runs import Steady, Stop, contents, keeping, log_of, stop_at
from toys.task import ToyTask, toy_recipe

from rscc_hf.errors import RecipeError, TrainingError
from rscc_hf.files import digest_file
from rscc_hf.formats.recipes import read_settings
from rscc_hf.training.engine import checkpoints, run_files
from rscc_hf.training.engine.loop import train
from rscc_hf.training.engine.recipe import recipe_to_yaml


def test_an_ended_run_whose_files_were_deleted_brings_them_back(tmp_path):
    recipe = keeping(tmp_path, max_epochs=None, max_steps=8)
    first = train(recipe, Steady)
    before = contents(tmp_path)
    for name in ("weights.pt", "last/weights.pt"):
        (tmp_path / name).unlink()
        again = train(recipe, Steady)
        after = contents(tmp_path)
        assert after[name] == before[name] and after.keys() == before.keys() and again.state == first.state
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "weights.pt").unlink()
    with pytest.raises(RecipeError, match=r"already holds a run that cannot be continued"):
        train(recipe, Steady)  # `last` is left, which is not to be lost
    shutil.rmtree(tmp_path / "last")
    assert train(recipe, Steady).state.step == 8  # nothing is left


def test_a_best_model_deleted_during_the_run_is_sought_anew(tmp_path, caplog):
    def delete(step, total, loss):
        if step == 8:
            (tmp_path / "weights.pt").unlink()

    with pytest.raises(TrainingError, match="holds no model at the end"):
        train(toy_recipe(tmp_path), Steady, on_step=delete)
    assert "was deleted: the checkpoint goes without it" in caplog.text
    assert train(toy_recipe(tmp_path), Steady).state.best_step == 18
    assert (tmp_path / "weights.pt").is_file()


def test_files_of_the_model_that_are_edited_during_the_run_spoil_no_checkpoint(tmp_path, caplog):
    class Edited(Steady):
        def save(self, folder):
            super().save(folder)
            (folder / "config.json").write_text("{}")

    def edit(step, total, loss):
        if step == 8:
            (tmp_path / "config.json").write_text('{"mine": 1}')
        if step == 14:
            raise Stop

    with pytest.raises(Stop):
        train(toy_recipe(tmp_path), Edited, on_step=edit)
    state = train(toy_recipe(tmp_path), Edited).state
    assert (state.step, state.best_step) == (18, 6) and "damaged" not in caplog.text
    assert (tmp_path / "config.json").read_text() == '{"mine": 1}'


def test_a_run_goes_on_where_only_the_best_model_of_its_checkpoints_is_damaged(tmp_path, caplog):
    """As where somebody saves into a file that all of them share by hard links."""
    with pytest.raises(Stop):
        train(toy_recipe(tmp_path), Steady, on_step=stop_at(14))
    for path in tmp_path.glob("checkpoints/*/best/weights.pt"):
        path.write_bytes(bytes(path.stat().st_size))
    result = train(toy_recipe(tmp_path), Steady)
    assert "step-00000012 is damaged: best/weights.pt is not what was written" in caplog.text
    assert "the best is sought anew" in caplog.text
    assert result.state.step == 18 and result.state.best_step == 18
    assert [entry["step"] for entry in log_of(tmp_path) if "loss" in entry] == list(range(1, 19))
    assert all(torch.isfinite(tensor).all() for tensor in torch.load(tmp_path / "weights.pt").values())


def test_digests_are_those_of_the_file_as_it_is_now(tmp_path):
    digest = checkpoints.Digests()
    (tmp_path / "file").write_text("one")
    (tmp_path / "link").hardlink_to(tmp_path / "file")
    assert digest(tmp_path / "file") == digest(tmp_path / "link") == digest_file(tmp_path / "file")
    (tmp_path / "other").write_text("two")
    (tmp_path / "other").replace(tmp_path / "file")
    assert digest(tmp_path / "file") == digest_file(tmp_path / "file") != digest(tmp_path / "link")


@pytest.mark.parametrize("copied", [False, True])
def test_an_ended_checkpoint_of_another_folder_or_name_becomes_one_of_this(tmp_path, copied):
    """Whole, so that the run there can be continued in its turn."""
    changes = {"max_epochs": None, "max_steps": 6}
    train(toy_recipe(tmp_path / "a", **changes), ToyTask)
    start, folder = tmp_path / "a" / "checkpoints" / "step-00000006", tmp_path / "b"
    if copied:
        folder = tmp_path / "a"
        start = start.rename(start.with_name("step-00000006-good"))
    before = contents(start)
    train(toy_recipe(folder, resume=str(start), **changes), ToyTask)
    assert contents(start) == before
    assert checkpoints.newest_complete(folder / "checkpoints") == folder / "checkpoints" / "step-00000006"
    assert train(toy_recipe(folder, **{**changes, "max_steps": 8}), ToyTask).state.step == 8


def test_the_end_of_a_run_makes_no_checkpoint(tmp_path, caplog):
    checkpoints.write_ending(tmp_path / "step-00000006", {})
    assert not list(tmp_path.iterdir()) and "step-00000006 was deleted meanwhile" in caplog.text


def test_what_a_kill_leaves_of_a_model_that_arrived_is_cleared(tmp_path):
    (tmp_path / run_files.COMPLETE_MODEL / "inner").mkdir(parents=True)
    assert train(toy_recipe(tmp_path, max_epochs=1), ToyTask).state.step == 6
    assert not (tmp_path / run_files.COMPLETE_MODEL).exists()


def test_places_of_the_wrong_kind_are_refused_before_the_first_step(tmp_path):
    pytest.importorskip("tensorboard")
    files = ("checkpoints", "last", "tracker", run_files.PARTIAL_MODEL, run_files.COMPLETE_MODEL)
    folders = ("model.safetensors", "config.json", "recipe.yaml", "training_log.jsonl", "last/config.json")
    cases = [(name, f"{name} is no folder, and training writes one there; move it") for name in files]
    cases += [(name, f"{name} is a folder, and training writes a file there; move it") for name in folders]
    cases += [("last/model.safetensors", r"last holds model\.safetensors, which no training run wrote")]
    steps = []
    for name, message in cases:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True)
        if name in folders:
            path.mkdir()
        else:
            path.write_text("mine")
        with pytest.raises(RecipeError, match=message):
            train(keeping(tmp_path / "run", tracker="tensorboard"), ToyTask, on_step=lambda *now: steps.append(now))
        assert path.is_dir() if name in folders else path.read_text() == "mine"
    assert not steps
    (tmp_path / "run" / "last" / "model.safetensors").rename(tmp_path / "run" / "tracker")
    assert train(toy_recipe(tmp_path / "run", max_epochs=1), ToyTask).state.step == 6  # which writes no such folder


def test_a_tracker_that_cannot_be_started_costs_no_old_run(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    train(toy_recipe(tmp_path, max_epochs=1, tracker="tensorboard"), ToyTask)
    before = contents(tmp_path)
    again = toy_recipe(tmp_path, resume="never", overwrite=True, max_epochs=2, tracker="tensorboard")

    def fail(self, name, config):
        (tmp_path / "tracker" / "events.out.tfevents.new").write_text("half")
        raise ValueError("not logged in")

    with monkeypatch.context() as patch:
        patch.setattr("accelerate.Accelerator.init_trackers", fail)
        with pytest.raises(RecipeError, match=r"tracker tensorboard cannot be started \(ValueError: not logged in\)"):
            train(again, ToyTask)
    assert contents(tmp_path) == before
    train(again, ToyTask)
    events = {name for name in contents(tmp_path) if "tfevents" in name}
    assert events and not events & before.keys()


def test_a_recipe_by_hand_in_the_folder_stays_or_is_refused(tmp_path):
    text = f"# mine\noutput_dir: {tmp_path}\nmax_epochs: 1\ncpu: true\nmixed_precision: auto\nlearning_rate: 5e-2\n"
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    (tmp_path / "vocab.json").write_text("mine")
    changes = {"resume": "never", "overwrite": True, "global_batch_size": 32, "per_device_batch_size": 32}
    with pytest.raises(RecipeError, match=r"recipe\.yaml is of no run in that folder, and training would write its"):
        train(toy_recipe(tmp_path, max_epochs=2, **changes), ToyTask)
    for _ in range(2):  # the second deletes a run, and not what was there before it
        train(toy_recipe(tmp_path, max_epochs=1, **changes), ToyTask)
        assert path.read_text() == text and (tmp_path / "vocab.json").read_text() == "mine"
        assert (tmp_path / "weights.pt").is_file()


def test_a_recipe_by_hand_that_has_a_base_is_replaced_by_all_keys(tmp_path, caplog):
    folder, mine = tmp_path / "run", tmp_path / "mine.yaml"
    recipe = toy_recipe(folder, max_epochs=1)
    mine.write_text(recipe_to_yaml(recipe))
    folder.mkdir()
    (folder / "recipe.yaml").write_text("base: ../mine.yaml\nmax_epochs: 1\n")
    train(recipe, ToyTask)
    assert "is replaced by every key as it is used" in caplog.text
    settings = read_settings(folder)
    assert "base" not in settings and settings["max_epochs"] == 1
    mine.unlink()
    caplog.clear()
    train(recipe, ToyTask)  # goes on
    assert "is replaced" not in caplog.text
