"""Finding pickles by what a file holds, whatever it is called. Nothing is ever unpickled."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from rscc_hf.hub.pickle_walk import is_pickle

SUFFIXES = frozenset({".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".dill", ".mar"})
"""What pickles are called. A file of such a name is taken for one even when it is empty."""

_HEAD = 64 * 1024  # bytes that tell what a file is
_INNER = 64 << 20  # bytes of what is inside an archive or compressed that are looked at
_DEPTH = 3  # archives in archives
_MEMBERS = 10_000
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError)
# How compressed files begin, and what takes them apart.
_COMPRESSED: tuple[tuple[bytes, Callable[[Any], Any]], ...] = (
    (b"\x1f\x8b", lambda file: gzip.GzipFile(fileobj=file)),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\x00", lzma.LZMAFile),
    (b"]\x00\x00", lzma.LZMAFile),
    (b"\x78", lambda file: io.BytesIO(zlib.decompressobj().decompress(file.read(_INNER), _INNER + 1))),
)


def pickle_in(path: Path) -> str | None:
    """Tell how a file holds a pickle ("is a pickle", "holds a pickle (archive/data.pkl)"); None: it holds none.

    Looked at are pickles of every protocol, archives of torch (zip) and tar with members that are pickles, numpy
    files with objects, and compressed pickles as joblib writes them.

    Args:
        path: The file; only its beginning and the directory of an archive are read.
    """
    with path.open("rb") as file:
        found = _in_stream(file, _DEPTH)
    if found is not None:
        return found
    return f"is named like a pickle ({path.suffix})" if path.suffix.lower() in SUFFIXES else None


def _in_stream(file: IO[bytes], depth: int, cut: bool = False) -> str | None:
    """Tell what a seekable file holds; `cut`: it is the beginning of a longer one."""
    if is_pickle(file, cut):
        return "is a pickle"
    file.seek(0)
    head = file.read(_HEAD)
    if head.startswith(b"\x93NUMPY"):
        return "holds pickled objects (numpy)" if _numpy_holds_objects(head) else None
    if head.startswith(_ZIP) or zipfile.is_zipfile(file):
        return _in_zip(file, depth, cut)
    if head[257:262] == b"ustar":
        return _in_tar(file, depth, cut)
    for magic, opened in _COMPRESSED:
        if head.startswith(magic):
            file.seek(0)
            found = _in_compressed(opened, file, depth)
            if found:
                return found
    return None


def _in_compressed(opened: Callable[[Any], Any], file: IO[bytes], depth: int) -> str | None:
    try:
        inner, inner_cut = _beginning(opened(file))
    except _DAMAGED:
        return None  # it only begins like one
    if not inner.getbuffer().nbytes:
        return None
    if depth == 0:
        return "holds archives in archives, too deep to be looked through"
    found = _in_stream(inner, depth - 1, inner_cut)
    if found is None:
        return None
    return "holds a compressed pickle" if "pickle" in found else f"holds, compressed, what {found}"


def _in_zip(file: IO[bytes], depth: int, cut: bool) -> str | None:
    if cut:
        return "is an archive too large to be looked through"  # what a zip holds is told at its end
    if depth == 0:
        return "holds archives in archives, too deep to be looked through"
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist()[:_MEMBERS]:
                if entry.is_dir():
                    continue
                if Path(entry.filename).suffix.lower() in SUFFIXES:
                    return f"holds a pickle ({entry.filename})"
                if entry.flag_bits & 1:
                    continue  # encrypted: nothing reads it
                with archive.open(entry) as member:
                    inner, inner_cut = _beginning(member)
                found = _in_stream(inner, depth - 1, inner_cut)
                if found:
                    return _told(found, entry.filename)
    except (*_DAMAGED, NotImplementedError, RuntimeError):
        return "is a damaged archive"
    return None


def _in_tar(file: IO[bytes], depth: int, cut: bool) -> str | None:
    if depth == 0:
        return "holds archives in archives, too deep to be looked through"
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for number, entry in enumerate(archive):
                if number >= _MEMBERS:
                    break
                member = archive.extractfile(entry) if entry.isfile() else None
                if member is None:
                    continue
                if Path(entry.name).suffix.lower() in SUFFIXES:
                    return f"holds a pickle ({entry.name})"
                inner, inner_cut = _beginning(member)
                found = _in_stream(inner, depth - 1, inner_cut or (cut and inner.getbuffer().nbytes < entry.size))
                if found:
                    return _told(found, entry.name)
    except _DAMAGED:
        return None if cut else "is a damaged archive"
    return None


def _told(found: str, name: str) -> str:
    return f"holds a pickle ({name})" if "pickle" in found else f"holds {name}, which {found}"


def _beginning(stream: IO[bytes]) -> tuple[io.BytesIO, bool]:
    """Read what is looked at of a member, and tell whether that is not all; what is damaged further on is left out."""
    parts: list[bytes] = []
    size = 0
    while size <= _INNER:
        try:
            part = stream.read(_HEAD)
        except _DAMAGED:
            if not parts:
                raise
            break
        if not part:
            break
        parts.append(part)
        size += len(part)
    return io.BytesIO(b"".join(parts)), size > _INNER


def _numpy_holds_objects(head: bytes) -> bool:
    header = head[: head.find(b"\n") + 1] if b"\n" in head else head
    return b"'|O'" in header or b"O'" in header
