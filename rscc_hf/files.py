"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a file as UTF-8; a reader sees the old one or the new one, and an error leaves nothing behind.

    Args:
        path: The file; an existing one is replaced. Missing folders are made.
        text: All of it.

    Raises:
        OSError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def new_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write into that takes `target`'s place at the end; after an error nothing is left of it.

    Args:
        target: The folder to make. Missing parents are made.
        overwrite: Whether an existing one is replaced.

    Raises:
        FileExistsError: `target` exists and is not to be replaced.
    """
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; choose another folder or --overwrite it.")
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target} is a file; choose another folder.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as work:
        new = Path(work) / "new"
        new.mkdir()
        yield new
        if target.exists():
            target.rename(Path(work) / "old")
        new.rename(target)
