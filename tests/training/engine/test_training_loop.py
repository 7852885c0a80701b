"""The loop on a toy model: normalisation, order, schedules, patience, resume."""

import contextlib
import json
import logging
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from toys.runs import Stop, stop_at
from toys.task import ToyModel, ToySamples, ToyTask, collate, sample, toy_recipe
from toys.two_processes import launch

from rscc_hf.errors import RecipeError, TrainingError
from rscc_hf.progress import Work
from rscc_hf.training.engine import checkpoints, loop
from rscc_hf.training.engine.batches import IndexedBatches
from rscc_hf.training.engine.loop import train

WORKER = Path(__file__).resolve().parents[2] / "toys/worker.py"


def weights(result_or_folder) -> torch.Tensor:
    """All weights of a run in one vector."""
    if isinstance(result_or_folder, Path):
        newest = checkpoints.newest_complete(result_or_folder / "checkpoints")
        model = ToyModel(0, False)
        checkpoints.load_weights(newest, model)
    else:
        model = result_or_folder.task.model
    return torch.cat([tensor.flatten().double() for tensor in model.state_dict().values()])


def distance(one, other) -> float:
    return float((weights(one) - weights(other)).abs().max())


def interrupted(recipe, stops):
    for step in stops:
        with pytest.raises(Stop):
            train(recipe, ToyTask, on_step=stop_at(step))
    return train(recipe, ToyTask)


def test_accumulation_changes_nothing(tmp_path):
    """8 x batch 1 equals 1 x batch 8, with unequal numbers of targets and a smaller last batch."""
    runs = [
        train(toy_recipe(tmp_path / str(size), global_batch_size=8, per_device_batch_size=size), ToyTask)
        for size in (1, 2, 8)
    ]
    assert distance(runs[0], runs[1]) < 1e-10
    assert distance(runs[0], runs[2]) < 1e-10
    start = ToyTask(toy_recipe(tmp_path / "untrained"), None)
    assert float((weights(runs[0]) - torch.cat([p.flatten() for p in start.model.state_dict().values()])).norm()) > 0.1


def test_gradient_is_that_of_the_mean_over_all_target_tokens(tmp_path):
    """One step of plain torch on the whole batch gives what the loop gives."""
    recipe = toy_recipe(
        tmp_path, samples=6, global_batch_size=6, per_device_batch_size=2, max_epochs=None, max_steps=1
    )
    losses = []
    result = train(recipe, ToyTask, on_step=lambda step, total, loss: losses.append(loss))

    torch.manual_seed(recipe.seed)
    task = ToyTask(recipe, None)
    optimizer = torch.optim.AdamW([{"params": part.parameters, "lr": part.learning_rate} for part in task.parts()])
    for group in optimizer.param_groups:
        group["weight_decay"] = 0
    batch = collate([sample(index) for index in range(6)])
    loss = task.model(**batch, num_items_in_batch=int((batch["labels"] != -100).sum())).loss
    loss.backward()
    optimizer.step()
    expected = torch.cat([tensor.flatten() for tensor in task.model.state_dict().values()])
    assert losses == [pytest.approx(loss.item(), rel=1e-6)]
    assert float((weights(result) - expected).abs().max()) < 1e-10


@pytest.mark.parametrize("samples", [1, 7, 23, 24])
@pytest.mark.parametrize(("processes", "accumulation"), [(1, 4), (2, 2), (4, 1)])
def test_every_sample_once_an_epoch_whatever_the_processes(samples, processes, accumulation):
    def steps(process, processes, accumulation):
        source = IndexedBatches(
            ToySamples(samples),
            seed=3,
            per_device_batch_size=2,
            accumulation_steps=accumulation,
            process=process,
            processes=processes,
        )
        order = source.order(epoch=5)
        return [source.keys_of_step(order, 5, step) for step in range(source.steps_per_epoch)]

    one = steps(0, 1, 4)
    all_of_them = [steps(process, processes, accumulation) for process in range(processes)]
    for number, expected in enumerate(one):
        together = [keys for process in all_of_them for micro in process[number] for keys in micro]
        assert sorted(together) == sorted(key for micro in expected for key in micro)
    assert sorted(index for step in one for micro in step for _, index in micro) == list(range(samples))


def test_order_depends_on_epoch_and_seed():
    def order(seed, epoch):
        return IndexedBatches(ToySamples(50), seed=seed, per_device_batch_size=1, accumulation_steps=1).order(epoch)

    assert np.array_equal(order(1, 2), order(1, 2))
    assert not np.array_equal(order(1, 2), order(1, 3))
    assert not np.array_equal(order(1, 2), order(2, 2))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stream", [{}, {"shards": 4}, {"shards": 3, "shuffle_buffer": 5}])
def test_resumed_run_is_bit_for_bit_the_uninterrupted_one(tmp_path, stream, workers):
    changes = {"save_unit": "steps", "save_every": 4, "dropout": 0.3, "batch_norm": True, **stream}
    changes |= {"schedule": "cosine", "warmup_steps": 2, "max_epochs": None, "max_steps": 16, "num_workers": workers}
    whole = train(toy_recipe(tmp_path / "whole", **changes), ToyTask)
    parts = interrupted(toy_recipe(tmp_path / "parts", **changes), [3, 5, 12])
    assert torch.equal(weights(whole), weights(parts))
    assert whole.state == parts.state
    lines = [(tmp_path / name / "training_log.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    entries = [[{**json.loads(line), "seconds": 0} for line in log] for log in lines]
    assert entries[0] == entries[1]


@pytest.mark.parametrize(("broken", "workers"), [("sample", 0), ("row", 0), ("row", 2), ("file", 0), ("file", 2)])
def test_what_lies_behind_the_last_step_may_be_damaged(tmp_path, caplog, broken, workers):
    """A run ends as it would have, also where much is read ahead; with one step more the damage comes up."""

    class Damaged(ToyTask):
        def batches(self, *place):
            source = super().batches(*place)
            if broken == "sample":
                sound = set(source.order(0)[:16].tolist())
                make_sample = source.samples.batch
                source.samples.batch = lambda keys: make_sample(require({index for _, index in keys}, sound, keys))
                return source
            sound = {example.row["index"] for example, _ in islice(source._examples(0, [0, 0]), 16)}
            make, read = source.make_batch, source._examples

            def examples(epoch, position):
                for example, after in read(epoch, position):
                    yield require({example.row["index"]}, sound, example), after

            if broken == "row":
                source.make_batch = lambda rows: make(require({each.row["index"] for each in rows}, sound, rows))
            else:
                source._examples = examples
            return source

    def require(indices, sound, what):
        if not indices <= sound:
            raise OSError("it is damaged")
        return what

    changes = {"max_epochs": None, "num_workers": workers, "shards": 0 if broken == "sample" else 2}
    assert train(toy_recipe(tmp_path, max_steps=4, **changes), Damaged).state.evaluated_step == 4
    said = "The data behind the last step cannot be read (it is damaged)" in caplog.text
    assert said == (broken != "sample")  # which need not look
    with pytest.raises(OSError, match="it is damaged"):
        train(toy_recipe(tmp_path, max_steps=5, **changes), Damaged)


def test_resumes_without_what_happened_in_a_half_written_checkpoint(tmp_path, monkeypatch):
    """Dies while a checkpoint is written: the one before is taken, and the rest is cleared away."""
    changes = {"save_unit": "steps", "save_every": 2, "dropout": 0.3}
    whole = train(toy_recipe(tmp_path / "whole", **changes), ToyTask)
    recipe = toy_recipe(tmp_path / "parts", **changes)
    save = torch.save

    def die(content, path):
        save(content, path)
        if "step-00000006" in str(path):
            path.write_bytes(path.read_bytes()[:100])
            raise Stop

    monkeypatch.setattr(torch, "save", die)
    with pytest.raises(Stop):
        train(recipe, ToyTask)
    monkeypatch.setattr(torch, "save", save)
    names = sorted(path.name for path in (tmp_path / "parts" / "checkpoints").iterdir())
    assert names == [".partial-step-00000006", "step-00000002", "step-00000004"]
    parts = train(recipe, ToyTask)
    assert torch.equal(weights(whole), weights(parts))
    names = sorted(path.name for path in (tmp_path / "parts" / "checkpoints").iterdir())
    assert names == ["step-00000016", "step-00000018"]


def test_incomplete_checkpoint_is_ignored(tmp_path):
    recipe = toy_recipe(tmp_path, save_unit="steps", save_every=5, keep_checkpoints=9)
    train(recipe, ToyTask)
    folder = tmp_path / "checkpoints"
    assert [path.name for path in sorted(folder.iterdir())] == [f"step-000000{n}" for n in ("05", "10", "15", "18")]
    model = folder / "step-00000018" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1])
    (folder / "step-00000015" / "state.json").write_text("{")
    assert checkpoints.newest_complete(folder) == folder / "step-00000010"
    with pytest.raises(checkpoints.CheckpointError, match=r"model\.safetensors is missing or cut off"):
        train(toy_recipe(tmp_path, resume=str(folder / "step-00000018")), ToyTask)


def test_a_swap_cut_in_half_is_undone(tmp_path):
    (tmp_path / ".replaced-step-00000003").mkdir()
    (tmp_path / ".replaced-step-00000004").mkdir()
    (tmp_path / "step-00000004").mkdir()
    checkpoints.recover(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


def test_a_changed_recipe_is_refused_by_name(tmp_path):
    train(toy_recipe(tmp_path), ToyTask)
    with pytest.raises(RecipeError, match=r"^learning_rate is 0\.1 in the recipe and was 0\.05 in .*step-00000018"):
        train(toy_recipe(tmp_path, learning_rate=0.1), ToyTask)
    with pytest.raises(RecipeError, match="already holds a run"):
        train(toy_recipe(tmp_path, resume="never"), ToyTask)
    with pytest.raises(checkpoints.CheckpointError, match="other data: an epoch had 6 steps and has 5 now"):
        train(toy_recipe(tmp_path, samples=23), lambda recipe, acc: ToyTask(toy_recipe(tmp_path, samples=20), acc))
    again = train(toy_recipe(tmp_path, learning_rate=0.1, resume="never", overwrite=True, max_epochs=1), ToyTask)
    assert again.state.step == 6


def test_a_finished_run_is_not_trained_again_but_can_be_prolonged(tmp_path):
    steps = []
    first = train(toy_recipe(tmp_path / "a", max_epochs=2, scores="1 2"), ToyTask)
    again = train(toy_recipe(tmp_path / "a", max_epochs=2, scores="1 2"), ToyTask, on_step=lambda *a: steps.append(a))
    assert not steps and again.state == first.state and torch.equal(weights(again), weights(first))
    longer = train(toy_recipe(tmp_path / "a", max_epochs=3, scores="1 2"), ToyTask)
    whole = train(toy_recipe(tmp_path / "b", max_epochs=3, scores="1 2 1"), ToyTask)
    assert torch.equal(weights(longer), weights(whole))


def test_patience_decay_and_best_weights(tmp_path):
    """Scores that rise twice and then stall: the best weights stay on top, one part's rate falls, the run stops."""
    recipe = toy_recipe(
        tmp_path, max_epochs=30, scores="1 5 3 3 3 3 3 4 5 9", patience=7, lr_decay=0.7, lr_decay_patience=3
    )
    at_best = {}

    def on_evaluation(scores):
        at_best.setdefault(scores["bleu_4"], (tmp_path / "weights.pt").read_bytes())

    result = train(recipe, ToyTask, on_evaluation=on_evaluation)
    assert (result.state.epoch, result.state.best, result.state.best_step) == (9, 5.0, 12)
    assert (tmp_path / "weights.pt").read_bytes() == at_best[5.0]
    entries = [json.loads(line) for line in (tmp_path / "training_log.jsonl").read_text().splitlines()]
    rates = {entry["epoch"]: entry["learning_rate/decoder"] for entry in entries if "loss" in entry}
    assert [rates[epoch] for epoch in range(9)] == pytest.approx([0.05] * 5 + [0.05 * 0.7] * 3 + [0.05 * 0.49])
    assert {entry["learning_rate/encoder"] for entry in entries if "loss" in entry} == {0.02}


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0, 0.5, 1, 1, 1, 1, 1, 1]),
        ("linear", [0, 0.5, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ("cosine", [0, 0.5, 1, *(0.5 * (1 + np.cos(np.pi * k / 6)) for k in range(1, 6))]),
    ],
)
def test_schedules(tmp_path, schedule, expected):
    """What is logged with a step's loss is the rate that this step took, not the next one's."""
    recipe = toy_recipe(tmp_path, schedule=schedule, warmup_steps=2, max_epochs=None, max_steps=8)
    train(recipe, ToyTask)
    entries = [json.loads(line) for line in (tmp_path / "training_log.jsonl").read_text().splitlines()]
    rates = [entry["learning_rate/encoder"] / 0.02 for entry in entries if "loss" in entry]
    assert rates == pytest.approx(expected, abs=1e-12)


def test_one_cycle_rises_and_falls_and_keeps_decaying_with_validation(tmp_path):
    changes = {
        "schedule": "one_cycle",
        "warmup_steps": 6,
        "lr_decay": 0.5,
        "lr_decay_patience": 1,
        "scores": "1 1 1 1",
    }
    train(toy_recipe(tmp_path, **changes), ToyTask)
    entries = [json.loads(line) for line in (tmp_path / "training_log.jsonl").read_text().splitlines()]
    decoder, encoder = (
        [entry[f"learning_rate/{name}"] for entry in entries if "loss" in entry] for name in ("decoder", "encoder")
    )
    assert np.argmax(encoder) == 5 and encoder[5] == pytest.approx(0.02) and encoder[-1] < 1e-3
    assert decoder[13] / encoder[13] == pytest.approx(0.5 * decoder[5] / encoder[5])


def test_max_grad_norm_and_clamp_reach_the_gradients(tmp_path):
    """SGD-like look at Adam's first step would hide the scale, so the clip functions are checked on gradients."""
    from rscc_hf.training.engine.optimisation import limit_gradients
    from rscc_hf.training.engine.task import Part

    one, other = (torch.nn.Parameter(torch.zeros(3)) for _ in range(2))
    one.grad, other.grad = torch.tensor([9.0, -7.0, 1.0]), torch.tensor([9.0, -7.0, 1.0])
    limit_gradients([Part("a", [one], 1, clamp=5.0), Part("b", [other], 1)], None)
    assert one.grad.tolist() == [5, -5, 1] and other.grad.tolist() == [9, -7, 1]
    limit_gradients([Part("a", [one], 1), Part("b", [other], 1)], 0.5)
    assert float(torch.cat([one.grad, other.grad]).norm()) == pytest.approx(0.5, rel=1e-4)


def test_errors_before_anything_is_trained(tmp_path):
    with pytest.raises(RecipeError, match=r"global_batch_size 28 is no multiple of .* 8 x 1 .*; .* 7 would do"):
        train(toy_recipe(tmp_path, global_batch_size=28, per_device_batch_size=8), ToyTask)
    with pytest.raises(RecipeError, match="tracker wandbb is not installed"):
        train(toy_recipe(tmp_path, tracker="wandbb"), ToyTask)
    with pytest.raises(RecipeError, match="schedule linear needs the number of steps"):
        train(toy_recipe(tmp_path, shards=2, schedule="linear"), ToyTask)
    with pytest.raises(ValueError, match="training data is empty"):
        train(toy_recipe(tmp_path, samples=0), ToyTask)
    assert not (tmp_path / "checkpoints").exists()


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(TrainingError, match=r"The loss is (nan|inf) at step 2; lower learning_rate"):
        train(toy_recipe(tmp_path, learning_rate=1e308), ToyTask)


def test_tracker_writes_events(tmp_path):
    pytest.importorskip("tensorboard")
    train(toy_recipe(tmp_path, tracker="tensorboard", max_epochs=1), ToyTask)
    assert list((tmp_path / "tracker").glob("events.out.tfevents.*"))


def test_threads_of_the_caller_come_back(tmp_path):
    before = torch.get_num_threads()
    with pytest.raises(Stop):
        train(toy_recipe(tmp_path, torch_threads=before + 1), ToyTask, on_step=stop_at(1))
    assert torch.get_num_threads() == before


def test_progress_is_said_where_it_is_heard(tmp_path, monkeypatch):
    """To the log where somebody listens; else, in a notebook, to standard error, as `progress` does by itself."""
    said = []

    def progress(title, *, unit, say):
        said.append(say)
        return contextlib.nullcontext(Work(title))

    monkeypatch.setattr(loop, "progress", progress)
    for level, heard in ((logging.INFO, True), (logging.INFO, False), (logging.WARNING, True)):
        monkeypatch.setattr(loop.logger, "hasHandlers", lambda heard=heard: heard)
        monkeypatch.setattr(loop.logger, "isEnabledFor", lambda asked, level=level: asked >= level)
        train(toy_recipe(tmp_path / f"{level}{heard}", max_epochs=1, progress_bar=True), ToyTask)
    assert said == [loop.logger.info, None, None]


@pytest.mark.slow
@pytest.mark.parametrize("stream", [{}, {"shards": 3}])
def test_two_processes_equal_one_that_accumulates(tmp_path, stream):
    """Dropout included; the last global batch (3 of 4 samples) leaves the second process one sample less."""
    changes = {"dropout": 0.3, "per_device_batch_size": 1, **stream}
    one = train(toy_recipe(tmp_path / "one", **changes), ToyTask)
    launch(WORKER, json.dumps({"output_dir": str(tmp_path / "two"), **changes}))
    newest = checkpoints.read_state(checkpoints.newest_complete(tmp_path / "two" / "checkpoints"))
    assert len(newest["positions"]) == 2  # there were two
    if not stream:
        assert distance(one, tmp_path / "two") < 1e-10
    else:  # the processes see other examples of the stream in a step, but each of them once an epoch
        assert newest["step"] in range(18, 22)


@pytest.mark.slow
@pytest.mark.parametrize("stream", [{}, {"shards": 4}])
def test_two_processes_resume_bit_for_bit(tmp_path, stream):
    changes = {"dropout": 0.3, "per_device_batch_size": 1, "save_unit": "steps", "save_every": 2, **stream}
    launch(WORKER, json.dumps({"output_dir": str(tmp_path / "whole"), "max_steps": 9, "max_epochs": None, **changes}))
    launch(WORKER, json.dumps({"output_dir": str(tmp_path / "parts"), "max_steps": 5, "max_epochs": None, **changes}))
    launch(WORKER, json.dumps({"output_dir": str(tmp_path / "parts"), "max_steps": 9, "max_epochs": None, **changes}))
    assert torch.equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
