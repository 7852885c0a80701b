"""A folder belongs to one run: what it holds where runs are continued, refused or overwritten."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from toys.runs import Steady, Stop, contents, keeping, log_of, stop_at
from toys.task import ToyTask, toy_recipe

from rscc_hf.errors import RecipeError, TrainingError
from rscc_hf.files import digest_file
from rscc_hf.training.engine import checkpoints, run_files, stopwatch
from rscc_hf.training.engine.loop import train
from rscc_hf.training.engine.run_folder import RunFolder
from rscc_hf.training.engine.script import run_script


@pytest.mark.parametrize("first", [6, 8])
@pytest.mark.parametrize("task", [ToyTask, Steady])
@pytest.mark.parametrize("unit", [{}, {"eval_unit": "steps", "eval_every": 5, "save_unit": "steps", "save_every": 5}])
def test_a_longer_run_equals_one_that_was_long_from_the_start(tmp_path, first, task, unit):
    """Bit for bit: weights, best model, patience, rates, log; at the end of an epoch (6) and within one (8)."""
    changes = {"max_epochs": None, "lr_decay": 0.5, "lr_decay_patience": 1, "dropout": 0.3, **unit}
    train(keeping(tmp_path / "parts", max_steps=first, **changes), task)
    parts = train(keeping(tmp_path / "parts", max_steps=20, **changes), task)
    whole = train(keeping(tmp_path / "whole", max_steps=20, **changes), task)
    assert parts.state == whole.state
    assert log_of(tmp_path / "parts") == log_of(tmp_path / "whole")
    one, other = (contents(tmp_path / name) for name in ("parts", "whole"))
    assert one["weights.pt"] == other["weights.pt"]
    assert one.get("last/weights.pt") == other.get("last/weights.pt")
    newest = "checkpoints/step-00000020"
    for name in ("model.safetensors", "optimizer.pt", "best/weights.pt"):
        assert one[f"{newest}/{name}"] == other[f"{newest}/{name}"]


def test_a_longer_run_keeps_its_warm_up_or_is_refused(tmp_path):
    changes = {"max_epochs": None, "warmup_ratio": 0.1}
    train(toy_recipe(tmp_path, max_steps=6, **changes), ToyTask)
    assert train(toy_recipe(tmp_path, max_steps=14, **changes), ToyTask).state.step == 14  # one step of warm-up too
    with pytest.raises(RecipeError, match=r"warmup_ratio 0\.1 makes 2 steps .* of 20 steps, and made 1 in .*00014"):
        train(toy_recipe(tmp_path, max_steps=20, **changes), ToyTask)


def test_an_epoch_that_ends_with_the_run_counts(tmp_path):
    state = train(toy_recipe(tmp_path, max_epochs=None, max_steps=6), ToyTask).state
    assert (state.step, state.epoch, state.evaluated_step) == (6, 1, 6)


def test_an_ended_run_is_left_as_it_is(tmp_path):
    """Also where its last evaluation was an extra one, which is not made again."""
    recipe = keeping(tmp_path, max_epochs=None, max_steps=8)
    first = train(recipe, ToyTask)
    before = contents(tmp_path)
    evaluations = []
    again = train(recipe, ToyTask, on_evaluation=evaluations.append)
    assert contents(tmp_path) == before and not evaluations and again.state == first.state


def test_going_on_in_another_folder_brings_the_best_model_and_the_log(tmp_path):
    train(toy_recipe(tmp_path / "a", max_epochs=1), Steady)
    start = str(tmp_path / "a" / "checkpoints" / "step-00000006")
    result = train(toy_recipe(tmp_path / "b", resume=start), Steady)
    assert (result.state.step, result.state.best_step) == (18, 6)
    assert digest_file(tmp_path / "b" / "weights.pt") == digest_file(tmp_path / "a" / "weights.pt")
    assert [entry["step"] for entry in log_of(tmp_path / "b") if "loss" in entry] == list(range(1, 19))
    with pytest.raises(RecipeError, match=r"b already holds a run \(its checkpoint step-00000018\), and .* of an"):
        train(toy_recipe(tmp_path / "b", resume=start), Steady)


def test_going_on_in_another_folder_can_itself_be_killed(tmp_path):
    train(toy_recipe(tmp_path / "a", max_epochs=1), Steady)
    recipe = toy_recipe(tmp_path / "b", resume=str(tmp_path / "a" / "checkpoints" / "step-00000006"))
    with pytest.raises(Stop):
        train(recipe, Steady, on_step=stop_at(8))
    assert train(recipe, Steady).state.step == 18


def test_going_back_drops_what_came_later_and_nothing_of_the_users(tmp_path, caplog):
    changes = {"max_epochs": None, "save_unit": "steps"}
    train(toy_recipe(tmp_path, max_steps=8, keep_checkpoints=8, **changes), ToyTask)
    folder = tmp_path / "checkpoints"
    for name in ("step-00000006-good", "step-6", "step-000000099", "notes", ".partial-mine"):
        (folder / name).mkdir()
    (folder / "step-00000077").write_text("a file")
    kept = {path.name for path in folder.iterdir() if path.name not in checkpoints.steps_in(folder)} - {
        path.name for path in checkpoints.steps_in(folder).values()
    }
    result = train(toy_recipe(tmp_path, max_steps=4, resume=str(folder / "step-00000002"), **changes), ToyTask)
    assert "deleted, as the run goes on from step-00000002: step-00000003" in caplog.text
    assert result.state.step == 4 and [entry["step"] for entry in result.state.history] == [4]
    assert {path.name for path in folder.iterdir()} == kept | {"step-00000003", "step-00000004"}
    assert train(toy_recipe(tmp_path, max_steps=5, **changes), ToyTask).state.step == 5
    assert [entry["step"] for entry in log_of(tmp_path) if "loss" in entry] == [1, 2, 3, 4, 5]


def test_overwriting_empties_the_folder_of_what_a_run_writes_and_of_nothing_else(tmp_path):
    pytest.importorskip("tensorboard")
    train(keeping(tmp_path, max_epochs=2, tracker="tensorboard"), Steady)
    assert (tmp_path / "last" / "weights.pt").is_file()
    mine = ("notes.txt", "last/notes.txt", "tracker/notes.txt", "checkpoints/step-00000006-good/model.safetensors")
    for name in mine:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    again = {"resume": "never", "overwrite": True, "eval_unit": "never", "save_unit": "never", "max_epochs": 1}
    train(keeping(tmp_path, **again), ToyTask)
    expected = {*mine, "weights.pt", "recipe.yaml", "training_log.jsonl", run_files.RECORD}
    assert contents(tmp_path).keys() == expected
    assert len(log_of(tmp_path)) == 6


def test_overwriting_what_an_older_version_wrote(tmp_path):
    """Without a record the names of models and processors tell, beside a recipe.yaml."""
    old = ("config.json", "model-00001-of-00002.safetensors", "adapter_model.safetensors", "modeling_ccexpert.py")
    for name in (*old, "recipe.yaml", "training_log.jsonl", "README.md", "mine.py", "model.onnx"):
        (tmp_path / name).write_text("x")
    with pytest.raises(RecipeError, match=r"already holds a run \(its model\)"):
        train(toy_recipe(tmp_path, resume="never"), ToyTask)
    train(toy_recipe(tmp_path, resume="never", overwrite=True, max_epochs=1), ToyTask)
    assert not contents(tmp_path).keys() & set(old)
    assert {"README.md", "mine.py", "model.onnx", "weights.pt"} <= contents(tmp_path).keys()


def test_nothing_is_overwritten_before_all_is_right(tmp_path):
    train(toy_recipe(tmp_path), ToyTask)
    before = contents(tmp_path)
    again = {"resume": "never", "overwrite": True}
    for changes, error in (({"samples": 0}, ValueError), ({"shards": 2, "schedule": "linear"}, RecipeError)):
        with pytest.raises(error):
            train(toy_recipe(tmp_path, **again, **changes), ToyTask)
        assert contents(tmp_path) == before


def test_folders_that_cannot_be_a_runs_are_refused_and_left_alone(tmp_path):
    """Each state of a folder, with what the recipe asks, and the sentence."""
    train(toy_recipe(tmp_path / "done", eval_unit="never", save_unit="never"), ToyTask)
    train(toy_recipe(tmp_path / "other", max_epochs=1), ToyTask)
    train(toy_recipe(tmp_path / "spoilt", max_epochs=1), ToyTask)
    optimizer = tmp_path / "spoilt" / "checkpoints" / "step-00000006" / "optimizer.pt"
    optimizer.write_bytes(bytes(optimizer.stat().st_size))
    (tmp_path / "file").write_text("x")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_text("x")
    other = str(tmp_path / "other" / "checkpoints" / "step-00000006")
    cases = [
        ("done", {"resume": "never"}, r"done already holds a run \(its model\); continue .* overwrite=true"),
        ("done", {}, r"done already holds a run that cannot be continued \(it kept no checkpoint\)"),
        ("done", {"resume": other}, r"done already holds a run \(its model\), and .*step-00000006 is of another"),
        ("spoilt", {}, r"spoilt already holds a run that cannot be continued \(its checkpoints are all incomplete"),
        ("spoilt", {"resume": "never"}, r"already holds a run \(its checkpoint step-00000006\)"),
        ("new", {"resume": str(optimizer.parent)}, r"step-00000006 is damaged: optimizer\.pt is not what was written"),
        ("new", {"resume": str(tmp_path / "other")}, "is no complete checkpoint: .* cut off; name one of those in it"),
        ("file", {}, "output_dir .*file is a file; name a folder"),
        ("file/below", {}, "output_dir .*file/below cannot be written"),
        ("model", {}, r"model holds model\.safetensors, which no training run wrote"),
        ("model", {"resume": "never", "overwrite": True}, r"model holds model\.safetensors, which no training run"),
    ]
    before = contents(tmp_path)
    for name, changes, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            train(toy_recipe(tmp_path / name, **changes), ToyTask)
        assert "\n" not in str(caught.value)
        assert contents(tmp_path) == before, name
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "model.safetensors", "best/weights.pt", "recipe.yaml"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, caplog, name):
    """Also where its size is right; the run ends as one that was never damaged."""
    changes = {"save_unit": "steps", "save_every": 5, "dropout": 0.3}
    whole = train(toy_recipe(tmp_path / "whole", **changes), ToyTask)
    with pytest.raises(Stop):
        train(toy_recipe(tmp_path / "parts", **changes), ToyTask, on_step=stop_at(12))
    path = tmp_path / "parts" / "checkpoints" / "step-00000010" / name
    path.write_bytes(bytes(path.stat().st_size))
    parts = train(toy_recipe(tmp_path / "parts", **changes), ToyTask)
    assert f"step-00000010 is damaged: {name} is not what was written" in caplog.text
    assert parts.state == whole.state and log_of(tmp_path / "parts") == log_of(tmp_path / "whole")


def test_a_second_run_is_refused_before_it_touches_anything(tmp_path):
    recipe = toy_recipe(tmp_path, save_unit="steps")
    refused = []

    def on_step(step, total, loss):
        if step == 3:
            before = contents(tmp_path)
            for changes in ({}, {"resume": "never", "overwrite": True}):
                with pytest.raises(ValueError, match="is being written by another run") as caught:
                    train(toy_recipe(tmp_path, save_unit="steps", **changes), ToyTask)
                refused.append(str(caught.value))
            assert contents(tmp_path) == before

    train(recipe, ToyTask, on_step=on_step)
    assert len(refused) == 2 and not any("\n" in words for words in refused)
    assert train(recipe, ToyTask).state.step == 18  # nothing is left of the lock
    assert not (tmp_path.parent / f".{tmp_path.name}.lock").exists()


def test_data_tokenizer_and_start_are_part_of_what_a_checkpoint_knows(tmp_path, caplog):
    def with_identity(**identity):
        def build(recipe, accelerator):
            task = ToyTask(recipe, accelerator)
            task.identity = lambda: identity
            return task

        return build

    began = {"train_data": "a" * 32, "tokenizer": "b" * 32, "init_from": "c" * 12}
    train(toy_recipe(tmp_path, max_epochs=1), with_identity(**began))
    for key, words in (
        ("train_data", "train_data holds other pairs than that of "),
        ("tokenizer", "The tokenizer has other words or settings than that of "),
        ("init_from", "init_from is another model than that of "),
    ):
        with pytest.raises(checkpoints.CheckpointError, match=words) as caught:
            train(toy_recipe(tmp_path), with_identity(**{**began, key: "d" * 32}))
        assert "step-00000006" in str(caught.value) and "\n" not in str(caught.value)
    assert train(toy_recipe(tmp_path, max_epochs=2), with_identity(**began)).state.step == 12
    assert "was not checked" not in caplog.text
    path = tmp_path / "checkpoints" / "step-00000012" / "state.json"
    state = json.loads(path.read_text())
    del state["identity"]
    path.write_text(json.dumps(state))
    assert train(toy_recipe(tmp_path), with_identity(**began)).state.step == 18
    assert "step-00000012 does not say with which train_data and tokenizer and init_from the run began" in caplog.text


@pytest.mark.parametrize("changes", [{"eval_unit": "never", "save_unit": "never"}, {}, {"save_unit": "steps"}])
def test_weights_that_are_no_numbers_are_saved_nowhere(tmp_path, changes):
    """They may come with a finite loss, from the last update."""
    tasks = []

    def build(recipe, accelerator):
        tasks.append(ToyTask(recipe, accelerator))
        return tasks[-1]

    def on_step(step, total, loss):
        if step == 18:
            tasks[-1].model.decoder.weight.data[0, 0] = float("inf")

    with pytest.raises(TrainingError, match=r"weights are not finite after step 18 \(first decoder\.weight\)"):
        train(toy_recipe(tmp_path, **changes), build, on_step=on_step)
    saved = [torch.load(path) for path in tmp_path.rglob("weights.pt")]
    assert len(saved) == 0 if changes.get("save_unit") == "never" else saved
    assert all(torch.isfinite(tensor).all() for state in saved for tensor in state.values())
    assert "step-00000018" not in [path.name for path in tmp_path.rglob("step-*")]


def test_weights_to_start_from_must_be_numbers(tmp_path):
    def build(recipe, accelerator):
        task = ToyTask(recipe, accelerator)
        task.model.encoder.bias.data[0] = float("nan")
        return task

    with pytest.raises(RecipeError, match=r"weights to start from are not finite \(first encoder\.bias\)"):
        train(toy_recipe(tmp_path / "run"), build)
    assert not (tmp_path / "run").exists()


def test_what_the_machine_lacks_is_said_before_the_first_step(tmp_path, monkeypatch):
    steps = []
    recipe = toy_recipe(tmp_path / "full")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000, total=10**12))
        with pytest.raises(RecipeError, match=r"full has 0\.0 GB left, and a model and a checkpoint of this run need"):
            train(recipe, ToyTask, on_step=lambda *now: steps.append(now))
    with monkeypatch.context() as patch:
        patch.setattr("accelerate.Accelerator.init_trackers", lambda *_, **__: 1 / 0)
        with pytest.raises(RecipeError, match=r"tracker tensorboard cannot be started \(ZeroDivisionError: .*none"):
            train(toy_recipe(tmp_path / "tracked", tracker="tensorboard"), ToyTask, on_step=lambda *a: steps.append(a))
    assert not steps
    with pytest.raises(TrainingError, match=r"metric_for_best is s_m, which validation gives as None .* bleu_4"):
        train(toy_recipe(tmp_path / "metric", metric_for_best="s_m"), ToyTask)


def test_a_disk_that_fills_up_leaves_no_half_checkpoint(tmp_path, monkeypatch):
    def full(*_):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(checkpoints.CheckpointError, match=r"step-00000006 cannot be written \(Pytorch.*make room"):
        train(toy_recipe(tmp_path, eval_unit="never"), ToyTask)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_full_memory_says_what_to_lower(tmp_path):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    with pytest.raises(TrainingError, match=r"memory of the device is full .* lower per_device_batch_size"):
        train(toy_recipe(tmp_path), ToyTask, on_step=full)


def test_a_model_that_was_on_its_way_when_the_process_died_arrives(tmp_path):
    """Half of the files were moved: the rest follows, so that no model is made of two."""
    recipe = toy_recipe(tmp_path)
    accelerator = SimpleNamespace(is_main_process=True, num_processes=1)
    way = tmp_path / run_files.COMPLETE_MODEL
    way.mkdir()
    (tmp_path / "model-00001-of-00002.safetensors").write_text("new")  # moved already
    (way / "model-00002-of-00002.safetensors").write_text("new too")
    (tmp_path / "model-00002-of-00002.safetensors").write_text("old")
    (tmp_path / "model-00003-of-00003.safetensors").write_text("old")
    run_files.Record(model={"model-00002-of-00002.safetensors": "a", "model-00003-of-00003.safetensors": "b"}).write(
        tmp_path
    )
    names = {f"model-0000{number}-of-00002.safetensors": str(number) for number in (1, 2)}
    (way / ".digests.json").write_text(json.dumps(names))
    folder = RunFolder(recipe, accelerator)
    with pytest.raises(RecipeError, match="cannot be continued"):
        folder.open()
    folder.close()
    assert {path.name: path.read_text() for path in tmp_path.glob("model-*")} == {
        "model-00001-of-00002.safetensors": "new",
        "model-00002-of-00002.safetensors": "new too",
    }
    assert run_files.read_record(tmp_path).model == names and not way.exists()


def test_seconds_are_those_of_training_alone(tmp_path, monkeypatch):
    """A clock that steps move by 1 and evaluations by 100: lines across epochs and restarts say the same."""
    now = [0.0]
    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def on_step(step, total, loss):
        now[0] += 1
        if step == stop[0]:
            raise Stop

    def on_evaluation(scores):
        now[0] += 100

    changes = {"logging_steps": 4, "save_unit": "steps", "save_every": 5, "max_epochs": 4}
    for name, stops in (("whole", []), ("parts", [7, 15])):
        for step in (*stops, 0):
            stop = [step]
            if step:
                with pytest.raises(Stop):
                    train(
                        toy_recipe(tmp_path / name, **changes), ToyTask, on_step=on_step, on_evaluation=on_evaluation
                    )
                continue
            train(toy_recipe(tmp_path / name, **changes), ToyTask, on_step=on_step, on_evaluation=on_evaluation)
        lines = [json.loads(line) for line in (tmp_path / name / "training_log.jsonl").read_text().splitlines()]
        # a line is written before its step's on_step, which moves the clock: three steps, then four each
        assert [line["seconds"] for line in lines if "loss" in line] == [3, 4, 4, 4, 4, 4]


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (RecipeError("a: b."), "try.py: a: b.", ""),
        (TrainingError("The loss is nan\n at step 2."), "try.py: The loss is nan at step 2.", ""),
        (FileExistsError(17, "File exists", "/x"), "try.py: /x: File exists.", ""),
        (OSError("Cannot reach the Hub.\nCheck your connection."), "try.py: Cannot reach the Hub. Check your", ""),
        (KeyboardInterrupt(), 130, "try.py: interrupted."),
        (KeyboardInterrupt("interrupted; do this"), 130, "try.py: interrupted; do this."),
    ],
)
def test_a_script_ends_in_one_sentence(error, code, words, capsys):
    def run():
        raise error

    with pytest.raises(SystemExit) as caught:
        run_script("try.py", run)
    if isinstance(code, int):
        assert caught.value.code == code and capsys.readouterr().err == words + "\n"
    else:
        assert caught.value.code.startswith(code) and "\n" not in caught.value.code


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_script("try.py", lambda: 1 / 0)
