"""What every converter does with its result: a folder that is whole or absent, its provenance, a trial in use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rscc_hf.errors import InputError
from rscc_hf.files import digest_file
from rscc_hf.formats.records import Conversion, Source

_READ = {".json", ".safetensors", ".bin", ".txt", ".model"}


def source_of(path: Path, name: str | None = None) -> Source:
    """Return what identifies a file that was read.

    Args:
        path: The file.
        name: What to call it, such as its path within the release; its own name where absent.
    """
    return Source(name or path.name, digest_file(path), path.stat().st_size)


Stamps = Mapping[Path, tuple[int, int, int]]


def stamps(*places: Path) -> Stamps:
    """Return the size, time and number of files, to tell later whether they changed.

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
            raise InputError(f"{path} changed while it was converted; convert it again.")


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def write_provenance(folder: Path, sources: Sequence[Source], details: Mapping[str, Any]) -> None:
    """Write what was read and by what it was converted.

    Args:
        folder: The new checkpoint.
        sources: The files that were read.
        details: What a `Conversion` tells beside them. No paths of this machine: the file is made to be published.

    Raises:
        ValueError: A value of `details` holds an absolute path.
    """
    written = {
        **details,
        "versions": {name: _version(name) for name in ("rscc_hf", "transformers", "torch", "safetensors")},
    }
    for text in _strings([written, [source.name for source in sources]]):
        if Path(text).is_absolute():
            raise InputError(
                f"{Conversion.NAME} would tell the path {text} of this machine; give names without folders."
            )
    Conversion.write(folder, written, sources)


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
