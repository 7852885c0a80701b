"""How the processes of a run hold its model, update it and write it: one protocol, and the choice of who keeps it.

`Plain` is below: one process, or several with a whole model each (DDP). `backend_fsdp2.py` and `backend_deepspeed.py`
share the model out among the processes; they are imported where the launcher asks for them, and not else. Nothing
outside of these files asks which of them a run has.

A fourth backend keeps `Backend` and is chosen in `start_backend`; `tests/training/engine/test_backend.py` drives the
loop by a small one and shows the order of the calls.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, parse_flag_from_env
from safetensors.torch import save_file, save_model

from rscc_hf.errors import RecipeError
from rscc_hf.training.engine.arithmetic import settle
from rscc_hf.training.engine.batches import Batch
from rscc_hf.training.engine.optimisation import limit_gradients
from rscc_hf.training.engine.recipe import LoopRecipe
from rscc_hf.training.engine.safeguards import saved_tensors
from rscc_hf.training.engine.task import Part, Task

R = TypeVar("R", bound=LoopRecipe)
Writer = Callable[[Path], None]
"""Writes a folder or a file of this name; called in the main process alone."""

_PLAIN = {
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
    DistributedType.MULTI_XPU,
    DistributedType.MULTI_NPU,
}


class Backend(Protocol):
    """What the loop, and a task's validation, need of a way of distribution.

    Every process calls every method, all of them at the same points of a run. In those marked "collective" a process
    waits for the others: one that calls it alone waits for ever.

    Attributes:
        accelerator: Of the run: which process this is, of how many, and on which device.
        by_name: Whether `states` has the optimiser's state by the names of parameters, instead of by their numbers. A
            checkpoint is read by backends of the same kind.
        lockstep: Whether every process must call `generate` as often as the others.
    """

    accelerator: Accelerator
    by_name: bool
    lockstep: bool

    def prepare(self, task: Task, optimizer: torch.optim.Optimizer, parts: list[Part]) -> None:
        """Place model and optimiser on the devices; called once, before all that follows. Collective.

        Args:
            task: Has the bare model, on the CPU, with the weights to go on from. `task.model` stays the model that is
                asked for training mode, buffers and validation. Its buffers stay whole in every process: before a
                validation the loop gives the first process's to all, with every backend (0.1: not with FSDP2).
            optimizer: Of torch. Its groups stay its groups: a schedule changes their learning rates from outside.
            parts: The task's, what learns.

        Raises:
            RecipeError: The task, or the recipe, does not go with the backend.
        """
        ...

    def accumulate(self, batch: Batch, targets: int, *, weight: float, last: bool) -> torch.Tensor:
        """Run a micro-batch forward and backward, in the recipe's precision. Collective.

        The gradient of a step is the sum of all micro-batches of all processes.

        Args:
            batch: On the device.
            targets: Of the whole global batch, see `Task.loss`.
            weight: What the loss is multiplied with; 0 for a process that has no data left.
            last: Whether the process makes no more in this step.

        Returns:
            The loss without its weight, detached: ().
        """
        ...

    def update(self, step: int) -> bool:
        """Clip the gradients as recipe and parts say, take an optimiser step, and drop them. Collective.

        Args:
            step: Its number, for errors.

        Returns:
            Whether it was taken; fp16 skips steps whose scaled gradients overflow.

        Raises:
            TrainingError: The gradients are not finite.
        """
        ...

    def own_tensors(self) -> Iterable[tuple[str, torch.Tensor]]:
        """Give, by name, what this process holds of each tensor that a model is saved with; see also `DeepSpeed`."""
        ...

    def model_writer(self) -> Writer:
        """Give what writes the model into a folder, as `from_pretrained` reads it. Collective."""
        ...

    def weights_writer(self) -> Writer:
        """Give what writes all weights into a file, as `checkpoints.load_weights` reads them. Collective."""
        ...

    def states(self) -> dict[str, Any]:
        """Give the states of optimiser and loss scaler, as "optimizer" and "scaler" (None: there is none). Collective.

        They are tensors and plain values, whole in the main process; in the others they may be anything.
        """
        ...

    def load_states(self, states: dict[str, Any]) -> None:
        """Take up, after `prepare`, what `states` gave in the main process, read in every process. Collective."""
        ...

    def generate(self, batch: Batch, **options: Any) -> torch.Tensor:
        """Generate with the model, in the recipe's precision and without gradients. Collective where `lockstep`.

        Args:
            batch: On the device.
            **options: Of the model's `generate`.

        Returns:
            Ids of tokens, (batch, tokens) int64.
        """
        ...


def asks_for_deepspeed() -> bool:
    """Return whether the launcher wants DeepSpeed; this is how `accelerate launch` says so."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def start_backend(recipe: R, open_accelerator: Callable[[str], Accelerator]) -> tuple[Backend, R]:
    """Start the processes and choose the backend that the launcher asks for.

    Args:
        recipe: As it was given.
        open_accelerator: Makes the `Accelerator` of a precision.

    Returns:
        The backend, and the recipe with the precision that the run has (see `settle`).

    Raises:
        RecipeError: The launcher asks for a kind of distribution that the loop was never tried with, or that does not
            go with the recipe.
    """
    if asks_for_deepspeed():
        from rscc_hf.training.engine import backend_deepspeed

        backend_deepspeed.check(recipe)
        accelerator = open_accelerator("no")  # it has its own autocast
        recipe = settle(recipe, PartialState())
    else:
        # a notebook may have an Accelerator of its own
        existing = AcceleratorState().mixed_precision if AcceleratorState._shared_state else None
        # The process group first, by which all learn one precision. The variable is how a launcher says cpu.
        state = PartialState(cpu=recipe.cpu or parse_flag_from_env("ACCELERATE_USE_CPU"))
        recipe = settle(recipe, state, existing)
        accelerator = open_accelerator(recipe.mixed_precision)
    kind = accelerator.distributed_type
    if kind == DistributedType.DEEPSPEED:
        from rscc_hf.training.engine.backend_deepspeed import DeepSpeed

        return DeepSpeed(accelerator, recipe), recipe
    if kind == DistributedType.FSDP:
        from rscc_hf.training.engine.backend_fsdp2 import FSDP2

        return FSDP2(accelerator, recipe), recipe
    if kind not in _PLAIN:
        raise RecipeError(
            f"accelerate is set to {kind.value}; run on one process, by data parallelism (DDP), FSDP2 or DeepSpeed."
        )
    return Plain(accelerator, recipe), recipe


class Plain:
    """A whole model in every process; see `Backend`.

    Args:
        accelerator: Of the run.
        recipe: With a settled precision.
    """

    by_name = False
    lockstep = False
    task: Task
    parts: list[Part]
    model: Any
    """As prepared: in several processes it exchanges gradients."""
    optimizer: Any
    """As prepared."""

    def __init__(self, accelerator: Accelerator, recipe: LoopRecipe):
        self.accelerator, self.recipe = accelerator, recipe

    def prepare(self, task: Task, optimizer: torch.optim.Optimizer, parts: list[Part]) -> None:
        """See `Backend`."""
        self.task, self.parts = task, parts
        self.model, self.optimizer = self.accelerator.prepare(task.model, optimizer)

    def accumulate(self, batch: Batch, targets: int, *, weight: float, last: bool) -> torch.Tensor:
        """See `Backend`."""
        accelerator = self.accelerator
        with nullcontext() if last else accelerator.no_sync(self.model):
            with accelerator.autocast():  # which accelerate leaves out with FSDP2
                loss = self.task.loss(self.model, batch, targets)
            accelerator.backward(self._shared(loss, weight))
        return loss.detach()

    def _shared(self, loss: torch.Tensor, weight: float) -> torch.Tensor:
        """Return what to differentiate: the processes take the mean of their gradients, the sum is wanted."""
        return loss * weight * self.accelerator.num_processes

    def update(self, step: int) -> bool:
        """See `Backend`; that gradients are finite is left to the loss, and to the weights before they are saved."""
        self.accelerator.unscale_gradients(self.optimizer)
        limit_gradients(self.parts, self.recipe.max_grad_norm)
        self.optimizer.step()
        skipped = self.accelerator.optimizer_step_was_skipped
        self.optimizer.zero_grad()
        return not skipped

    def own_tensors(self) -> Iterable[tuple[str, torch.Tensor]]:
        """See `Backend`."""
        return saved_tensors(self.task.model)

    def model_writer(self) -> Writer:
        """See `Backend`."""
        return self.task.save

    def weights_writer(self) -> Writer:
        """See `Backend`; of tied weights one is written."""
        model = self.task.model
        return lambda path: save_model(model, str(path))

    def states(self) -> dict[str, Any]:
        """See `Backend`."""
        scaler = self.accelerator.scaler
        return {"optimizer": self.optimizer.state_dict(), "scaler": None if scaler is None else scaler.state_dict()}

    def load_states(self, states: dict[str, Any]) -> None:
        """See `Backend`."""
        self.optimizer.load_state_dict(states["optimizer"])
        if states["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(states["scaler"])

    def generate(self, batch: Batch, **options: Any) -> torch.Tensor:
        """See `Backend`."""
        model: Any = self.task.model  # a PreTrainedModel need not generate, as far as its type says
        with torch.no_grad(), self.accelerator.autocast():
            return model.generate(**batch, **options)


class SharedOut(Plain, ABC):
    """What is common where the processes share the model out: files hold whole tensors by name."""

    by_name = True

    def prepare(self, task: Task, optimizer: torch.optim.Optimizer, parts: list[Part]) -> None:
        """See `Backend`."""
        self.check_task(task, parts)
        super().prepare(task, optimizer, parts)

    def check_task(self, task: Task, parts: list[Part]) -> None:
        """Refuse a task that only saves a model in one piece, now instead of after an epoch.

        Raises:
            RecipeError: It is such a task.
        """
        if type(task).save_weights is Task.save_weights:
            task.save_weights(Path(self.recipe.output_dir), {})  # says so

    @abstractmethod
    def weights(self) -> dict[str, torch.Tensor]:
        """Give all weights, on the CPU, tied ones under both names; none outside of the main process. Collective."""

    @abstractmethod
    def optimizer_state(self) -> dict[str, Any]:
        """Give the optimiser's state by names of parameters; empty outside of the main process. Collective."""

    @abstractmethod
    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        """Take up what `optimizer_state` gave. Collective."""

    def model_writer(self) -> Writer:
        """See `Backend`."""
        task, weights = self.task, self.weights()
        return lambda folder: task.save_weights(folder, weights)

    def weights_writer(self) -> Writer:
        """See `Backend`; tied weights are written under both names."""
        weights = self.weights()
        return lambda path: save_file({name: tensor.clone() for name, tensor in weights.items()}, path)

    def states(self) -> dict[str, Any]:
        """See `Backend`; fp16, which alone has a scaler, is refused."""
        return {"optimizer": self.optimizer_state(), "scaler": None}

    def load_states(self, states: dict[str, Any]) -> None:
        """See `Backend`."""
        self.load_optimizer_state(states["optimizer"])
