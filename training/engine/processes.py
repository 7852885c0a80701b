"""Accelerate, opened for one run and closed again, so that several runs fit into one Python process."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.tracking import get_available_trackers
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    GradientAccumulationPlugin,
    parse_flag_from_env,
)
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.nn.parallel import DistributedDataParallel

from rscc_hf.errors import RecipeError
from rscc_hf.training.engine import backend_deepspeed
from rscc_hf.training.engine.arithmetic import settle
from rscc_hf.training.engine.recipe import LoopRecipe

R = TypeVar("R", bound=LoopRecipe)
_SUPPORTED = {
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
    DistributedType.MULTI_XPU,
    DistributedType.MULTI_NPU,
    DistributedType.FSDP,
    DistributedType.DEEPSPEED,
}


@contextmanager
def open_accelerator(recipe: R) -> Iterator[tuple[Accelerator, R]]:
    """An `Accelerator` for the recipe; its trackers and process group are closed at the end, also after an error.

    The recipe that comes with it says the precision that the run has where the given one says auto (see `settle`).

    Raises:
        RecipeError: The tracker is not installed, or the launcher asks for a kind of distribution that the loop was
            never tried with, or that does not go with the recipe.
    """
    tracker = None if recipe.tracker == "none" else recipe.tracker
    if tracker is not None and tracker not in [str(name) for name in get_available_trackers()]:
        raise RecipeError(f"tracker {tracker} is not installed: `pip install {tracker}`, or set tracker to none.")
    deepspeed = backend_deepspeed.asked_for()
    if deepspeed:
        backend_deepspeed.check(recipe)
    ours = not AcceleratorState._shared_state  # a notebook may have an Accelerator of its own
    existing = None if ours or deepspeed else AcceleratorState().mixed_precision

    def make(mixed_precision: str) -> Accelerator:
        return Accelerator(
            mixed_precision=mixed_precision,
            cpu=recipe.cpu,
            # the loop accumulates by itself; a launcher's setting must not divide the loss once more
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=recipe.find_unused_parameters)],
            log_with=tracker,
            project_dir=str(Path(recipe.output_dir)),
        )

    accelerator = None
    try:
        if deepspeed:  # has its own autocast, see `backend_deepspeed`
            accelerator = make("no")
            recipe = settle(recipe, PartialState(), existing)
        else:
            # The process group first, by which all learn one precision. The variable is how a launcher says cpu.
            state = PartialState(cpu=recipe.cpu or parse_flag_from_env("ACCELERATE_USE_CPU"))
            recipe = settle(recipe, state, existing)
            accelerator = make(recipe.mixed_precision)
        if accelerator.distributed_type not in _SUPPORTED:
            kind = accelerator.distributed_type.value
            raise RecipeError(
                f"accelerate is set to {kind}: the loop runs on one process, by data parallelism (DDP), FSDP2 or "
                "DeepSpeed."
            )
        if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
            raise RecipeError("accelerate is set to FSDP version 1: set fsdp_version to 2.")
        if accelerator.is_fsdp2:
            _configure_fsdp(accelerator, recipe)
        if accelerator.distributed_type == DistributedType.DEEPSPEED:
            backend_deepspeed.configure(accelerator, recipe)
        yield accelerator, recipe
    finally:
        if accelerator is not None:
            for opened in getattr(accelerator, "trackers", []):
                opened.finish()
            release_process_group(accelerator._models)
            accelerator.free_memory()
        if ours:
            if "fork_launched" in PartialState._shared_state:  # else it failed while it began
                PartialState().destroy_process_group()
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()


def release_process_group(models: Iterable[torch.nn.Module]) -> None:
    """Take from models of data parallelism what holds the process group, before it is destroyed.

    Their reducers are freed with Python's lock held (torch 2.13). Were one of them the last to hold the group, its
    destructor would wait for the group's threads, of which one may wait for that lock: for ever.

    Args:
        models: What accelerate prepared; a wrapper that is among them is of no further use.
    """
    for model in models:
        if isinstance(model, DistributedDataParallel):
            for name in ("logger", "reducer"):  # the logger holds the reducer too
                model.__dict__.pop(name, None)


def _configure_fsdp(accelerator: Accelerator, recipe: LoopRecipe) -> None:
    if recipe.optimizer == "muon":
        raise RecipeError("optimizer muon needs whole matrices, which FSDP cuts up: set it to adamw or adam.")
    if recipe.mixed_precision == "fp16":
        raise RecipeError("mixed_precision fp16 was never tried with FSDP: set it to bf16 or no.")
    # Float32 is gathered and summed, autocast does the rest, as in one process. accelerate's own policy for bf16 would
    # round the loss and add up micro-batches in bf16; sums in float32 beside it fail with adapters (torch 2.13).
    accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy()
