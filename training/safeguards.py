"""What would end in weights that nobody can use, or in none: numbers that are none, a full disk, a full memory."""

import shutil
from pathlib import Path
from typing import Any

import torch

from rscc_hf.training.recipe import RecipeError, TrainingError

_OPTIMIZER_SHARE = 2
"""Numbers that Adam keeps for each that learns."""


def first_not_finite(model: torch.nn.Module) -> str | None:
    """The name of the first parameter that has a NaN or an infinity in it; None: there is none.

    Where processes share parameters out, this process's pieces are looked at.
    """
    for name, parameter in model.named_parameters():
        local: Any = parameter.detach()
        local = local.to_local() if hasattr(local, "to_local") else local
        if local.is_floating_point() and not bool(torch.isfinite(local).all()):
            return name
    return None


def require_finite_start(model: torch.nn.Module) -> None:
    """Raises a `RecipeError` where the weights to start from are no numbers."""
    name = first_not_finite(model)
    if name is not None:
        raise RecipeError(f"The weights to start from are not finite (first {name}): start from others.")


def require_room(folder: Path, model: torch.nn.Module, checkpoints: bool) -> None:
    """Raises where the disk has no room for what a run writes at the least.

    Args:
        folder: Of the run.
        model: Its model, whole.
        checkpoints: Whether a checkpoint is written, too.

    Raises:
        RecipeError: The disk has not as many bytes left.
    """
    weights = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    learning = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    needed = weights + (weights + _OPTIMIZER_SHARE * learning if checkpoints else 0)
    free = shutil.disk_usage(folder).free
    if free < needed:
        what = "a model and a checkpoint" if checkpoints else "the model"
        raise RecipeError(
            f"output_dir {folder} has {free / 1e9:.1f} GB left, and {what} of this run need {needed / 1e9:.1f}: make "
            "room, or name a folder on another disk."
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of the device, or the machine's, is full."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def out_of_memory(error: BaseException) -> TrainingError:
    """The error to raise then."""
    where = "device" if isinstance(error, torch.OutOfMemoryError) else "machine"
    return TrainingError(
        f"The memory of the {where} is full ({' '.join(str(error).split())[:200]}): lower per_device_batch_size "
        "(global_batch_size, and so the result, stays), or set gradient_checkpointing to true."
    )
