"""What would end in weights that nobody can use, or in none: numbers that are none, a full disk, a full memory."""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from rscc_hf.errors import RecipeError, TrainingError
from rscc_hf.training.engine import checkpoints, run_files
from rscc_hf.training.engine.task import Task, bytes_of

_OPTIMIZER_SHARE = 2
"""Numbers that Adam keeps for each that learns."""


def first_not_finite(tensors: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """Return the name of the first tensor with a NaN or an infinity; None: there is none."""
    for name, tensor in tensors:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.detach()).all()):
            return name
    return None


def saved_tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield, by name, the weights that are saved: parameters and buffers such as the statistics of batch norms.

    A buffer that `state_dict` leaves out, such as a mask with infinities, is made anew and not saved.
    """
    yield from model.named_parameters()
    for place, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f"{place}.{name}" if place else name, buffer


def require_finite_start(model: torch.nn.Module) -> None:
    """Raise a `RecipeError` where the weights to start from are no numbers."""
    name = first_not_finite(saved_tensors(model))
    if name is not None:
        raise RecipeError(f"The weights to start from are not finite (first {name}); start from others.")


def require_room(folder: Path, task: Task, with_checkpoint: bool, overwrite: bool) -> None:
    """Raise where the disk has no room for what a run writes at the least.

    Args:
        folder: Of the run.
        task: Has the model, whole.
        with_checkpoint: Whether a checkpoint is written, too.
        overwrite: Whether the run that the folder holds is deleted first.

    Raises:
        RecipeError: The disk has not as many bytes left.
    """
    needed = task.saved_bytes()
    if with_checkpoint:
        learning = sum(parameter.nbytes for parameter in task.model.parameters() if parameter.requires_grad)
        needed += bytes_of(task.model) + _OPTIMIZER_SHARE * learning
    usage = shutil.disk_usage(folder)
    if usage.total == 0:  # some network file systems do not say
        return
    free = usage.free + (_bytes_of_run(folder) if overwrite else 0)
    if free < needed:
        what = "a model and a checkpoint" if with_checkpoint else "the model"
        raise RecipeError(
            f"output_dir {folder} has {free / 1e9:.1f} GB left, and {what} of this run need {needed / 1e9:.1f}; make "
            "room, or name a folder on another disk."
        )


def _bytes_of_run(folder: Path) -> int:
    """Return what deleting the run in a folder sets free; files that have a name elsewhere, too, stay."""
    record = run_files.read_record(folder)
    files = [folder / name for name in record.model] + [folder / run_files.LAST / name for name in record.last]
    for path in checkpoints.steps_in(folder / "checkpoints").values():
        files += [inner for inner in path.rglob("*") if inner.is_file()]
    stats = [path.lstat() for path in files]
    names = Counter((stat.st_dev, stat.st_ino) for stat in stats)
    sizes = {
        (stat.st_dev, stat.st_ino): stat.st_size for stat in stats if stat.st_nlink <= names[stat.st_dev, stat.st_ino]
    }
    return sum(sizes.values())


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the memory of the device, or the machine's, is full."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def out_of_memory(error: BaseException) -> TrainingError:
    """Return the error to raise then."""
    where = "device" if isinstance(error, torch.OutOfMemoryError) else "machine"
    return TrainingError(
        f"The memory of the {where} is full ({' '.join(str(error).split())[:200]}); lower per_device_batch_size "
        "(global_batch_size, and so the result, stays), or set gradient_checkpointing to true."
    )
