"""Weights in files of many gigabytes, read and written one tensor at a time.

Shapes and dtypes come from the headers, so that a conversion is planned and checked before any weight is read. What is
written is safetensors, straight to the file: the library's own writer wants all tensors of a file at once.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from rscc_hf.conversion.checks import listed
from rscc_hf.errors import InputError

Read = Callable[[str], torch.Tensor]

# A new file ends before it gets larger; what the Hub and other tools handle well.
MAX_FILE_BYTES = 5 * 10**9

_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
# Names reach the terminal and the model card.
_NAME = re.compile(r"[\w.]{1,200}", re.ASCII)
_FILE = re.compile(r"[\w.-]{1,200}", re.ASCII)
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
_BIN = ("pytorch_model.bin", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class WeightFile:
    """One file of a checkpoint.

    Attributes:
        path: `.safetensors`, or `.bin` as `torch.save` writes it.
        tensors: what it holds by name, on the meta device: shapes and dtypes.
    """

    path: Path
    tensors: Mapping[str, torch.Tensor]

    @contextmanager
    def reader(self) -> Iterator[Read]:
        """Return a function from a name to its tensor, whose bytes are mapped from the file and not held.

        Raises:
            ValueError: the file cannot be read.
        """
        if self.path.suffix == ".bin":
            weights = _load_bin(self.path, "cpu")
            yield lambda name: weights[name].detach()
        else:
            yield self._read_safetensors

    def _read_safetensors(self, name: str) -> torch.Tensor:
        # opened anew for each tensor: what was mapped for one is given back with it
        with _opened(self.path) as file:
            return file.get_tensor(name)


def find_weight_files(folder: Path) -> list[WeightFile]:
    """Return the weights of a folder: one file or several with an index, safetensors before `.bin`.

    Args:
        folder: of a checkpoint.

    Returns:
        In the order of the index; every tensor is in exactly one of them.

    Raises:
        ValueError: there are none; a file is missing, damaged, or no plain dict of floating-point tensors; the index
            is damaged, leaves the folder, or does not tell what the files hold.
    """
    for single, index in (_SAFETENSORS, _BIN):
        has_single, has_index = (folder / single).is_file(), (folder / index).is_file()
        if has_single and has_index:
            raise InputError(f"{folder} holds both {single} and {index}; keep the one that is meant.")
        if has_single:
            return [_read_header(folder / single)]
        if has_index:
            return _read_index(folder / index)
    raise InputError(f"{folder} holds no weights; it needs {', '.join((*_SAFETENSORS, *_BIN))}.")


def all_tensors(files: Iterable[WeightFile]) -> dict[str, torch.Tensor]:
    """Return all tensors of some files by name, on the meta device."""
    return {name: tensor for file in files for name, tensor in file.tensors.items()}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: there is no such file, or it holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON ({error}); fetch it again.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give the folder that holds it.") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object; fetch it again.")
    return value


def _read_index(path: Path) -> list[WeightFile]:
    """Return the files that an index names, checked against it."""
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{path} has no weight_map from names to files; fetch it again.")
    suffix = path.name.removesuffix(".index.json").rpartition(".")[2]
    by_file: dict[str, set[str]] = {}
    _check_names(path, weight_map)
    for name, file in weight_map.items():
        # PureWindowsPath knows the separators of all systems, and drives
        if not isinstance(file, str) or file != PureWindowsPath(file).name or Path(file).suffix != f".{suffix}":
            raise InputError(f"{path} has {name} in {file!r}; it must name .{suffix} files of its own folder.")
        if not _FILE.fullmatch(file):
            raise InputError(f"{path} names a file {file[:200]!a}; letters, digits, `.`, `_` and `-` make its name.")
        by_file.setdefault(file, set()).add(name)
    if missing := [file for file in by_file if not (path.parent / file).is_file()]:
        raise InputError(f"{path} names files that are not there: {', '.join(missing)}; fetch them.")
    files = [_read_header(path.parent / file) for file in by_file]
    for found, expected in zip(files, by_file.values(), strict=True):
        if missing_names := expected - set(found.tensors):
            raise InputError(
                f"{found.path} lacks {len(missing_names)} weights that {path.name} puts there: "
                f"{listed(missing_names)}; fetch both again."
            )
        if extra := set(found.tensors) - expected:
            raise InputError(
                f"{found.path} has {len(extra)} weights that {path.name} does not put there: {listed(extra)}; fetch "
                "both again."
            )
    return files


def _read_header(path: Path) -> WeightFile:
    """Return the names, shapes and dtypes of one file."""
    tensors = _load_bin(path, "meta") if path.suffix == ".bin" else _safetensors_header(path)
    if not tensors:
        raise InputError(f"{path} holds no weights; fetch it again.")
    _check_names(path, tensors)
    if other := [name for name, tensor in tensors.items() if tensor.dtype not in _DTYPES]:
        raise InputError(
            f"{path} has weights that are not of 16, 32 or 64 bit floating-point numbers: {listed(other)}; give a "
            "checkpoint that is not quantised."
        )
    return WeightFile(path, tensors)


def _check_names(path: Path, names: Iterable[str]) -> None:
    """Refuse names that no module of torch gives its weights: they may be meant for the terminal that shows them."""
    if odd := [name for name in names if not _NAME.fullmatch(name)]:
        raise InputError(
            f"{path} has {len(odd)} weights with names that cannot be, such as {odd[0][:200]!a}; letters, digits, `.` "
            "and `_` make a name, 200 at most."
        )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged or no safetensors file ({error}); fetch it again.") from error


def _safetensors_header(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file on the meta device."""
    dtypes = {name: dtype for dtype, name in _DTYPES.items()}
    found: dict[str, torch.Tensor] = {}
    with _opened(path) as file:
        names = file.keys()
        for name in names:
            piece = file.get_slice(name)
            kind = dtypes.get(piece.get_dtype(), torch.int8)  # another type is refused by our caller
            found[name] = torch.empty(piece.get_shape(), dtype=kind, device="meta")
    return found


def _load_bin(path: Path, device: str) -> dict[str, torch.Tensor]:
    """Return what `torch.save` wrote, mapped and not read; nothing but tensors is unpickled.

    Args:
        path: of a file.
        device: `cpu`, or `meta` for shapes and dtypes alone.
    """
    _check_archive(path)
    try:
        weights = torch.load(path, map_location=device, weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = found[1] if found else _first_sentence(str(error))
        raise InputError(
            f"{path} holds more than weights, which is not unpickled ({what}); give safetensors."
        ) from error
    except Exception as error:  # whatever torch's reader trips over in a damaged file
        reason = f"{type(error).__name__}: {_first_sentence(str(error))}"
        raise InputError(f"{path} cannot be read as weights ({reason}); fetch it again.") from error
    if not isinstance(weights, Mapping):
        raise InputError(f"{path} holds a {type(weights).__name__} and no dict of weights; give a state dict.")
    if other := [
        name if isinstance(name, str) else f"{name}" if type(name) is int else f"a {type(name).__name__}"
        for name, value in weights.items()
        if not _is_plain(name, value)
    ]:
        _check_names(path, (name for name in weights if isinstance(name, str)))
        raise InputError(f"{path} has entries that are no weights: {listed(other)}; give a plain state dict.")
    return dict(weights)


def _is_plain(name: object, value: object) -> bool:
    """Tell whether an entry is a named dense tensor."""
    return (
        isinstance(name, str)
        and isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not value.is_quantized
        and not value.is_nested
    )


def _check_archive(path: Path) -> None:
    """Refuse what torch would have to unpack in memory: it stores its records as they are."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"{path} is damaged, or older than torch 1.6 ({error}); fetch it again, or save it as safetensors."
        ) from error
    packed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
    if packed or sum(record.file_size for record in records) > path.stat().st_size:
        raise InputError(f"{path} is packed, which torch.save never does; it is not opened.")


def _first_sentence(text: str) -> str:
    """Return the first sentence of a library's long advice."""
    return " ".join(text.split()).split(". ")[0].rstrip(".")[:200]


def digest(tensor: torch.Tensor) -> str:
    """Return the SHA-256 of a tensor's values in row-major order, hexadecimal."""
    return hashlib.sha256(_bytes_of(tensor)).hexdigest()


def check_finite(name: str, tensor: torch.Tensor) -> None:
    """Refuse a weight that holds what is no number.

    Raises:
        ValueError: naming it, with how many of its values are infinite or not a number.
    """
    # in pieces: what isfinite makes on its way is larger than a large weight
    wrong = sum(piece.numel() - int(piece.isfinite().sum()) for piece in tensor.detach().reshape(-1).split(2**22))
    if wrong:
        raise InputError(
            f"{name} holds {wrong} of {tensor.numel()} values that are not finite numbers; give other weights."
        )


def plan_files(names: Iterable[str], tensors: Mapping[str, torch.Tensor], limit: int) -> list[list[str]]:
    """Cut names, in their order, into runs of at most `limit` bytes; a larger tensor gets a file of its own."""
    files: list[list[str]] = []
    room = 0
    for name in names:
        size = tensors[name].nbytes
        if not files or size > room:
            files.append([])
            room = limit
        files[-1].append(name)
        room -= size
    return files


def write_safetensors(path: Path, tensors: Mapping[str, torch.Tensor], read: Read) -> dict[str, str]:
    """Write a safetensors file tensor by tensor.

    Args:
        path: the file; it must not exist.
        tensors: what it is to hold, on the meta device.
        read: gives each tensor when its turn comes; it is let go before the next.

    Returns:
        `digest` of each tensor.

    Raises:
        ValueError: `read` gave another shape or dtype than was announced.
    """
    # wide types first, so that each tensor begins at a multiple of its type's size
    names = sorted(tensors, key=lambda name: -tensors[name].itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        begin, end = end, end + tensors[name].nbytes
        kind, shape = _DTYPES[tensors[name].dtype], list(tensors[name].shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digests: dict[str, str] = {}
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            tensor = read(name)
            if tensor.shape != tensors[name].shape or tensor.dtype != tensors[name].dtype:
                raise InputError(f"{name} changed while it was read; convert it again.")
            values = _bytes_of(tensor)
            file.write(values)
            digests[name] = hashlib.sha256(values).hexdigest()
            del tensor, values
    return digests


def write_index(folder: Path, files: Mapping[str, Sequence[str]], total_bytes: int) -> None:
    """Write `model.safetensors.index.json`.

    Args:
        folder: of the checkpoint.
        files: names of tensors by name of file.
        total_bytes: of all tensors.
    """
    weight_map = {name: file for file, names in files.items() for name in names}
    index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / _SAFETENSORS[1]).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """Return a tensor's bytes in row-major order; no copy where it lies so already."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
