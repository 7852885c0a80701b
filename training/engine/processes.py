"""Accelerate, opened for one run and closed again, so that several runs fit into one Python process."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin
from torch.nn.parallel import DistributedDataParallel

from rscc_hf.errors import RecipeError
from rscc_hf.text import reason_of
from rscc_hf.training.engine.backend import Backend, start_backend
from rscc_hf.training.engine.recipe import LoopRecipe

R = TypeVar("R", bound=LoopRecipe)


@contextmanager
def open_backend(recipe: R) -> Iterator[tuple[Backend, R]]:
    """Open the backend of a recipe; its trackers and process group are closed at the end, also after an error.

    The recipe that comes with it says the precision that the run has where the given one says auto (see `settle`).

    Raises:
        RecipeError: The tracker is not installed, or see `start_backend`.
    """
    tracker = None if recipe.tracker == "none" else recipe.tracker
    if tracker is not None and tracker not in [str(name) for name in get_available_trackers()]:
        raise RecipeError(f"tracker {tracker} is not installed; run `pip install {tracker}`, or set tracker to none.")
    ours = not AcceleratorState._shared_state  # a notebook may have an Accelerator of its own
    accelerator = None

    def open_accelerator(mixed_precision: str) -> Accelerator:
        nonlocal accelerator
        handlers = [DistributedDataParallelKwargs(find_unused_parameters=recipe.find_unused_parameters)]
        try:
            accelerator = Accelerator(
                mixed_precision=mixed_precision,
                cpu=recipe.cpu,
                # the loop accumulates by itself; a launcher's setting must not divide the loss once more
                gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
                kwargs_handlers=handlers,
                log_with=tracker,
                project_dir=str(Path(recipe.output_dir)),
            )
        except (ImportError, ValueError) as error:  # what the launcher asks for is not installed, or contradictory
            raise RecipeError(
                f"accelerate cannot begin ({reason_of(error, whole=True)}); mend the launcher's settings."
            ) from error
        return accelerator

    try:
        yield start_backend(recipe, open_accelerator)
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
