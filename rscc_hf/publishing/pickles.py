"""Finding pickles by what a file holds, whatever it is called. Nothing is ever unpickled."""

import bz2
import io
import lzma
import pickletools
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

SUFFIXES = frozenset({".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".dill", ".mar"})
"""What pickles are called. A file of such a name is taken for one even when it is empty."""

_HEAD = 64 * 1024  # bytes of a file, or of a member of an archive, that are looked at
_DEPTH = 3  # archives in archives
_MEMBERS = 10_000
# Opcodes that name or call something: text hardly ever parses as a pickle with one of them.
_CALLS = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "REDUCE", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"})
_ENOUGH = 3  # valid opcodes after which a file that begins like a pickle is one
# How compressed files begin, and what takes them apart; each stops after as many bytes as it is told.
_COMPRESSED: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\x1f\x8b", lambda head: zlib.decompressobj(31).decompress(head, _HEAD)),  # gzip
    (b"BZh", lambda head: bz2.BZ2Decompressor().decompress(head, _HEAD)),
    (b"\xfd7zXZ\x00", lambda head: lzma.LZMADecompressor().decompress(head, _HEAD)),
    (b"\x78", lambda head: zlib.decompressobj().decompress(head, _HEAD)),
)


def pickle_in(path: Path) -> str | None:
    """How a file holds a pickle ("is a pickle", "holds a pickle (archive/data.pkl)"); None: it holds none.

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


def _in_stream(file: IO[bytes], depth: int) -> str | None:
    head = file.read(_HEAD)
    if _is_pickle(head):
        return "is a pickle"
    if head.startswith(b"\x93NUMPY"):
        return "holds pickled objects (numpy)" if _numpy_holds_objects(head) else None
    if depth == 0:
        return None
    if head.startswith(b"PK") or zipfile.is_zipfile(file):
        return _in_zip(file, depth)
    if head[257:262] == b"ustar":
        return _in_tar(file, depth)
    for magic, decompress in _COMPRESSED:
        if head.startswith(magic):
            try:
                inner = decompress(head)
            except (OSError, EOFError, zlib.error, lzma.LZMAError):
                continue
            if _in_stream(io.BytesIO(inner), depth - 1):
                return "holds a compressed pickle"
    return None


def _in_zip(file: IO[bytes], depth: int) -> str | None:
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
                    found = _in_stream(io.BytesIO(member.read(_HEAD)), depth - 1)
                if found:
                    return f"holds a pickle ({entry.filename})"
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, zlib.error, lzma.LZMAError, RuntimeError):
        return "is a damaged archive"
    return None


def _in_tar(file: IO[bytes], depth: int) -> str | None:
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for number, entry in enumerate(archive):
                member = archive.extractfile(entry) if entry.isfile() else None
                if number >= _MEMBERS:
                    break
                if member is None:
                    continue
                if _in_stream(io.BytesIO(member.read(_HEAD)), depth - 1):
                    return f"holds a pickle ({entry.name})"
    except (tarfile.TarError, OSError):
        return "is a damaged archive"
    return None


def _is_pickle(head: bytes) -> bool:
    """Whether the bytes are the beginning of a pickle, judged by its opcodes, none of which is carried out."""
    marked = len(head) >= 2 and head[0] == 0x80 and 2 <= head[1] <= 5  # PROTO of protocols 2 to 5
    if not marked and head[:1] not in b"(cilIFLSVNdgpt]}":  # what protocols 0 and 1 begin with
        return False
    seen = 0
    calls = False
    try:
        for opcode, argument, _ in pickletools.genops(head):
            seen += 1
            calls = calls or opcode.name in _CALLS
            if opcode.name in ("GLOBAL", "INST") and not _names(argument):
                return False
            if marked and seen >= _ENOUGH:
                return True
            if opcode.name == "STOP":
                return marked or calls
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError):
        return False
    return False


def _names(argument: object) -> bool:
    """Whether the text of a GLOBAL reads `module name`, as it does in no prose."""
    parts = str(argument).split(" ")
    return len(parts) == 2 and all(part.replace(".", "_").isidentifier() for part in parts)


def _numpy_holds_objects(head: bytes) -> bool:
    header = head[: head.find(b"\n") + 1] if b"\n" in head else head
    return b"'|O'" in header or b"O'" in header
