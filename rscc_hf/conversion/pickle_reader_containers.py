"""The two containers of `torch.save`: the zip of torch 1.6 and later, and the older chain of pickles and storages.

What a length or a count in the file says is held against the size of the file before memory is taken for it.
"""

from __future__ import annotations

import io
import os
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import IO, Any

from rscc_hf.conversion.pickle_reader_machine import MAX_PICKLE_BYTES, BoundedFile, Name, PickleMachine, printable
from rscc_hf.conversion.pickle_reader_values import StorageRef, Storages
from rscc_hf.errors import UnsafePickleError

_MAX_DIRECTORY_BYTES = 8 * 2**20
ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_BROKEN_ZIP = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, RuntimeError, ValueError, EOFError, OSError, OverflowError),
    struct.error,
)

Read = tuple[Any, Callable[[StorageRef], bytes]]
"""The content, and what reads the bytes of a storage."""


def read_zip(file: IO[bytes], size: int, allowed: Mapping[tuple[str, str], Name]) -> Read:
    """Read the format of torch >= 1.6: a zip of uncompressed entries, `*/data.pkl` and `*/data/KEY`."""
    limited = _LimitedReads(file, _MAX_DIRECTORY_BYTES)  # zipfile reads all of the directory before it can be counted
    try:
        archive = zipfile.ZipFile(limited)  # type: ignore[arg-type]  # it asks for no more than is there
    except _BROKEN_ZIP as error:
        raise UnsafePickleError(f"it is a damaged or cut-off zip ({printable(str(error), 80)})") from error
    limited.limit = size
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        if info.filename in entries:
            raise UnsafePickleError(f"its zip has two entries {printable(info.filename)}")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
            raise UnsafePickleError(f"its zip compresses or encrypts {printable(info.filename)}; torch.save does not")
        if info.file_size > size:
            raise UnsafePickleError(f"{printable(info.filename)} in its zip declares more bytes than the file has")
        entries[info.filename] = info
    pickles = [name for name in entries if name.endswith("data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        inner = next((name for name in entries if re.search(r"\.(tar|zip|pth|pt|bin)$", name)), None)
        hint = f" (it holds {printable(inner)}; extract that first)" if inner else ""
        raise UnsafePickleError(f"it is a zip with {len(pickles)} entries data.pkl where torch.save writes one{hint}")
    prefix = pickles[0].removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in entries:
        raise UnsafePickleError("it is a TorchScript program, not a checkpoint")

    def read(name: str, limit: int) -> bytes:
        info = entries.get(f"{prefix}{name}")
        if info is None:
            raise UnsafePickleError(f"it lacks {name}")
        if info.file_size > limit:
            raise UnsafePickleError(f"{name} in its zip has {info.file_size} bytes where at most {limit} may be")
        try:
            return archive.read(info)
        except _BROKEN_ZIP as error:
            raise UnsafePickleError(f"{name} in its zip is damaged ({printable(str(error), 80)})") from error

    if f"{prefix}byteorder" in entries and read("byteorder", 16) != b"little":
        raise UnsafePickleError("it was written on a big-endian machine")
    pickled = read("data.pkl", MAX_PICKLE_BYTES)
    if pickled.startswith(ZIP_MAGIC):
        raise UnsafePickleError("its data.pkl is a zip, not a pickle")
    stream = io.BytesIO(pickled)
    storages = Storages(("storage",))
    content = PickleMachine(allowed, storages).run(BoundedFile(stream, len(pickled)))
    if stream.read(1):
        raise UnsafePickleError("bytes follow its pickle in data.pkl")

    def read_storage(ref: StorageRef) -> bytes:
        expected = ref.numel * ref.dtype.itemsize
        raw = read(f"data/{ref.key}", size)
        if len(raw) != expected:
            raise UnsafePickleError(f"storage {ref.key} has {len(raw)} bytes, its pickle declares {expected}")
        return raw

    return content, read_storage


class _LimitedReads:
    """A file that refuses to read more at once than a limit, before memory is taken for it."""

    def __init__(self, file: IO[bytes], limit: int):
        self._file = file
        self.limit = limit
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(self.limit + 1 if size < 0 else min(size, self.limit + 1))
        if len(data) > self.limit:
            raise UnsafePickleError(f"a part of it has more than {self.limit} bytes")
        return data


def read_legacy(file: IO[bytes], size: int, allowed: Mapping[tuple[str, str], Name]) -> Read:
    """Read the format before torch 1.6: magic number, protocol, machine, content, storage keys, then the storages."""
    nothing: dict[tuple[str, str], Name] = {}
    storages = Storages(("storage", "module"))
    file.seek(0)

    def next_pickle(names: Mapping[tuple[str, str], Name]) -> Any:
        left = min(MAX_PICKLE_BYTES, size - file.tell())
        return PickleMachine(names, storages).run(BoundedFile(file, left))

    try:
        magic = next_pickle(allowed)
    except UnsafePickleError as error:
        raise UnsafePickleError(f"it is no file of torch.save, and {error}") from error
    if type(magic) is not int or magic != _LEGACY_MAGIC:
        raise UnsafePickleError("it is a pickle, but torch.save did not write it")
    protocol = next_pickle(nothing)
    if type(protocol) is not int or protocol != _LEGACY_PROTOCOL:
        raise UnsafePickleError("it has an unknown version of the old torch format")
    machine = next_pickle(nothing)
    if type(machine) is not dict or machine.get("little_endian") is not True:
        raise UnsafePickleError("it was written on a big-endian machine, or does not say on which")
    content = next_pickle(allowed)
    keys = next_pickle(nothing)
    if type(keys) is not list or not all(type(key) is str for key in keys) or len(set(keys)) != len(keys):
        raise UnsafePickleError("its list of storages is damaged")
    if set(keys) != set(storages.by_key):
        raise UnsafePickleError("its list of storages is not that of its pickle")
    places: dict[str, int] = {}
    for key in keys:
        ref = storages.by_key[key]
        header = file.read(8)
        if len(header) < 8 or struct.unpack("<q", header)[0] != ref.numel:
            raise UnsafePickleError(f"storage {key} is cut off, or has not the size that its pickle declares")
        places[key] = file.tell()
        if places[key] + ref.numel * ref.dtype.itemsize > size:
            raise UnsafePickleError(f"storage {key} declares more bytes than the file has: it was cut off")
        file.seek(ref.numel * ref.dtype.itemsize, os.SEEK_CUR)
    if file.read(1):
        raise UnsafePickleError("bytes follow its last storage")

    def read_storage(ref: StorageRef) -> bytes:
        file.seek(places[ref.key])
        return file.read(ref.numel * ref.dtype.itemsize)

    return content, read_storage
