"""Which run may go on: with contents that moved, and not as a shorter one; what is said where it was interrupted."""

import json
from dataclasses import dataclass

import pytest
from toys.task import ToyRecipe, ToyTask, toy_recipe

from rscc_hf.errors import RecipeError
from rscc_hf.training.engine import checkpoints
from rscc_hf.training.engine.loop import train


class Stop(Exception):
    """Stands for the death of a process."""


def test_what_is_known_by_its_contents_may_lie_elsewhere(tmp_path):
    """A key is compared by name only where the checkpoint has no digest of it, or it stands for nothing now."""

    @dataclass
    class Reading(ToyRecipe):
        path_keys = ToyRecipe.path_keys | {"train_data"}
        train_data: str | None = None

    def reading(data, **changes):
        return Reading(**{**toy_recipe(tmp_path, **changes).__dict__, "train_data": data})

    def build(identity):
        def make(recipe, accelerator):
            task = ToyTask(recipe, accelerator)
            task.identity = lambda: identity
            return task

        return make

    known = {"train_data": "a" * 32}
    train(reading("here", max_epochs=1), build(known))
    assert train(reading("/mnt/there", max_epochs=2), build(known)).state.epoch == 2
    with pytest.raises(checkpoints.CheckpointError, match="train_data holds other pairs"):
        train(reading("elsewhere"), build({"train_data": "b" * 32}))
    with pytest.raises(checkpoints.CheckpointError, match="what train_data is now cannot be told"):
        train(reading("elsewhere"), build({}))
    with pytest.raises(RecipeError, match="train_data is None in the recipe and was '/mnt/there'"):
        train(reading(None), build(known))
    path = tmp_path / "checkpoints" / "step-00000012" / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "identity": {}}))
    with pytest.raises(RecipeError, match="train_data is 'elsewhere' in the recipe and was '/mnt/there'"):
        train(reading("elsewhere"), build(known))


def test_a_run_is_not_made_shorter_than_it_is(tmp_path):
    train(toy_recipe(tmp_path, max_epochs=None, max_steps=8, save_unit="steps"), ToyTask)
    before = sorted(tmp_path.rglob("*"))
    for limits, words in (
        (
            {"max_epochs": None, "max_steps": 7},
            r"max_steps is 7, and .*step-00000008 is past that \(step 8, epoch 2\)",
        ),
        ({"max_epochs": 1}, r"max_epochs is 1, and .*step-00000008 is past that"),
    ):
        with pytest.raises(RecipeError, match=words):
            train(toy_recipe(tmp_path, save_unit="steps", **limits), ToyTask)
        assert sorted(tmp_path.rglob("*")) == before
    earlier = str(tmp_path / "checkpoints" / "step-00000007")
    short = toy_recipe(tmp_path, save_unit="steps", max_epochs=None, max_steps=7, resume=earlier)
    assert train(short, ToyTask).state.step == 7


def test_a_run_ends_at_the_end_of_an_epoch_although_it_was_saved_before_that(tmp_path):
    """The checkpoint of an epoch's last step does not count the epoch yet."""
    recipe = toy_recipe(tmp_path, save_unit="steps", save_every=6, max_epochs=1)

    def die(scores):
        raise Stop

    with pytest.raises(Stop):
        train(recipe, ToyTask, on_evaluation=die)
    state = train(recipe, ToyTask).state
    assert (state.step, state.epoch) == (6, 1)


@pytest.mark.parametrize(
    ("changes", "step", "words"),
    [
        ({"save_unit": "steps"}, 3, "interrupted; the same command goes on from step-00000002"),
        ({"save_unit": "steps", "resume": "never"}, 3, "interrupted; resume=auto goes on from step-00000002"),
        (
            {"save_unit": "steps", "resume": "never", "overwrite": True},
            3,
            "interrupted; resume=auto without overwrite goes on from step-00000002",
        ),
        ({"save_unit": "never"}, 3, "interrupted; no checkpoint was written, from which it could go on"),
        ({}, 0, "interrupted before training began: nothing was changed"),
    ],
)
def test_an_interrupted_run_says_how_to_go_on(tmp_path, changes, step, words):
    def interrupt(done, total, loss):
        if done == step:
            raise KeyboardInterrupt

    def build(recipe, accelerator):
        if step == 0:
            raise KeyboardInterrupt
        return ToyTask(recipe, accelerator)

    with pytest.raises(KeyboardInterrupt) as caught:
        train(toy_recipe(tmp_path, **changes), build, on_step=interrupt)
    assert str(caught.value) == words
