"""Worker processes: any way of starting them, and errors that come back as one sentence."""

import os
import pickle
from multiprocessing import get_start_method, set_start_method
from threading import Lock

import pytest
import torch
from toys.pairs import toy_pairs_recipe, write_pairs

from rscc_hf.errors import TrainingError
from rscc_hf.processing.change_pair_images import PairError
from rscc_hf.training.engine.processes import open_backend
from rscc_hf.training.engine.workers import portable, prepared
from rscc_hf.training.systems.mmodalcc.task import MModalCCTask


class Awkward(ValueError):
    """Cannot be made from its own arguments."""

    def __init__(self, one, other):
        super().__init__(f"{one} and {other}: give another.")


def make(key):
    if key == 2:
        raise PairError("pair 2 is black.", pair=2, file="x.png")
    if key == 3:
        raise Awkward("one", "two")
    if key == 4:
        raise FileNotFoundError(2, "No such file", "x.png")
    return {"key": torch.tensor(key)}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("key", "error", "words"),
    [(2, PairError, "pair 2 is black."), (3, ValueError, "one and two: give another."), (4, FileNotFoundError, "")],
)
def test_errors_come_back_as_they_are(workers, key, error, words):
    batches = prepared(make, [0, 1, key], workers)
    assert [int(next(batches)["key"]) for _ in range(2)] == [0, 1]
    with pytest.raises(error) as caught:
        next(batches)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    if error is PairError:
        assert (caught.value.pair, caught.value.file) == (2, "x.png")


class Holding(TrainingError):
    """Has on it what no other process can have."""

    def __init__(self, words):
        super().__init__(words)
        self.lock = Lock()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PairError("pair 2 is black.", pair=2, file="x.png"), PairError),
        (FileNotFoundError(2, "No such file", "x.png"), FileNotFoundError),
        (Awkward("one", "two"), ValueError),
        (Holding("no memory: buy some."), TrainingError),
    ],
)
def test_errors_go_to_other_processes_as_they_are_or_in_words(error, kind):
    arrived = pickle.loads(pickle.dumps(portable(error)))  # noqa: S301 (our own)
    assert type(arrived) is kind and str(arrived) == str(error)


def test_a_worker_that_dies_is_one_sentence():
    with pytest.raises(TrainingError, match=r"A worker process was killed, .*; lower num_workers") as caught:
        list(prepared(die, [0], 1))
    assert "\n" not in str(caught.value)


def die(key):
    os._exit(9)


@pytest.fixture
def spawn():
    before = get_start_method()
    set_start_method("spawn", force=True)
    yield
    set_start_method(before, force=True)


def test_what_cannot_be_pickled_is_one_sentence(spawn):
    with pytest.raises(TrainingError, match=r"cannot be handed to worker processes \(.*lambda.*set num_workers to 0"):
        next(prepared(lambda key: {}, [0], 1))


@pytest.mark.parametrize("changes", [{}, {"cache": "memory"}, {"unchanged_share": 0.5, "captions": "random_choice"}])
def test_training_and_validation_can_be_started_anew(tmp_path, changes):
    """What a process of macOS or Windows gets: a pickle, which makes the same batches."""
    data = write_pairs(tmp_path / "data", train=8, validation=4, shards=1)
    recipe = toy_pairs_recipe(data, tmp_path / "out", eval_unit="epochs", metric_for_best="bleu_4", **changes)
    with open_backend(recipe) as (backend, recipe):
        task = MModalCCTask(recipe, backend.accelerator)
    for batch, keys in ((task.samples.batch, [(0, 1), (0, 2)]), (task.validator.pairs.batch, [0, 3])):
        one, other = batch(keys), pickle.loads(pickle.dumps(batch))(keys)  # noqa: S301 (our own)
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
