"""What of a folder goes to the Hub, what stays here, and what forbids that anything goes."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rscc_hf.errors import InputError, PushError
from rscc_hf.formats.recipes import RECIPE, load_yaml
from rscc_hf.formats.training import TrainingSummary
from rscc_hf.hub.leaks import is_absolute, leak_in_file
from rscc_hf.hub.pickles import pickle_in

# What a run leaves beside its model (see rscc_hf.training.engine.run_folder), and what tools leave anywhere.
_OF_A_RUN = {
    "checkpoints": "for going on with the run",
    "last": "the last weights of the run",
    "tracker": "of the tracker",
}
_OF_TOOLS = {"__pycache__": "compiled Python", "runs": "of a tracker", "wandb": "of a tracker"}
_UNFINISHED = (".part", ".partial", ".tmp", ".lock", ".incomplete")
SHORTENED = (RECIPE, TrainingSummary.NAME)
"""Files of a training run in which paths may be cut to their last part."""


@dataclass(frozen=True)
class Contents:
    """What was chosen of a folder.

    Attributes:
        files: Path by name in the repository.
        left_out: Names that stay here, each with the reason.
    """

    files: dict[str, Path]
    left_out: dict[str, str]


def choose_files(folder: Path, kind: str = "model") -> Contents:
    """Choose what belongs to a model or a data set.

    Hidden files stay here, and so do folders that are links, and what a training run leaves beside its model:
    checkpoints for going on, the last weights, the tracker's files.

    Args:
        folder: The folder.
        kind: "model" or "dataset".

    Raises:
        PushError: A file is a link that leads out of the folder (other than those of the Hub's cache), or shards of a
            data set lie in a linked folder.
    """
    files: dict[str, Path] = {}
    left_out: dict[str, str] = {}
    reasons = {**_OF_TOOLS, **(_OF_A_RUN if kind == "model" else {})}
    for here, folders, names in os.walk(folder):
        where = Path(here).relative_to(folder)
        for name in sorted(folders):
            reason = "hidden" if name.startswith(".") else reasons.get(name)
            if (Path(here) / name).is_symlink():  # os.walk does not follow it, but reading a data set does
                if kind == "dataset" and reason is None and any((Path(here) / name).glob("*.parquet")):
                    raise PushError(f"{(where / name).as_posix()} is a link to a folder of shards; put a copy there.")
                left_out[f"{(where / name).as_posix()}/"] = reason or "a link to a folder"
                folders.remove(name)
            elif reason is not None and (name in _OF_TOOLS or name.startswith(".") or where == Path()):
                left_out[f"{(where / name).as_posix()}/"] = reason
                folders.remove(name)
        folders.sort()
        for name in sorted(names):
            shown = (where / name).as_posix()
            if name.startswith("."):
                left_out[shown] = "hidden"
            elif name.endswith(_UNFINISHED):
                left_out[shown] = "unfinished"
            elif re.match(r"events\.out\.tfevents\.", name):
                left_out[shown] = "of a tracker"
            else:
                files[shown] = Path(here) / name
    for shown, path in files.items():
        if path.is_symlink() and path.exists() and not _may_lead(path.resolve(), folder.resolve()):
            raise PushError(f"{shown} is a link to {path.resolve()}, outside {folder}; put a copy there or remove it.")
    return Contents(files, left_out)


def _may_lead(target: Path, folder: Path) -> bool:
    """Tell whether a link may lead there: within the folder, or as in the Hub's cache (snapshots/REVISION, blobs)."""
    if target.is_relative_to(folder):
        return True
    return folder.parent.name == "snapshots" and target.parent == folder.parent.parent / "blobs"


def check_files(files: Mapping[str, Path], folder: Path | None = None) -> None:
    """Refuse pickles, secrets and paths of this machine.

    Args:
        files: Path by name in the repository.
        folder: What is pushed; paths in the folder that it lies in are of this machine, too.

    Raises:
        PushError: One sentence that names the first such file and the remedy.
    """
    parents = [] if folder is None else sorted({str(folder.absolute().parent), str(folder.resolve().parent)})
    for name, path in files.items():
        if not path.is_file():
            raise PushError(f"{name} leads nowhere; remove it.")
        held = pickle_in(path)
        if held is not None:
            raise PushError(
                f"{name} {held}, which can run code on the machine that opens it; remove it, and save weights as "
                "safetensors (save_pretrained)."
            )
    for name, path in files.items():
        try:
            leak = leak_in_file(path, name, parents)
        except ValueError as error:
            raise PushError(str(error)) from error
        if leak is not None:
            more = " or push with --shorten-paths" if name in SHORTENED and "of this machine" in leak else ""
            raise PushError(f"{name} {leak}{more}.")


def shortened(path: Path) -> tuple[str, list[str]]:
    """Return a recipe or a summary with absolute paths cut to their last part, and the keys in which that was done.

    Args:
        path: One of `SHORTENED` (YAML or JSON).

    Raises:
        PushError: It cannot be read.
    """
    text = path.read_text(encoding="utf-8")
    try:
        content = load_yaml(text) if path.suffix == ".yaml" else json.loads(text)
    except (InputError, json.JSONDecodeError) as error:
        raise PushError(f"{path.name} cannot be read ({error}); mend or remove it.") from error
    changed: list[str] = []
    if isinstance(content, dict):
        content = {key: _cut(key, value, changed) for key, value in content.items()}
    if not changed:
        return text, []
    if path.suffix == ".yaml":
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True), changed
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n", changed


def _cut(key: str, value: Any, changed: list[str]) -> Any:
    if isinstance(value, list):
        return [_cut(key, item, changed) for item in value]
    if isinstance(value, dict):
        return {name: _cut(key, item, changed) for name, item in value.items()}
    if not is_absolute(value):
        return value
    if key not in changed:
        changed.append(key)
    return re.split(r"[\\/]", value.rstrip("\\/"))[-1]


@contextmanager
def staged(files: Mapping[str, Path], written: Mapping[str, str]) -> Iterator[Path]:
    """Make a folder with exactly what is to be pushed: links to files, and texts that are written anew.

    Args:
        files: Path by name in the repository.
        written: Text by name; takes the place of a file of that name.
    """
    with tempfile.TemporaryDirectory(prefix="rscc-push-") as work:
        stage = Path(work) / "stage"
        stage.mkdir()
        for name, path in files.items():
            if name not in written:
                _link(path.resolve(), stage / name)
        for name, text in written.items():
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            (stage / name).write_text(text, encoding="utf-8")
        yield stage


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(source)
    except OSError:  # Windows without the right to
        shutil.copy2(source, target)
