"""What every converter does with its result: a folder that is whole or absent, its provenance, a trial in use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from rscc_hf.cards.rendering import is_ours, own_text
from rscc_hf.files import Written, digest_file, new_folder, refuse_input_as_output, write_text
from rscc_hf.precision import quick_dtype

PROVENANCE = "conversion.json"
"""Written beside the weights by every converter; the model card is rendered from it."""

_READ = {".json", ".safetensors", ".bin", ".txt", ".model"}
_TRIAL = Path(__file__).with_name("output_trial.py")
_OURS = ("mmodalcc", "ccexpert")  # model types


@dataclass(frozen=True)
class Source:
    """A file that was read.

    Attributes:
        name: Its name, without folders of this machine.
        sha256: SHA-256 of its bytes, hexadecimal.
        bytes: Its size.
    """

    name: str
    sha256: str
    bytes: int


def _why_no_checkpoint(folder: Path) -> str | None:
    """Why a folder is no checkpoint that a converter may replace (see `files.Written`)."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except OSError:
        return "is no checkpoint (no config.json)"
    except (ValueError, RecursionError):
        damaged = any(folder.glob("model*.safetensors"))  # else somebody else's config.json
        return None if damaged else "is no checkpoint (config.json is no JSON, and there are no weights)"
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind is None:
        return "is no checkpoint (config.json names no model_type)"
    return None if kind in _OURS else f"is a checkpoint of another kind (model_type {kind!r})"


def _code() -> tuple[str, ...]:
    """Names of the modules that go along with a checkpoint, as `save_pretrained` copies them."""
    specs = [find_spec(f"rscc_hf.{package}") for package in ("modeling", "processing")]  # without importing them
    folders = [Path(place) for spec in specs if spec is not None for place in spec.submodule_search_locations or ()]
    return tuple(sorted({path.name for folder in folders for path in folder.glob("*.py")} - {"__init__.py"}))


def _is_own_card(path: Path) -> bool:
    """Whether a card is all ours: somebody else's stays, and so does what a user added to ours."""
    try:
        card = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return is_ours(card) and not own_text(card)


CHECKPOINT = Written(
    "checkpoint",
    _why_no_checkpoint,
    (
        *("config.json", "generation_config.json", "conversion.json", "README.md", "results.jsonl"),
        *("model.safetensors", "model-[0-9]*-of-[0-9]*.safetensors", "model.safetensors.index.json"),
        *("preprocessor_config.json", "processor_config.json", "chat_template.jinja", "chat_template.json"),
        *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json"),
        *("added_tokens.json", "vocab.json", "merges.txt", *_code()),
    ),
    {"README.md": _is_own_card},
)
"""What converters write, and `rscc card` adds."""


@contextmanager
def new_checkpoint(out: Path, *, overwrite: bool, sources: Sequence[str | Path] = ()) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its place at the end; after an error nothing of it is left.

    So it is after Ctrl+C and SIGTERM, which ends the process with a `SystemExit` here.

    Args:
        out: The checkpoint to make. Missing parents are made.
        overwrite: Whether a checkpoint that is there is replaced. Other folders never are: a slip in the name must
            not cost the user's files (`files.check_replaceable`).
        sources: What is read.

    Raises:
        ValueError: `out` is not to be replaced, or is, holds or lies in a source.
    """
    refuse_input_as_output(out, sources)
    with new_folder(out, overwrite=overwrite, kind=CHECKPOINT) as folder:
        yield folder


def source_of(path: Path, name: str | None = None) -> Source:
    """What identifies a file that was read.

    Args:
        path: The file.
        name: What to call it, such as its path within the release; its own name where absent.
    """
    return Source(name or path.name, digest_file(path), path.stat().st_size)


Stamps = Mapping[Path, tuple[int, int, int]]


def stamps(*places: Path) -> Stamps:
    """Size, time and number of files, to tell later whether they changed.

    Args:
        *places: Files, or folders of which those that converters read are meant; what is not there has none.
    """
    found = [
        path
        for place in places
        for path in (place.iterdir() if place.is_dir() else [place])
        if path.is_file() and (path == place or path.suffix in _READ)
    ]
    return {path: _stamp(path) for path in found}


def check_unchanged(before: Stamps) -> None:
    """Refuse sources that changed while they were converted: the SHA-256 that was taken may be of other bytes.

    Raises:
        ValueError: One did, or is gone.
    """
    for path, stamp in before.items():
        if not path.is_file() or _stamp(path) != stamp:
            raise ValueError(f"{path} changed while it was converted; convert it again.")


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def write_provenance(folder: Path, sources: Sequence[Source], details: Mapping[str, Any]) -> None:
    """Writes `conversion.json`: what was read and by what it was converted.

    Args:
        folder: The new checkpoint.
        sources: The files that were read.
        details: JSON values beside them: `converter` (the command), `dropped` (official names that were not carried
            on), ... No paths of this machine: the file is made to be published.

    Raises:
        ValueError: A value of `details` holds an absolute path.
    """
    written = {
        **details,
        "versions": {name: _version(name) for name in ("rscc_hf", "transformers", "torch", "safetensors")},
        "sources": [asdict(source) for source in sources],
    }
    for text in _strings(written):
        if Path(text).is_absolute():
            raise ValueError(f"{PROVENANCE} would tell the path {text} of this machine; give names without folders.")
    write_text(folder / PROVENANCE, json.dumps(written, indent=2, ensure_ascii=False) + "\n")


def run_a_pair(folder: Path) -> str | None:
    """Loads a checkpoint in a new process in which rscc_hf cannot be imported, and captions a made-up pair.

    The process runs the code that lies in the folder: call it on folders that this package wrote.

    Args:
        folder: The checkpoint.

    Returns:
        The caption; `None` where the folder holds no processor, so that the model was only loaded.

    Raises:
        ValueError: It does not load, a weight is missing or unexpected, or the pair cannot be captioned.
    """
    with tempfile.TemporaryDirectory(prefix="rscc-trial-") as modules:
        environment = {**os.environ, "HF_MODULES_CACHE": modules, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-P", str(_TRIAL), str(folder.resolve()), _dtype_to_try(folder)],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            cwd=modules,
        )
    if done.returncode < 0:
        raise ValueError(
            f"the new checkpoint was stopped by signal {-done.returncode} while it ran a pair; is there memory for it?"
        )
    lines = [line.strip() for line in (done.stdout if done.returncode == 0 else done.stderr).splitlines()]
    last = next((line for line in reversed(lines) if line), "no reason was given")
    if done.returncode:
        raise ValueError(f"the new checkpoint does not work when it is loaded again: {last}")
    return json.loads(last)["caption"]


def _dtype_to_try(folder: Path) -> str:
    """`auto`, or `float32` where bfloat16 is emulated: the same weights, and numbers of the same range."""
    try:
        saved = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("dtype")
    except (OSError, ValueError):
        return "auto"  # the trial will say what is wrong with it
    if saved != "bfloat16":
        return "auto"
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    dtype, _ = quick_dtype(torch.bfloat16, lambda: size, torch.device("cpu"))
    return "float32" if dtype == torch.float32 else "auto"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)
