"""Checkpoints of a run: written whole or not at all, pruned, and read back without unpickling foreign objects.

A checkpoint is a folder `step-00000120` with `model.safetensors`, `optimizer.pt` (optimiser, schedule and loss scaler;
read with `weights_only=True`), `recipe.yaml` and `state.json` (position in the data, best score, patience, history,
and the size of every other file). There is no state of random generators to keep: the loop seeds every forward pass
and every sample from (recipe's seed, position), see `loop.py`.
"""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_file, save_model

logger = logging.getLogger(__name__)

STATE = "state.json"
MODEL = "model.safetensors"
OPTIMIZER = "optimizer.pt"
RECIPE = "recipe.yaml"
_PARTIAL = ".partial-"
_REPLACED = ".replaced-"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; one sentence that names it and the remedy."""


def write_checkpoint(
    folder: Path,
    step: int,
    model: torch.nn.Module | dict[str, torch.Tensor],
    optimizer_state: dict[str, Any],
    state: dict[str, Any],
    recipe: str,
) -> Path:
    """Writes `folder/step-XXXXXXXX` beside its final name, flushes it to disk, and renames it.

    A process killed at any moment leaves either no folder of that name or a complete one.

    Args:
        folder: The run's `checkpoints` folder.
        step: Optimiser steps done.
        model: The bare model, not its distributed wrapper; or its whole state where processes share it out.
        optimizer_state: State dicts of optimiser, schedule and scaler: tensors and plain values only.
        state: What JSON can hold: the position of the loop.
        recipe: The resolved recipe as YAML.
    """
    final = folder / f"step-{step:08d}"
    partial = folder / f"{_PARTIAL}{final.name}"
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    if isinstance(model, dict):
        save_file({name: tensor.clone() for name, tensor in model.items()}, partial / MODEL)  # tied ones twice
    else:
        save_model(model, str(partial / MODEL))
    torch.save(optimizer_state, partial / OPTIMIZER)
    (partial / RECIPE).write_text(recipe, encoding="utf-8")
    files = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
    (partial / STATE).write_text(json.dumps({**state, "files": files}, indent=1), encoding="utf-8")
    for path in partial.iterdir():
        flush(path)
    flush(partial)
    replaced = folder / f"{_REPLACED}{final.name}"
    if final.exists():  # the same step again: a rename cannot replace a folder, and `recover` undoes half a swap
        final.rename(replaced)
    partial.rename(final)
    flush(folder)
    if replaced.exists():
        shutil.rmtree(replaced)
    return final


def flush(path: Path) -> None:
    """Makes sure that a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def recover(folder: Path) -> None:
    """Clears what a killed process left in the run's `checkpoints` folder."""
    for path in folder.glob(f"{_REPLACED}*"):
        final = folder / path.name.removeprefix(_REPLACED)
        if final.exists():
            shutil.rmtree(path)
        else:
            path.rename(final)
    for path in folder.glob(f"{_PARTIAL}*"):
        shutil.rmtree(path)


def prune(folder: Path, keep: int) -> None:
    """Deletes all but the `keep` newest checkpoints."""
    for path in sorted(folder.glob("step-*"), key=_step)[:-keep]:
        shutil.rmtree(path)


def newest_complete(folder: Path) -> Path | None:
    """The checkpoint of the highest step that has all its files in full; None: there is none."""
    for path in sorted(folder.glob("step-*"), key=_step, reverse=True):
        try:
            read_state(path)
        except CheckpointError as error:
            logger.warning("Ignored: %s", error)
        else:
            return path
    return None


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The JSON part of a checkpoint, after a look at the sizes of its files.

    Raises:
        CheckpointError: Something is missing or cut off.
    """
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        sizes = state["files"]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{checkpoint} is no complete checkpoint: {STATE} is missing or cut off.") from error
    for name, size in sizes.items():
        path = checkpoint / name
        if not path.is_file() or path.stat().st_size != size:
            raise CheckpointError(f"{checkpoint} is no complete checkpoint: {name} is missing or cut off.")
    return state


def load_weights(checkpoint: Path, model: torch.nn.Module) -> None:
    """Loads the weights into the bare model.

    Raises:
        CheckpointError: A tensor is missing, unexpected or of another shape.
    """
    try:
        load_model(model, str(checkpoint / MODEL), strict=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"{checkpoint / MODEL} does not fit the model of this recipe: {' '.join(str(error).split())}"
        ) from error


def load_optimizer_state(checkpoint: Path) -> dict[str, Any]:
    """Optimiser, schedule and scaler of a checkpoint, tensors on the CPU."""
    return torch.load(checkpoint / OPTIMIZER, map_location="cpu", weights_only=True)


def _step(path: Path) -> int:
    digits = path.name.removeprefix("step-")
    return int(digits) if digits.isdigit() else -1
