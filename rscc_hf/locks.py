"""Locks: one run at a time writes a file or folder."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from rscc_hf.errors import InputError

# How often, and how long after one another (seconds), a lock is tried that may just have been let go of.
_TRIES, _PAUSE = 3, 0.05
# What file systems say that know no locks (Lustre, NFS and FUSE, as some are mounted).
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
RUN = "run"  # names the lock in a folder beside which none can lie


def beside(path: Path, ending: str) -> Path:
    """Make a hidden name beside a file or folder; of a name that leaves no room for the ending, a digest stands."""
    name = path.name
    if len(os.fsencode(name)) > 200:  # most file systems end at 255 bytes
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return path.with_name(f".{name}.{ending}")


@contextmanager
def exclusive(path: str | Path, what: str = "output", *, inside: bool = False) -> Iterator[None]:
    """Let one run at a time write a file or folder: a second, in this process or another, is refused at once.

    A hidden lock lies beside `path` meanwhile. The system lets go of it when its holder ends, however that ends, so
    nothing that a killed run leaves behind can block. On a file system that knows no locks a file takes its place that
    tells its holder: one of this machine is known to have ended, for one of another the sentence names the file.

    Args:
        path: The file or folder that is written; links are followed. It need not exist; missing parents are made.
        what: What it is, for the sentence: "output", "run folder".
        inside: Whether the lock lies in the folder `path`, which exists, and not beside it.

    Raises:
        ValueError: Another run holds it.
        OSError: The folder cannot be written.
    """
    path = Path(path)
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    place = beside(target / RUN if inside else target, "lock")
    lock = FileLock(place, fallback_to_soft=False)
    held: bool | None = None
    try:
        held = _acquire(lock, place)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    if held is None:
        with _exclusive_by_name(path, place, what):
            yield
        return
    if not held:
        raise InputError(
            f"{path} is being written by another run{_holder(place)}; wait for it or choose another {what}."
        )
    try:
        with suppress(OSError):  # only for the sentence; Windows may keep others from a locked file
            place.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        # While it is still held: afterwards it may be another's. Who opened it before and locks it now finds that its
        # name is gone and tries again. Windows removes no open file; there an empty one stays until after the release.
        with suppress(OSError):
            place.unlink(missing_ok=True)
        lock.release()
        if os.name == "nt":
            with suppress(OSError):
                place.unlink(missing_ok=True)


@contextmanager
def _exclusive_by_name(path: Path, place: Path, what: str) -> Iterator[None]:
    """Do as `exclusive` where there are no locks: that a file is there tells of its holder."""
    with suppress(OSError):
        if not place.stat().st_size:  # of the attempt to lock it
            place.unlink()
    place = place.with_suffix(".softlock")  # of another name: what is left of attempts must not be taken for it
    lock = SoftFileLock(place)
    if not _acquire(lock, place):
        raise InputError(
            f"{path} is being written by another run{_holder(place)}; wait for it (or remove {place}, if that run has "
            f"ended), or choose another {what}."
        )
    try:
        yield  # what the file says is for those who look whether its holder has ended
    finally:
        lock.release()  # removes it


def _acquire(lock: BaseFileLock, place: Path) -> bool:
    """Take the lock, if it can be had; it may be removed between opening and locking, hence a few tries."""
    for _ in range(_TRIES):
        try:
            lock.acquire(blocking=False)
        except Timeout:
            time.sleep(_PAUSE)
            continue
        if place.exists():
            return True
        lock.release()
    return False


def _holder(place: Path) -> str:
    """Describe the holder, ` (process 12 on host)`, as far as it could say."""
    with suppress(OSError, UnicodeDecodeError):
        lines = place.read_text(encoding="utf-8").split("\n")
        if len(lines) > 2:  # as filelock writes them
            return f" (process {lines[0]} on {lines[1]})"
        if lines[0]:
            return f" ({lines[0]})"
    return ""
