"""The tracker of a run, one of accelerate's: its start, and the numbers that it gets."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from rscc_hf.errors import RecipeError
from rscc_hf.formats.training import LogLine
from rscc_hf.training.engine import run_files
from rscc_hf.training.engine.recipe import LoopRecipe


def start_tracker(recipe: LoopRecipe, accelerator: Accelerator, folder: Path, before: list[str]) -> None:
    """Start the tracker of a run; outside of the main process it is only noted that there is one.

    Args:
        recipe: Names the tracker, and is what it is told about the run.
        accelerator: Of the run.
        folder: Of the run.
        before: The tracker's files that were there before.

    Raises:
        RecipeError: It cannot be started; of what it has written nothing is left.
    """
    settings = {name: _flat(value) for name, value in asdict(recipe).items()}
    try:
        accelerator.init_trackers(run_files.TRACKER, config=settings)
    except Exception as error:  # each tracker has errors of its own
        if accelerator.is_main_process:
            run_files.remove_files(folder, set(run_files.tracker_files(folder)).difference(before))
        raise RecipeError(
            f"tracker {recipe.tracker} cannot be started ({type(error).__name__}: "
            f"{' '.join(str(error).split())}); mend that, or set tracker to none."
        ) from error


def tracked(line: LogLine) -> dict[str, float]:
    """Return the numbers of a line of the log, by the names that a tracker groups them by."""
    numbers: dict[str, float] = {}
    for name, value in line.row().items():
        if isinstance(value, dict):
            numbers |= {f"{name}/{inner}": number for inner, number in value.items()}
        elif name not in ("step", "improved"):
            numbers[name if "/" in name else f"training/{name}"] = value
    return numbers


def _flat(value: Any) -> Any:
    """Return what TensorBoard takes as a setting."""
    return value if isinstance(value, int | float | str | bool) else str(value)
