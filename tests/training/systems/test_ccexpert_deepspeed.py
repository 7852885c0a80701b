"""CCExpert under DeepSpeed, in two processes on a CPU: the weights, checkpoints and answers of one plain process.

DeepSpeed's optimiser works in float32, where Adam's first steps enlarge the last digits of small gradients.
"""

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import watched
from toys.ccexpert_stages import distance, save_start, stage_recipe, state_of, weights
from toys.pairs import write_pairs
from toys.two_processes import ROOT, free_port, launch

from rscc_hf.training.engine import checkpoints
from rscc_hf.training.systems.ccexpert.task import train_ccexpert

WORKER = Path(__file__).resolve().parents[2] / "toys/ccexpert_stages.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs deepspeed, an optional extra"),
]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"), 13, 4)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return save_start(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def tied_start(tmp_path_factory):
    """Its output projection is one with the embeddings, as in 0.5B and not in 7B."""
    return save_start(tmp_path_factory.mktemp("tied"), tied=True)


def in_two(pairs, start, output_dir, zero, **changes):
    given = {"data": pairs, "start": start, "output_dir": str(output_dir), "zero": zero}
    launch(WORKER, json.dumps({**given, **changes}))


@pytest.mark.parametrize("zero", [2, 3])
def test_two_processes_equal_one_that_accumulates(pairs, start, tmp_path, zero):
    """Clipped, with four learning rates; the last global batch of the epoch leaves the second process none.

    A run that goes on ends with the same weights, in the other stage too.
    """
    changes = {"per_device_batch_size": 1, "max_steps": 5, "save_unit": "steps", "save_every": 3}
    changes |= {"schedule": "constant", "warmup_ratio": 0.0, "max_grad_norm": 0.5}
    one = state_of(train_ccexpert(stage_recipe(pairs, start, tmp_path / "one", **changes)))
    in_two(pairs, start, tmp_path / "two", zero, **changes)
    assert distance(one, weights(tmp_path / "two")) < 2e-5
    assert distance(one, weights(start)) > 1e-2

    in_two(pairs, start, tmp_path / "same", zero, **{**changes, "max_steps": 3})
    shutil.copytree(tmp_path / "same", tmp_path / "changed")
    in_two(pairs, start, tmp_path / "same", zero, **changes)
    in_two(pairs, start, tmp_path / "changed", 5 - zero, **changes)
    assert distance(weights(tmp_path / "same"), weights(tmp_path / "two")) == 0
    assert distance(one, weights(tmp_path / "changed")) < 2e-5
    with pytest.raises(checkpoints.CheckpointError, match="is of a run with FSDP or DeepSpeed; continue it so"):
        train_ccexpert(stage_recipe(pairs, start, tmp_path / "two", **{**changes, "max_steps": 6, "cpu": False}))


LIVELY = {"num_beams": 3, "gradient_checkpointing": True}


@pytest.mark.parametrize(("zero", "changes"), [(2, LIVELY), (3, LIVELY), (3, {"trained_parts": ["integration"]})])
def test_validates_and_saves_as_one_process_does(pairs, tied_start, tmp_path, zero, changes):
    changes = {"eval_unit": "steps", "eval_every": 2, "validation_batch_size": 1, "max_steps": 4, **changes}
    changes |= {"max_validation_pairs": 3, "max_new_tokens": 6}  # the second process answers one pair less
    one = train_ccexpert(stage_recipe(pairs, tied_start, tmp_path / "one", **changes))
    in_two(pairs, tied_start, tmp_path / "two", zero, **changes)
    assert distance(weights(tmp_path / "one"), weights(tmp_path / "two")) < 2e-5
    log = [json.loads(line) for line in (tmp_path / "two" / "training_log.jsonl").read_text().splitlines()]
    scores = [entry["validation"] for entry in log if "validation" in entry]
    assert scores == [entry["scores"] for entry in one.state.history]


@pytest.mark.parametrize("zero", [2, 3])
def test_lora_and_bf16(pairs, start, tmp_path, zero):
    """Adam makes much of what is rounded in another order, so that the losses are compared."""
    losses = {}
    changes = {"mixed_precision": "bf16", "lora_rank": 2, "max_steps": 4}
    train_ccexpert(stage_recipe(pairs, start, tmp_path / "one", **changes))
    in_two(pairs, start, tmp_path / "two", zero, **changes)
    for name in ("one", "two"):
        log = (tmp_path / name / "training_log.jsonl").read_text().splitlines()
        losses[name] = [json.loads(line)["loss"] for line in log]
        assert (tmp_path / name / "adapter_model.safetensors").is_file()
    assert losses["one"] == pytest.approx(losses["two"], abs=1e-3)


@pytest.mark.parametrize("zero", [2, 3])
def test_configurations_for_accelerate(pairs, start, tmp_path, zero):
    """`accelerate launch` with our files, but for the number of processes."""
    given = {"data": pairs, "start": start, "output_dir": str(tmp_path), "max_steps": 2}
    how = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
    how += ["--main_process_port", free_port()]
    how += ["--config_file", str(ROOT / f"training/recipes/accelerate/deepspeed_zero{zero}.yaml")]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    environment.pop("ACCELERATE_USE_CPU", None)
    command = [*how, str(WORKER), json.dumps(given)]
    ended = watched.run(command, limit=300, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert distance(weights(tmp_path), weights(start)) > 1e-3
