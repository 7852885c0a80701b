"""What a pickled checkpoint may name, and the records that stand for it: storages, tensors, plain containers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from rscc_hf.conversion.pickle_reader_machine import Name, Placeholder, checked_key
from rscc_hf.errors import UnsafePickleError

_MAX_DIMENSIONS = 8
_MAX_NUMBER = 2**40

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class StorageRef:
    """A run of numbers somewhere in the file.

    Attributes:
        key: Its name within the file.
        dtype: Of one number.
        numel: How many numbers there are.
    """

    key: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True, eq=False)
class TensorRef:
    """A tensor that was not read yet.

    Attributes:
        storage: Where its numbers are.
        offset: Of its first number.
        size: Its shape.
        stride: Steps, in numbers, along each dimension.
    """

    may_be_key: ClassVar[bool] = True

    storage: StorageRef
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def allowed_names(classes: frozenset[tuple[str, str]]) -> dict[tuple[str, str], Name]:
    """Return what the pickle may name."""
    names = [
        Name("collections", "OrderedDict", _ordered_dict),
        Name("collections", "defaultdict", _default_dict),
        Name("torch._utils", "_rebuild_tensor", _tensor),
        Name("torch._utils", "_rebuild_tensor_v2", _tensor),
        Name("torch._utils", "_rebuild_parameter", _parameter),
        Name("torch._utils", "_rebuild_parameter_with_state", _parameter),
        Name("torch", "Size", _size),
        # scores beside the weights: means that numpy took, of which nothing is needed
        Name("numpy", "dtype", _inert),
        Name("numpy.core.multiarray", "scalar", _inert),
        Name("numpy._core.multiarray", "scalar", _inert),
        Name("_codecs", "encode", _inert),
    ]
    for module in ("builtins", "__builtin__"):
        names += [Name(module, "set", _set), Name(module, "dict", _ordered_dict)]
    for module in ("torch", "torch.cuda"):
        names += [Name(module, storage) for storage in _DTYPES]
    names += [Name(module, name, is_class=True) for module, name in classes]
    return {(name.module, name.name): name for name in names}


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    pairs = arguments[0] if arguments else []
    # Python 2 gave the items as lists of two
    if (
        len(arguments) > 1
        or type(pairs) is not list
        or not all(type(p) in (list, tuple) and len(p) == 2 for p in pairs)
    ):
        raise UnsafePickleError("its pickle makes a dict of something else than pairs")
    return {checked_key(key): value for key, value in pairs}


def _default_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if len(arguments) > 1 or not all(item is None or type(item) is Name for item in arguments):
        raise UnsafePickleError("its pickle makes a defaultdict of something else than a class")
    return {}


def _set(arguments: tuple[Any, ...]) -> set[Any]:
    if len(arguments) > 1 or not all(type(item) is list for item in arguments):
        raise UnsafePickleError("its pickle makes a set of something else than a list")
    return {checked_key(item) for items in arguments for item in items}


def _inert(arguments: tuple[Any, ...]) -> Placeholder:
    return Placeholder("")


def _size(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(arguments) != 1 or type(arguments[0]) is not tuple:
        raise UnsafePickleError("its pickle makes a shape of something else than numbers")
    return arguments[0]


def _tensor(arguments: tuple[Any, ...]) -> TensorRef:
    if len(arguments) < 4 or type(arguments[0]) is not StorageRef:
        raise UnsafePickleError("its pickle makes a tensor of something else than a storage")
    storage, offset, size, stride = arguments[:4]
    numbers = (offset, *size, *stride) if type(size) is tuple and type(stride) is tuple else ()
    plain = all(type(number) is int and 0 <= number < _MAX_NUMBER for number in numbers)
    if not numbers or not plain or len(size) != len(stride) or len(size) > _MAX_DIMENSIONS:
        raise UnsafePickleError("its pickle holds a tensor whose shape, stride or offset are no small numbers")
    return TensorRef(storage, offset, size, stride)


def _parameter(arguments: tuple[Any, ...]) -> TensorRef:
    if not arguments or type(arguments[0]) is not TensorRef:
        raise UnsafePickleError("its pickle makes a parameter of something else than a tensor")
    return arguments[0]


class Storages:
    """Understands persistent ids and remembers the storages that they declare."""

    def __init__(self, kinds: tuple[str, ...]):
        self.kinds = kinds
        self.by_key: dict[str, StorageRef] = {}

    def __call__(self, given: Any) -> Any:
        """Return what a persistent id stands for: a storage, or the class whose code an old file keeps beside it."""
        kind = given[0] if type(given) is tuple and given and type(given[0]) is str else None
        if kind not in self.kinds:
            raise UnsafePickleError("its pickle holds a persistent id that torch.save does not write")
        if kind == "module" and len(given) == 4 and type(given[1]) is Name:
            return given[1]  # old files carry the source code of a class beside its name; it is never looked at
        if kind != "storage" or len(given) < 5 or type(given[1]) is not Name or given[1].name not in _DTYPES:
            raise UnsafePickleError("its pickle holds a storage without type, key, device and size")
        _, storage_type, key, location, numel = given[:5]
        if len(given) > 5 and given[5:] != (None,):
            raise UnsafePickleError("its pickle holds a view of a storage, as torch before 0.4 wrote them")
        if type(location) is not str or type(key) is not str or not re.fullmatch(r"\d{1,20}", key, re.ASCII):
            raise UnsafePickleError("its pickle holds a storage whose key or device is no plain text")
        if type(numel) is not int or not 0 <= numel < _MAX_NUMBER:
            # the text of anything else could be without end
            shown = f"{numel} numbers" if type(numel) is int else f"a {type(numel).__name__}"
            raise UnsafePickleError(f"storage {key} declares a size that cannot be ({shown})")
        ref = StorageRef(key, _DTYPES[storage_type.name], numel)
        if self.by_key.setdefault(key, ref) != ref:
            raise UnsafePickleError(f"storage {key} is declared twice with different types or sizes")
        return ref
