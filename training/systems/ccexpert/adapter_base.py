"""Which model adapters were trained on: described for the record beside them, and found again, weight for weight."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers.utils import cached_file

from rscc_hf.errors import InputError
from rscc_hf.formats.records import AdapterBase
from rscc_hf.reading import reading
from rscc_hf.training.engine.run_folder import LAST
from rscc_hf.training.systems.ccexpert.recipe import CCExpertRecipe
from rscc_hf.training.systems.ccexpert.start import Start, read_config, resolve_commit

# Threads that reckon digests: one alone takes longer over 72 B parameters than other processes wait at a barrier.
_READERS = min(8, os.cpu_count() or 1)


def describe_base(start: Start, recipe: CCExpertRecipe) -> AdapterBase:
    """Return what is to be known of the model that a run with adapters starts from, all its weights read.

    Raises:
        RecipeError: The weights cannot be read.
    """
    folder = None if start.commit is not None else Path(start.path).resolve()
    relative = None
    if folder is not None and folder.drive == (run := Path(recipe.output_dir).resolve()).drive:
        relative = Path(os.path.relpath(folder, run)).as_posix()
    return AdapterBase(
        path=start.path if folder is None else str(folder),
        relative=relative,
        commit=start.commit,
        kind=start.kind,
        weights=weights_digest(start.path, start.commit),
        quantization=recipe.quantization,
        compute_dtype=compute_dtype(recipe),
    )


def compute_dtype(recipe: CCExpertRecipe) -> str:
    """Return the format of a quantised language model's products."""
    return "bfloat16" if recipe.mixed_precision == "bf16" else "float32"


def find_base(base: AdapterBase, adapters: Path, given: str | None) -> tuple[str, str | None]:
    """Find where the model lies that adapters were trained on, and the commit where that is the Hub.

    Args:
        base: Its record.
        adapters: Their folder.
        given: Where the user says that it is; None: where it was, also as seen from the adapters.

    Raises:
        InputError: It is not there, or has other weights now.
        RecipeError: Its weights cannot be read.
    """
    name = base.path if base.commit is None else f"{base.path} at {base.commit[:12]}"
    if given is not None:
        path = str(Path(given).expanduser())
        if not Path(path).is_dir() and (Path(path).is_absolute() or path.startswith(".") or path.count("/") > 1):
            raise InputError(
                f"there is no folder {path} to take for what the adapters in {adapters} were trained on; name one "
                "that is there."
            )
        commit = resolve_commit(path, base.commit if given == base.path else None)
        places = [(path, commit)]
    elif base.commit is not None:
        places = [(base.path, resolve_commit(base.path, base.commit))]
    else:
        seen = [] if base.relative is None else [adapters / base.relative]
        if base.relative is not None and adapters.name == LAST:
            seen.append(adapters.parent / base.relative)
        folders = dict.fromkeys(os.path.normpath(str(path)) for path in (base.path, *seen))
        places = [(path, None) for path in folders if (Path(path) / "config.json").is_file()]
        if not places:
            raise InputError(
                f"the adapters in {adapters} belong to {name}, where no model is; say where it lies now (--base)."
            )
    for path, commit in places:
        if read_config(path, commit).model_type == base.kind and weights_digest(path, commit) == base.weights:
            return path, commit
    raise InputError(
        f"the adapters in {adapters} were trained on {name}, and the weights in {places[0][0]} are others; say where "
        "those lie (--base)."
    )


def weights_digest(path: str, commit: str | None) -> str:
    """Return a SHA-256 that stands for the weights of a checkpoint, however they are spread over files.

    Args:
        path: Folder or Hub id.
        commit: Of the latter.

    Raises:
        RecipeError: There are no safetensors, or they cannot be read.
    """
    tensors: dict[str, str] = {}
    with reading(f"checkpoint {path}"):
        for file in _weight_files(path, commit):
            with safe_open(file, framework="pt") as weights, ThreadPoolExecutor(_READERS) as readers:
                names = list(weights.keys())
                tensors.update(zip(names, readers.map(partial(_tensor_digest, weights), names), strict=True))
    return hashlib.sha256(json.dumps(tensors, sort_keys=True).encode()).hexdigest()


def _tensor_digest(weights: Any, name: str) -> str:
    tensor = weights.get_tensor(name).contiguous()
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    digest.update(tensor.reshape(-1).view(torch.uint8).numpy())  # without Python's lock
    return digest.hexdigest()


def _weight_files(path: str, commit: str | None) -> list[str]:
    """Return the files that transformers reads, in its order of preference."""

    def find(name: str, optional: bool) -> str | None:
        flags = dict.fromkeys(("_raise_exceptions_for_missing_entries",), not optional)
        return cached_file(path, name, revision=commit, **flags)

    whole = find("model.safetensors", optional=True)
    if whole is not None:
        return [whole]
    index = find("model.safetensors.index.json", optional=False)
    assert index is not None
    shards = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()
    return [str(find(name, optional=False)) for name in sorted(set(shards))]
