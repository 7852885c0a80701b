"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import stat
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rscc_hf.errors import InputError
from rscc_hf.locks import RUN, beside, exclusive

LITTER = frozenset((".DS_Store", "Thumbs.db", "desktop.ini"))
"""What file managers leave in every folder that they show."""
# Names that are told before "and N more".
_NAMED = 3


def write_text(path: Path, text: str, *, errors: str = "strict") -> None:
    """Write a file as UTF-8; a reader sees the old one or the new one, and an error leaves nothing behind.

    Args:
        path: The file; an existing one is replaced. Missing folders are made.
        text: All of it.
        errors: What becomes of signs that are no text, such as those of names of files; see `str.encode`.

    Raises:
        OSError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
        path.write_text(text, encoding="utf-8", errors=errors)  # a device or a pipe (/dev/null) is not replaced
        return
    part = beside(path, f"{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8", errors=errors)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class NotReplaced(FileExistsError, InputError):
    """An output that is there and stays: one sentence that says why, and the remedy."""


@dataclass(frozen=True)
class Written:
    """What a command writes into a folder, and so may replace there.

    Attributes:
        what: What it is, for sentences: "data set of `rscc data synthesize`".
        why_not: Looks for the mark: the reason why a folder is no such thing (to follow its name), or None.
        names: Patterns (`fnmatch`, of paths below the folder, in which `*` stands for `/` as well) of its files.
        checks: Of files that somebody else may write as well, such as a card: whether one is ours, by the pattern of
            its name.
    """

    what: str
    why_not: Callable[[Path], str | None]
    names: tuple[str, ...]
    checks: Mapping[str, Callable[[Path], bool]] = field(default_factory=dict)

    def foreign(self, folder: Path) -> list[str]:
        """List files, links and empty folders that this does not write, as paths below the folder."""
        found = []
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_dir() and not path.is_symlink() and any(path.iterdir()):
                continue  # its files speak for it
            if path.name in LITTER:
                continue
            if not any(fnmatchcase(name, pattern) for pattern in self.names):
                found.append(name)
            elif not all(is_ours(path) for pattern, is_ours in self.checks.items() if fnmatchcase(name, pattern)):
                found.append(f"{name} (by somebody else)")
        return found


def check_replaceable(target: Path, kind: Written | None, *, overwrite: bool, in_place: bool = False) -> None:
    """Check whether `target` may become a new folder: the one policy of all commands that write one.

    It may where nothing lies, or an empty folder (or a link to one). One that holds something is replaced when that is
    asked for, what is in it carries the mark of its writer, and nothing else is in it. Never replaced are the working
    folder, the home folder, what holds one of them, a mount point, and a link.

    Args:
        target: The folder to make.
        kind: What may be replaced there; None: the caller has looked.
        overwrite: Whether that was asked for.
        in_place: Whether an empty folder is filled, and not replaced: then it may be any.

    Raises:
        NotReplaced: It may not.
    """
    if not target.exists() and not target.is_symlink():
        return
    if target.exists() and not target.is_dir():
        raise NotReplaced(f"{target} is a file; name another folder to make.")
    empty = _is_empty(target)
    if empty and in_place:
        return
    if holds_working_folder(target):
        raise NotReplaced(f"{target} is, or holds, the folder you work in; name another folder to make.")
    if target.is_symlink() and not empty:
        raise NotReplaced(f"{target} is a link; name the folder itself, or another one.")
    if _home().is_relative_to(target.resolve()):
        raise NotReplaced(f"{target} is, or holds, your home folder; name another folder to make.")
    if os.path.ismount(target.resolve()):  # Path.is_mount of Python 3.11 raises on Windows
        raise NotReplaced(f"{target} is a mount point; name a folder below it.")
    if empty:
        return
    if not overwrite:
        raise NotReplaced(f"{target} exists; choose another folder or --overwrite it.")
    if kind is None:
        return
    if (reason := kind.why_not(target)) is not None:
        names = sorted(path.name for path in target.iterdir())
        raise NotReplaced(f"{target} {reason}, so it is not replaced; choose another folder (it holds {some(names)}).")
    if foreign := kind.foreign(target):
        raise NotReplaced(
            f"{target} holds {some(foreign)} beside the {kind.what}, so it is not replaced; move that away, or "
            "choose another folder."
        )


def _is_empty(folder: Path) -> bool:
    """Tell whether there is a folder and nothing in it."""
    own = {beside(folder / RUN, ending).name for ending in ("lock", "softlock")}
    return folder.is_dir() and all(path.name in LITTER or path.name in own for path in folder.iterdir())


def check_replaceable_file(path: Path, what: str, is_ours: Callable[[Path], bool]) -> None:
    """Check the same for one file: it is replaced where it is an earlier output of its kind, or empty.

    Args:
        path: The file to write.
        what: What is written there, for the sentence: "report of `rscc evaluate`".
        is_ours: Whether an existing file is such a thing.

    Raises:
        NotReplaced: It is a folder, or something else.
    """
    if path.is_dir():
        raise NotReplaced(f"{path} is a folder; give the name of a file.")
    if path.is_file() and path.stat().st_size and not is_ours(path):
        raise NotReplaced(f"{path} exists and is no {what}, so it is not replaced; choose another name.")


def some(names: Sequence[str], most: int = _NAMED) -> str:
    """Name the first few: `a, b, c and 4 more`."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


@contextmanager
def new_folder(
    target: Path, *, overwrite: bool = False, kind: Written | None = None, in_place: bool = False
) -> Iterator[Path]:
    """Give a folder to write into that takes `target`'s place at the end; after an error nothing is left of it.

    So it is after Ctrl+C and SIGTERM. One run at a time writes a folder.

    Args:
        target: The folder to make. Missing parents are made.
        overwrite: Whether an existing one is replaced; see `check_replaceable`.
        kind: What may be replaced; None: the caller has looked.
        in_place: Write at `target` itself, for files that tell where they lie. What was there waits beside it until
            the new one is whole, and comes back after an error; after a kill, at the next run. An empty folder stays.

    Raises:
        NotReplaced: `target` is there and stays.
        ValueError: Another run writes it.
    """
    check_replaceable(target, kind, overwrite=overwrite, in_place=in_place)
    place = target.resolve()  # elsewhere where it is a link to an empty folder
    if in_place and _is_empty(place) and not beside(place, "replaced").exists():
        # A lock cannot lie beside what hangs in a folder that is not the user's, such as a mount of a container.
        inside = not os.access(place.parent, os.W_OK)
        with cleaning_up_when_terminated(), exclusive(target, "folder", inside=inside), _filled(place):
            yield target
    elif in_place:
        with cleaning_up_when_terminated(), exclusive(target, "folder"), _replaced(place):
            yield target
    else:
        with (
            cleaning_up_when_terminated(),
            exclusive(target, "folder"),
            tempfile.TemporaryDirectory(prefix=f".{place.name[:100]}.", dir=place.parent) as work,
        ):
            new = Path(work) / "new"
            new.mkdir()
            yield new
            check_replaceable(target, kind, overwrite=overwrite)  # it may have been filled meanwhile
            old = Path(work) / "old"
            try:
                if place.exists():
                    place.rename(old)
                new.rename(place)
            except BaseException:
                if old.exists() and not place.exists():
                    old.rename(place)
                raise


@contextmanager
def _filled(folder: Path) -> Iterator[None]:
    """Empty an empty folder again after an error."""
    if not _is_empty(folder):
        raise NotReplaced(f"{folder} was filled by another run meanwhile; choose another folder.")
    before = set(folder.iterdir())
    try:
        yield
    except BaseException:
        for path in set(folder.iterdir()) - before:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        raise


@contextmanager
def _replaced(target: Path) -> Iterator[None]:
    """Put what is there beside, and back after an error."""
    aside, gone = beside(target, "replaced"), beside(target, "gone")
    shutil.rmtree(gone, ignore_errors=True)
    if aside.exists():
        shutil.rmtree(target, ignore_errors=True)  # half of what a killed run wrote
    elif target.exists():
        target.rename(aside)
    target.mkdir()
    try:
        yield
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        if aside.exists():
            aside.rename(target)
        raise
    if aside.exists():
        aside.rename(gone)  # at once: half of it must not come back
        shutil.rmtree(gone, ignore_errors=True)


def digest_file(path: str | Path) -> str:
    """Compute the SHA-256 of a file in hexadecimal digits; read in blocks, so that a large one needs no memory."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_input_as_output(output: str | Path, inputs: Iterable[str | Path], *, inside: bool = False) -> None:
    """Raise when writing `output` would destroy what is read: it is an input, holds one, or lies in one.

    Compared are resolved paths and, where they exist, device and inode, so that links, hard links, mounts and names
    in another case on a file system that ignores case are seen.

    Args:
        output: The file or folder to write; it need not exist.
        inputs: Files and folders that are read; what does not exist (a name on the Hub) is none.
        inside: Whether the output may lie in a folder that is read (a file that its reader passes over).

    Raises:
        ValueError: The output is, holds or lies in an input.
    """
    output = Path(output)
    target = output.resolve()
    own = _identity(target)
    above = {identity for parent in target.parents if (identity := _identity(parent))}
    seen: dict[Path, tuple[int, int] | None] = {}
    for given in inputs:
        source = Path(given).resolve()
        identity = _identity(source)
        if identity is None:
            continue
        if source == target or identity == own:
            raise InputError(f"{output} is an input ({given}) and would be overwritten; choose another output.")
        for parent in source.parents:
            if parent not in seen:
                seen[parent] = _identity(parent)
            if own is not None and seen[parent] == own:
                raise InputError(
                    f"{output} holds {given}, which is read and would be overwritten; choose another output."
                )
        if not inside and identity in above:
            raise InputError(f"{output} lies in the input {given}, which would be changed; choose another output.")


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode; None where nothing lies."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # ValueError: a name with a null byte
        return None
    return found.st_dev, found.st_ino


def _home() -> Path:
    try:
        return Path.home().resolve()
    except RuntimeError:  # nobody's
        return Path.cwd()


def holds_working_folder(folder: Path) -> bool:
    """Tell whether a folder is the working folder or above it: replaced, it would leave the user in a deleted one."""
    return Path.cwd().is_relative_to(folder.resolve())


@contextmanager
def cleaning_up_when_terminated() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl+C does, so that nothing half-made is left.

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
