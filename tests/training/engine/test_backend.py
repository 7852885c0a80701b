"""What the loop asks of a backend, and in which order: a fourth one can be written from this one."""

import ast
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_model
from toys.task import ToySamples, ToyTask, toy_recipe

from rscc_hf.errors import RecipeError
from rscc_hf.training.engine import loop, processes
from rscc_hf.training.engine.backend import Backend
from rscc_hf.training.engine.backend_fsdp2 import FSDP2
from rscc_hf.training.engine.loop import train

ENGINE = Path(processes.__file__).parent


class Recording:
    """A backend of one process in plain torch, which notes how it is called."""

    by_name = False
    lockstep = False

    def __init__(self, accelerator, calls):
        self.accelerator, self.calls = accelerator, calls

    def prepare(self, task, optimizer, parts):
        self.task, self.optimizer = task, optimizer
        self.calls.append(f"prepare {', '.join(part.name for part in parts)}")

    def accumulate(self, batch, targets, *, weight, last):
        self.calls.append(f"accumulate {len(batch['labels'])} samples, weight {weight}, last {last}")
        loss = self.task.loss(self.task.model, batch, targets)
        (loss * weight).backward()
        return loss.detach()

    def update(self, step):
        self.calls.append(f"update {step}")
        self.optimizer.step()
        self.optimizer.zero_grad()
        return True

    def own_tensors(self):
        self.calls.append("own_tensors")
        return self.task.model.state_dict().items()

    def model_writer(self):
        self.calls.append("model_writer")
        return self.task.save

    def weights_writer(self):
        self.calls.append("weights_writer")
        return lambda path: save_model(self.task.model, str(path))

    def states(self):
        self.calls.append("states")
        return {"optimizer": self.optimizer.state_dict(), "scaler": None}

    def load_states(self, states):
        self.calls.append("load_states")
        self.optimizer.load_state_dict(states["optimizer"])

    def generate(self, batch, **options):
        self.calls.append(f"generate {len(batch['inputs'])}, in training {self.task.model.training}")
        return self.task.model.generate(**batch, **options)


class Asking(ToyTask):
    """Validates by a generation."""

    def __init__(self, recipe, accelerator):
        super().__init__(recipe, accelerator)
        self.model.generate = lambda inputs, labels: torch.zeros(len(inputs), 1, dtype=torch.long)

    def validate(self, backend: Backend):
        return {"bleu_4": float(backend.generate(ToySamples(5).batch([(0, index) for index in range(5)])).sum())}


STEP = ["accumulate 2 samples, weight 1.0, last False", "accumulate 2 samples, weight 1.0, last True"]
BEGIN = "prepare encoder, decoder"
CHECKPOINT = ["weights_writer", "states"]


def test_the_order_of_calls(tmp_path, monkeypatch):
    """Two steps with a checkpoint after each and a validation after the second; ends as `Plain` does, bit for bit."""
    calls: list[str] = []
    changes = {"max_epochs": None, "save_unit": "steps", "eval_unit": "steps", "eval_every": 2}
    plain = train(toy_recipe(tmp_path / "plain", max_steps=3, **changes), Asking)

    @contextmanager
    def recording(recipe):
        with processes.open_backend(recipe) as (opened, settled):
            yield Recording(opened.accelerator, calls), settled

    monkeypatch.setattr(loop, "open_backend", recording)
    train(toy_recipe(tmp_path / "ours", max_steps=2, **changes), Asking)
    evaluation = ["own_tensors", "generate 5, in training False", "model_writer"]
    first = [BEGIN, *STEP, "update 1", "own_tensors", *CHECKPOINT]
    assert calls == [*first, *STEP, "update 2", *evaluation, *CHECKPOINT]

    calls.clear()
    ours = train(toy_recipe(tmp_path / "ours", max_steps=3, **changes), Asking)
    third = [*STEP, "update 3", "own_tensors", *CHECKPOINT]
    assert calls == [BEGIN, "load_states", *third, "generate 5, in training False"]  # which is no better
    states = [result.task.model.state_dict() for result in (plain, ours)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_sharing_backends_are_imported_where_they_are_chosen():
    """No module of training names one at its top, and none but the backends asks which one it is."""
    shared = ("backend_fsdp2", "backend_deepspeed")
    kinds = ("is_fsdp2", "distributed_type", "DistributedType", "deepspeed_plugin", "fsdp_plugin")
    for path in ENGINE.parent.rglob("*.py"):
        text = path.read_text()
        if path.parent != ENGINE or not path.stem.startswith("backend"):
            assert not any(name in text for name in (*shared, *kinds)), path
        top = [ast.unparse(node) for node in ast.parse(text).body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not any(name in line for name in shared for line in top), path


def fsdp2(recipe, version=2):
    plugin = SimpleNamespace(mixed_precision_policy=None)
    return FSDP2(SimpleNamespace(is_fsdp2=version == 2, state=SimpleNamespace(fsdp_plugin=plugin)), recipe)


@pytest.mark.parametrize(
    ("changes", "version", "message"),
    [
        ({}, 1, "accelerate is set to FSDP version 1; set fsdp_version to 2"),
        ({"optimizer": "muon"}, 2, "optimizer muon needs whole matrices, which FSDP cuts up; set it to adamw or adam"),
        ({"mixed_precision": "fp16"}, 2, "mixed_precision fp16 was never tried with FSDP; set it to bf16 or no"),
    ],
)
def test_what_fsdp2_refuses(tmp_path, changes, version, message):
    with pytest.raises(RecipeError, match=message):
        fsdp2(toy_recipe(tmp_path, **changes), version)


def test_a_task_that_only_saves_a_whole_model_is_refused_before_it_is_shared_out(tmp_path):
    recipe = toy_recipe(tmp_path)
    task = ToyTask(recipe, None)
    with pytest.raises(RecipeError, match="ToyTask runs on one process or by DDP; use no FSDP or DeepSpeed"):
        fsdp2(recipe).prepare(task, torch.optim.AdamW(task.model.parameters()), task.parts())
