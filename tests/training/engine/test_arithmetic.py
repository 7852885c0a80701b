"""What `auto` becomes: by trial in a new run, by the checkpoint in one that goes on, the same in every process."""

import json
import logging
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from toys.task import ToyRecipe, ToyTask, toy_recipe

from rscc_hf.errors import RecipeError
from rscc_hf.training.engine import arithmetic, checkpoints
from rscc_hf.training.engine.arithmetic import settle
from rscc_hf.training.engine.loop import train
from rscc_hf.training.engine.recipe import read_recipe, recipe_to_yaml

ONE = SimpleNamespace(is_main_process=True, num_processes=1, device=torch.device("cpu"))


def auto(output_dir, **changes) -> ToyRecipe:
    return toy_recipe(
        output_dir, **{"mixed_precision": "auto", "optimizer": "muon", "max_epochs": 1, "samples": 8, **changes}
    )


def chosen(recipe):
    return recipe.mixed_precision, recipe.muon_dtype


def messages(caplog, level):
    return [record.getMessage() for record in caplog.records if record.levelno == level]


@pytest.mark.parametrize(
    ("factor", "product", "expected"),
    [
        (0.7, 0.7, ("bf16", "bfloat16")),
        (15.0, 15.0, ("no", "float32")),
        (1.1, 1.1, ("no", "bfloat16")),  # no gain, and no loss that counts
        (0.5, 3.0, ("no", "float32")),
        (0.1, 1.5, ("bf16", "float32")),
    ],
)
def test_a_new_run_takes_what_is_quicker(tmp_path, caplog, fake_trial, factor, product, expected):
    fake_trial(factor, product)
    caplog.set_level(logging.INFO)
    assert chosen(settle(auto(tmp_path), ONE)) == expected
    [line] = messages(caplog, logging.INFO)
    half = f"{product + factor:.1f}"
    assert line.startswith(f"mixed_precision auto: {expected[0]}, muon_dtype auto: {expected[1]} (a product and")
    assert f"2.0 ms in float32 and {half} ms in bfloat16" in line
    assert not messages(caplog, logging.WARNING)


def test_what_does_not_work_is_not_taken(tmp_path, caplog, fake_trial):
    fake_trial(1.0, problem="no such type")
    caplog.set_level(logging.INFO)
    assert chosen(settle(auto(tmp_path), ONE)) == ("no", "float32")
    assert messages(caplog, logging.INFO) == [
        "mixed_precision auto: no, muon_dtype auto: float32 (bfloat16 does not work on cpu: no such type)"
    ]


def test_explicit_values_stay_and_need_no_trial(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(arithmetic, "try_dtype", None)
    caplog.set_level(logging.INFO)
    recipe = toy_recipe(tmp_path, mixed_precision="no", optimizer="adamw")
    assert settle(recipe, ONE) == recipe and recipe.muon_dtype == "auto"
    recipe = toy_recipe(tmp_path, mixed_precision="no", optimizer="muon", muon_dtype="float32")
    assert settle(recipe, ONE) == recipe
    recipe = toy_recipe(tmp_path, mixed_precision="fp16", optimizer="adam")
    assert settle(recipe, SimpleNamespace(**{**vars(ONE), "device": torch.device("cuda")})) == recipe
    assert not caplog.records


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"mixed_precision": "bf16"},
            "mixed_precision bf16: bfloat16 is emulated here and takes 15.0 times as long as float32 (TRIAL); set "
            "mixed_precision to no, or to auto.",
        ),
        (
            {"muon_dtype": "bfloat16"},
            "muon_dtype bfloat16: bfloat16 is emulated here and takes 15.0 times as long as float32 (TRIAL); set "
            "muon_dtype to float32, or to auto.",
        ),
        (
            {"mixed_precision": "bf16", "muon_dtype": "bfloat16"},
            "mixed_precision bf16 and muon_dtype bfloat16: bfloat16 is emulated here and takes 15.0 times as long as "
            "float32 (TRIAL); set mixed_precision to no and muon_dtype to float32, or to auto.",
        ),
    ],
)
def test_what_is_slower_here_gets_one_sentence(tmp_path, caplog, fake_trial, changes, sentence):
    """The run goes on as it was asked to."""
    fake_trial(15.0)
    recipe = settle(auto(tmp_path, **changes), ONE)
    assert {name: getattr(recipe, name) for name in changes} == changes
    trial = "a product and a convolution take 2.0 ms in float32 and 30.0 ms in bfloat16 on cpu"
    assert messages(caplog, logging.WARNING) == [sentence.replace("TRIAL", trial)]


def test_bf16_where_it_pays_gets_none(tmp_path, caplog, fake_trial):
    fake_trial(0.7)
    settle(auto(tmp_path, mixed_precision="bf16", muon_dtype="bfloat16"), ONE)
    assert not messages(caplog, logging.WARNING)


@pytest.mark.parametrize(("factor", "expected"), [(0.7, ("bf16", "bfloat16")), (15.0, ("no", "float32"))])
def test_a_run_keeps_what_it_began_with_on_any_machine(tmp_path, caplog, fake_trial, factor, expected):
    """Recipe, checkpoints and result have the values; where the trial says otherwise later, nothing changes."""
    fake_trial(factor)
    result = train(auto(tmp_path), ToyTask)
    assert chosen(result.recipe) == expected
    assert chosen(read_recipe(ToyRecipe, tmp_path / "recipe.yaml")) == expected
    newest = checkpoints.newest_complete(tmp_path / "checkpoints")
    assert chosen(SimpleNamespace(**checkpoints.read_state(newest)["recipe"])) == expected
    assert chosen(read_recipe(ToyRecipe, newest / "recipe.yaml")) == expected

    fake_trial(1 / factor)
    caplog.clear()
    caplog.set_level(logging.INFO)
    longer = train(auto(tmp_path, max_epochs=2), ToyTask)
    assert longer.state.epoch == 2 and chosen(longer.recipe) == expected
    told = f"mixed_precision auto: {expected[0]}, muon_dtype auto: {expected[1]} (as {newest} has it)"
    assert told in messages(caplog, logging.INFO)
    warned = messages(caplog, logging.WARNING)
    if factor < 1:
        [sentence] = warned
        assert sentence.startswith("mixed_precision bf16 and muon_dtype bfloat16: bfloat16 is emulated here and takes")
        assert sentence.endswith(
            "the run began so and goes on so, to change it set mixed_precision to no and muon_dtype to float32 in "
            "another output_dir."
        )
    else:
        assert not warned

    # from a checkpoint that is named, into another folder
    other = train(auto(tmp_path / "other", max_epochs=2, resume=str(newest)), ToyTask)
    assert chosen(other.recipe) == expected
    # what is asked for and contradicts is refused
    for key, value in (("mixed_precision", {"bf16": "no", "no": "bf16"}), ("muon_dtype", None)):
        wrong = (value or {"bfloat16": "float32", "float32": "bfloat16"})[getattr(result.recipe, key)]
        with pytest.raises(RecipeError, match=f"{key} is '{wrong}' in the recipe and was"):
            train(auto(tmp_path, max_epochs=3, **{key: wrong}), ToyTask)
    # a new run is tried anew
    fresh = train(auto(tmp_path, resume="never", overwrite=True), ToyTask)
    assert chosen(fresh.recipe) != expected


def test_a_copy_of_the_users_decides_nothing(tmp_path, fake_trial):
    fake_trial(0.7)
    train(auto(tmp_path), ToyTask)
    newest = checkpoints.newest_complete(tmp_path / "checkpoints")
    copy = newest.with_name(f"{newest.name}-good")
    shutil.copytree(newest, copy)
    state = checkpoints.read_state(copy)
    state["recipe"]["mixed_precision"] = "no"
    (copy / checkpoints.STATE).write_text(json.dumps(state))
    assert chosen(settle(auto(tmp_path), ONE)) == ("bf16", "bfloat16")
    newest.rename(newest.with_name(f".replaced-{newest.name}"))  # a process was killed while it wrote it again
    fake_trial(15.0)
    assert chosen(settle(auto(tmp_path), ONE)) == ("bf16", "bfloat16")


def test_a_run_of_an_older_version_goes_on_in_bfloat16(tmp_path, fake_trial):
    """Its checkpoints do not know muon_dtype: torch's Muon had no other."""
    fake_trial(0.7)
    recipe = auto(tmp_path, mixed_precision="no")
    train(recipe, ToyTask)
    newest = checkpoints.newest_complete(tmp_path / "checkpoints")
    state = checkpoints.read_state(newest)
    del state["recipe"]["muon_dtype"]
    (newest / checkpoints.STATE).write_text(json.dumps(state))
    fake_trial(15.0)
    with pytest.raises(RecipeError, match="muon_dtype is 'float32' in the recipe and was 'bfloat16' in"):
        train(auto(tmp_path, mixed_precision="no", muon_dtype="float32", max_epochs=2), ToyTask)
    result = train(auto(tmp_path, mixed_precision="no", max_epochs=2), ToyTask)
    assert result.recipe.muon_dtype == "bfloat16" and result.state.epoch == 2


def test_without_muon_its_format_says_nothing(tmp_path, fake_trial):
    fake_trial(0.7)
    result = train(auto(tmp_path, optimizer="adamw"), ToyTask)
    assert chosen(result.recipe) == ("bf16", "auto")
    again = train(auto(tmp_path, optimizer="adamw", muon_dtype="float32", max_epochs=2), ToyTask)
    assert again.state.epoch == 2


def test_the_other_processes_take_what_the_first_says(tmp_path, monkeypatch):
    """They try nothing: a busy or different machine must not choose something else."""
    monkeypatch.setattr(arithmetic, "try_dtype", None)

    def receive(shared):
        assert shared == [{}]
        shared[0] = {"mixed_precision": "bf16", "muon_dtype": "float32"}

    monkeypatch.setattr(arithmetic, "broadcast_object_list", receive)
    second = SimpleNamespace(is_main_process=False, num_processes=2, device=torch.device("cpu"))
    assert chosen(settle(auto(tmp_path), second)) == ("bf16", "float32")


def test_an_accelerator_of_a_notebook_decides(tmp_path, fake_trial, caplog):
    """accelerate has one precision a process."""
    fake_trial(0.7)
    Accelerator(mixed_precision="no", cpu=True)
    caplog.set_level(logging.INFO)
    assert chosen(train(auto(tmp_path), ToyTask).recipe) == ("no", "bfloat16")
    assert any("as the Accelerator of this process has it" in line for line in messages(caplog, logging.INFO))


def test_a_real_trial_leaves_the_run_as_it_would_have_been(tmp_path):
    """The bits of a run that was told what auto became: generators and threads are as they were."""
    found = train(auto(tmp_path / "auto"), ToyTask)
    told = train(replace(found.recipe, output_dir=str(tmp_path / "told")), ToyTask)
    for one, other in zip(found.task.model.parameters(), told.task.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_fp16_on_a_cpu_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="mixed_precision fp16 does not work on a CPU; set it to auto, bf16 or no"):
        train(toy_recipe(tmp_path, mixed_precision="fp16"), ToyTask)
    train(toy_recipe(tmp_path, max_epochs=1), ToyTask)  # nothing of accelerate's is left behind


def test_auto_is_a_value_of_the_file(tmp_path):
    recipe = auto(tmp_path)
    (tmp_path / "recipe.yaml").write_text(recipe_to_yaml(recipe))
    assert read_recipe(ToyRecipe, tmp_path / "recipe.yaml") == recipe
