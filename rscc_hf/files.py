"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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
        FileExistsError: `target` exists and is not to be replaced, or holds the working folder.
    """
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; choose another folder or --overwrite it.")
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target} is a file; choose another folder.")
    if holds_working_folder(target):
        raise FileExistsError(f"{target} is, or holds, the folder you work in; choose another folder.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as work:
        new = Path(work) / "new"
        new.mkdir()
        yield new
        old = Path(work) / "old"
        try:
            if target.exists():
                target.rename(old)
            new.rename(target)
        except BaseException:
            if old.exists() and not target.exists():
                old.rename(target)
            raise


def holds_working_folder(folder: Path) -> bool:
    """Whether a folder is the working folder or one above it: replaced, it would leave the user in a deleted one."""
    return Path.cwd().is_relative_to(folder.resolve())


@contextmanager
def cleaning_up_when_terminated() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl+C does, so that nothing half-made is left.

    By default it would end the process at once. Does nothing outside of the main thread, or where the program handles
    SIGTERM itself.
    """
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not end the cleaning
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
