"""Checkpoints of a run: written whole or not at all, pruned, and read back without unpickling foreign objects.

A checkpoint is a folder `step-00000120` with `model.safetensors`, `optimizer.pt` (optimiser, schedule and loss scaler;
read with `weights_only=True`), `recipe.yaml`, `best/` (the best model so far, as it lay at the top of the run;
where the file system can, its weights are hard links and take no room) and `state.json` (position in the data, best
score, patience, history, identity of data and start, and size and digest of every other file). There is no state of
random generators to keep: the loop seeds every forward pass and every sample from (recipe's seed, position), see
`loop.py`. `ending.json` is added where the run ended: what the evaluation after the last step changed, which a longer
run does not make there.

Only what has exactly such a name is a checkpoint: a copy `step-00000120-good` is the user's.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model

from rscc_hf.errors import CheckpointError
from rscc_hf.files import digest_file, write_text
from rscc_hf.formats.recipes import RECIPE

logger = logging.getLogger(__name__)

STATE = "state.json"
MODEL = "model.safetensors"
OPTIMIZER = "optimizer.pt"
BEST = "best"
ENDING = "ending.json"
_PARTIAL = ".partial-"
_REPLACED = ".replaced-"
_LINKED_FROM = 1 << 20  # smaller files, which people edit, are copied
_STATE_KEYS = ("step", "epoch", "positions", "recipe")


class Digests:
    """SHA-256 of files, reckoned anew only for a file that has changed since; hard links of one file count as one."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], str] = {}

    def __call__(self, path: Path) -> str:
        """Return what `digest_file` does."""
        seen = path.stat()
        stamp = (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns)
        if stamp not in self._known:
            self._known[stamp] = digest_file(path)
        return self._known[stamp]


def write_checkpoint(
    folder: Path,
    step: int,
    write_weights: Callable[[Path], None],
    optimizer_state: dict[str, Any],
    state: dict[str, Any],
    recipe: str,
    best: Mapping[str, Path] | None = None,
    digest: Callable[[Path], str] = digest_file,
) -> Path:
    """Write `folder/step-XXXXXXXX` beside its final name, flush it to disk, and rename it.

    A process killed at any moment leaves either no folder of that name or a complete one.

    Args:
        folder: The run's `checkpoints` folder.
        step: Optimiser steps done.
        write_weights: Writes the weights into a file, as `load_weights` reads them.
        optimizer_state: State dicts of optimiser, schedule and scaler: tensors and plain values only.
        state: What JSON can hold: the position of the loop.
        recipe: The resolved recipe as YAML.
        best: Files of the best model so far by their names, as they lie now.
        digest: Reckons the digests of these.

    Raises:
        CheckpointError: It cannot be written: no room, or no right to.
    """
    final = folder / name_of(step)
    partial = folder / f"{_PARTIAL}{final.name}"
    try:
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        write_weights(partial / MODEL)
        torch.save(optimizer_state, partial / OPTIMIZER)
        (partial / RECIPE).write_text(recipe, encoding="utf-8")
        files = {path.name: _described(path, digest_file(path)) for path in sorted(partial.iterdir())}
        for name, source in (best or {}).items():
            placed = partial / BEST / name
            place_file(source, placed)
            files[f"{BEST}/{name}"] = _described(placed, digest(placed))
        (partial / STATE).write_text(json.dumps({**state, "files": files}, indent=1), encoding="utf-8")
        flush_all(partial)
        replaced = folder / f"{_REPLACED}{final.name}"
        if final.exists():  # the same step again: a rename cannot replace a folder, and `recover` undoes half a swap
            final.rename(replaced)
        partial.rename(final)
        flush(folder)
        if replaced.exists():
            shutil.rmtree(replaced)
    except (OSError, SafetensorError, RuntimeError) as error:  # RuntimeError: torch's writer, on a full disk
        shutil.rmtree(partial, ignore_errors=True)  # so that what was written until then fills no disk
        raise CheckpointError(
            f"{final} cannot be written ({' '.join(str(error).split())}); make room or mend the folder's rights; "
            "resume=auto then goes on from the newest checkpoint, where there is one."
        ) from error
    return final


def name_of(step: int) -> str:
    """Return the name of a step's checkpoint."""
    return f"step-{step:08d}"


def steps_in(folder: Path) -> dict[int, Path]:
    """Return the checkpoints of a folder by their steps, complete or not, the first step first."""
    found = {}
    for path in folder.glob("step-*"):
        match = re.fullmatch(r"step-(\d{8,})", path.name, re.ASCII)
        if match and path.name == name_of(int(match[1])) and path.is_dir() and not path.is_symlink():
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def replaced_in(folder: Path) -> list[Path]:
    """Return the checkpoints whose place new ones of their steps were about to take at a kill; see `recover`."""
    return _left(folder, _REPLACED)


def place_file(source: Path, target: Path) -> None:
    """Put a file's content at `target`, at once: as a hard link if it is large and the system can, or a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    try:
        if source.stat().st_size < _LINKED_FROM:
            raise OSError
        os.link(source, part)
    except OSError:
        shutil.copy2(source, part)
    part.replace(target)


def flush(path: Path) -> None:
    """Make sure that a file's content, or a folder's list of names, is on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_all(folder: Path) -> None:
    """Flush all that a folder holds, and then the folder."""
    for path in sorted(folder.rglob("*"), reverse=True):
        flush(path)
    flush(folder)


def recover(folder: Path) -> None:
    """Clear what a killed process left in the run's `checkpoints` folder."""
    for path in _left(folder, _REPLACED):
        final = folder / path.name.removeprefix(_REPLACED)
        if final.exists():
            shutil.rmtree(path)
        else:
            path.rename(final)
    for path in _left(folder, _PARTIAL):
        shutil.rmtree(path)


def prune(folder: Path, keep: int) -> None:
    """Delete all but the `keep` newest checkpoints."""
    for path in list(steps_in(folder).values())[:-keep]:
        shutil.rmtree(path)


def drop_after(folder: Path, step: int) -> list[str]:
    """Delete the checkpoints of later steps, which a run that goes back leaves; return their names."""
    later = [path for number, path in steps_in(folder).items() if number > step]
    for path in later:
        shutil.rmtree(path)
    return [path.name for path in later]


def remove_all(folder: Path) -> None:
    """Delete all checkpoints, what killed processes left of some, and the folder if nothing else is in it."""
    for path in [*steps_in(folder).values(), *_left(folder, _REPLACED), *_left(folder, _PARTIAL)]:
        shutil.rmtree(path)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def newest_complete(folder: Path, digest: Callable[[Path], str] = digest_file) -> Path | None:
    """Return the checkpoint of the highest step that has all its files as they were written; None: there is none.

    Where the best model is damaged in each of them, the newest that lacks nothing else: training can go on from it.
    """
    second = None
    for path in reversed(steps_in(folder).values()):
        try:
            damaged = damaged_best(path, verify(path), digest)
        except CheckpointError as error:
            logger.warning("Ignored: %s", error)
            continue
        if damaged is None:
            return path
        logger.warning(
            "%s is damaged: %s is not what was written; it is used only where no other is whole.", path, damaged
        )
        second = second or path
    return second


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Return the JSON part of a checkpoint, after a look at the sizes of its files, but for the best model's.

    Raises:
        CheckpointError: Something is missing or cut off.
    """
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        sizes = {name: _size(described) for name, described in state["files"].items()}
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        hint = "name another one"
        if steps_in(checkpoint) or steps_in(checkpoint / "checkpoints"):
            hint = "name one of those in it, or give the run's folder as output_dir with resume=auto"
        raise CheckpointError(
            f"{checkpoint} is no complete checkpoint: {STATE} is missing or cut off; {hint}."
        ) from error
    for name in _STATE_KEYS:
        if name not in state:
            raise CheckpointError(
                f"{checkpoint} is no checkpoint of this loop: {STATE} has no {name}; name another one."
            )
    for name, size in sizes.items():
        if not name.startswith(f"{BEST}/") and not _has_size(checkpoint / name, size):
            raise CheckpointError(
                f"{checkpoint} is no complete checkpoint: {name} is missing or cut off; name another one."
            )
    return state


def verify(checkpoint: Path) -> dict[str, Any]:
    """Read the state after a look at the contents of the files (of those written before digests were kept: none).

    The best model, which a run can do without, is left to `damaged_best`.

    Raises:
        CheckpointError: Something is missing, cut off or not as it was written.
    """
    state = read_state(checkpoint)
    for name, described in state["files"].items():
        if name.startswith(f"{BEST}/") or not isinstance(described, dict):
            continue
        if digest_file(checkpoint / name) != described["sha256"]:
            raise CheckpointError(
                f"{checkpoint} is damaged: {name} is not what was written; delete the checkpoint, or bring it back."
            )
    return state


def damaged_best(checkpoint: Path, state: dict[str, Any], digest: Callable[[Path], str] = digest_file) -> str | None:
    """Return the first file of a checkpoint's best model that is missing or changed; None: there is none."""
    for path, sha256 in best_files(checkpoint, state).values():
        name = path.relative_to(checkpoint).as_posix()
        if not _has_size(path, _size(state["files"][name])) or digest(path) != sha256:
            return name
    return None


def best_files(checkpoint: Path, state: dict[str, Any]) -> dict[str, tuple[Path, str]]:
    """Return the best model's files that a checkpoint of this state has, by their names, each with its digest."""
    inner = {name.removeprefix(f"{BEST}/"): name for name in state["files"] if name.startswith(f"{BEST}/")}
    return {short: (checkpoint / name, state["files"][name]["sha256"]) for short, name in inner.items()}


def write_ending(checkpoint: Path, ending: dict[str, Any]) -> None:
    """Note the state in which a run ended, after all else was written; make no checkpoint where there is none."""
    if not checkpoint.is_dir():
        logger.warning("%s was deleted meanwhile: the run cannot be continued from its end.", checkpoint)
        return
    write_text(checkpoint / ENDING, json.dumps(ending, indent=1))


def read_ending(checkpoint: Path) -> dict[str, Any] | None:
    """Return what `write_ending` wrote; None: the run did not end there, or has gone on since."""
    try:
        return json.loads((checkpoint / ENDING).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return None


def load_weights(checkpoint: Path, model: torch.nn.Module) -> None:
    """Load the weights into the bare model.

    Raises:
        CheckpointError: A tensor is missing, unexpected or of another shape, or the file is damaged.
    """
    try:
        load_model(model, str(checkpoint / MODEL), strict=True)
    except (RuntimeError, SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{checkpoint / MODEL} does not fit the model of this recipe ({' '.join(str(error).split())}); continue "
            "with the recipe of its run, or name another checkpoint."
        ) from error


def load_optimizer_state(checkpoint: Path) -> dict[str, Any]:
    """Read the states of optimiser, schedule and scaler, tensors on the CPU.

    Raises:
        CheckpointError: The file is damaged.
    """
    try:
        states = torch.load(checkpoint / OPTIMIZER, map_location="cpu", weights_only=True)
        return {name: states[name] for name in ("optimizer", "schedule", "scaler")}
    except Exception as error:  # torch raises nearly anything for bytes that are no such file
        raise CheckpointError(
            f"{checkpoint / OPTIMIZER} is damaged ({type(error).__name__}); delete {checkpoint}, and the run goes on "
            "from the checkpoint before it."
        ) from error


def _described(path: Path, digest: str) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": digest}


def _size(described: Any) -> int:
    """Return the size of a file as `state.json` has it; before digests were kept it had that alone."""
    return int(described["size"] if isinstance(described, dict) else described)


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _left(folder: Path, prefix: str) -> list[Path]:
    return [
        path
        for path in sorted(folder.glob(f"{prefix}step-*"))
        if re.fullmatch(r"step-\d{8,}", path.name.removeprefix(prefix), re.ASCII)
    ]
