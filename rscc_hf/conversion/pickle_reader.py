"""Reads what `torch.save` wrote without running any of it: modules become inert records, tensors stay in the file.

`pickle_reader_containers` knows the two formats of such files, `pickle_reader_machine` reads the pickle in them, and
`pickle_reader_values` says what it may name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from rscc_hf.conversion.pickle_reader_containers import ZIP_MAGIC, Read, read_legacy, read_zip
from rscc_hf.conversion.pickle_reader_machine import Name, Placeholder, printable
from rscc_hf.conversion.pickle_reader_values import StorageRef, TensorRef, allowed_names
from rscc_hf.errors import InputError, UnsafePickleError

_MAX_MODULES = 50_000
_MAX_PARTS = 200_000
_MAX_DEPTH = 32


class ReleasedFile:
    """An open checkpoint. Use `open_released`.

    Attributes:
        content: What was pickled, with `Placeholder` and `TensorRef` in place of objects and tensors.
    """

    def __init__(self, content: Any, read_storage: Callable[[StorageRef], bytes], size: int):
        self.content = content
        self._read_storage = read_storage
        self._storages: dict[str, torch.Tensor] = {}
        self._left = size

    def tensor(self, ref: TensorRef, name: str) -> torch.Tensor:
        """Read one tensor, contiguous, on the CPU, whichever device it was saved from.

        Args:
            ref: Which.
            name: For messages.

        Raises:
            UnsafePickleError: The file is damaged there, or holds not finite numbers.
        """
        numel = math.prod(ref.size)
        last = ref.offset + sum((size - 1) * step for size, step in zip(ref.size, ref.stride, strict=True))
        if numel and (last >= ref.storage.numel or numel > ref.storage.numel):
            raise UnsafePickleError(f"{printable(name)} reaches beyond the {ref.storage.numel} numbers it has")
        # all tensors together cannot hold more than the file, unless they are views of the same numbers
        self._left -= numel * ref.storage.dtype.itemsize
        if self._left < 0:
            raise UnsafePickleError("its tensors declare more bytes than the file has")
        tensor = (
            self._storage(ref.storage)
            .as_strided(ref.size, ref.stride, ref.offset)
            .clone(memory_format=torch.contiguous_format)
        )
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UnsafePickleError(f"{printable(name)} holds numbers that are not finite")
        return tensor

    def _storage(self, ref: StorageRef) -> torch.Tensor:
        """Return the numbers of a storage, (numel,); the last one is kept for tensors that share it."""
        if ref.key not in self._storages:
            self._storages.clear()
            raw = self._read_storage(ref)
            self._storages[ref.key] = torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else torch.empty(0)
        raw_bytes = self._storages[ref.key]
        return raw_bytes.view(ref.dtype) if ref.numel else torch.empty(0, dtype=ref.dtype)


@contextmanager
def open_released(path: Path, classes: frozenset[tuple[str, str]]) -> Iterator[ReleasedFile]:
    """Open a pickled checkpoint.

    Args:
        path: The file.
        classes: The (module, name) of classes whose objects it may hold, beside torch's storages and tensors,
            OrderedDict, defaultdict, dict and set. Any other name in the pickle is refused.

    Raises:
        ValueError: One sentence that names the file and what is wrong with it; so does one that is raised while it
            is open. Nothing of it was run.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; give the checkpoint that the authors released.")
    if not path.is_file():
        raise InputError(f"{path} is no file; give the checkpoint that the authors released.")
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            content, read_storage = _reader(file.read(4))(file, size, allowed_names(classes))
            yield ReleasedFile(content, read_storage, size)
    except ValueError as error:
        raise InputError(f"{path} cannot be converted: {str(error).removesuffix('.')}.") from error
    except RecursionError as error:
        raise InputError(f"{path} cannot be converted: its values are nested too deeply.") from error
    except MemoryError as error:
        raise InputError(f"{path} cannot be converted: it takes more memory than there is.") from error


def _reader(start: bytes) -> Callable[[IO[bytes], int, Mapping[tuple[str, str], Name]], Read]:
    """Return what reads a file that starts with these bytes."""
    if start == ZIP_MAGIC:
        return read_zip
    if start[:1] == b"\x80":
        return read_legacy
    if not start:
        raise UnsafePickleError("it is empty")
    text = start.isascii() and start.decode("ascii").isprintable()
    raise UnsafePickleError("it is text, no file of torch.save" if text else "it is no file of torch.save")


def modules_of(module: Any, name: str) -> dict[str, Placeholder]:
    """Return a pickled module and all modules in it, by name.

    Args:
        module: A `Placeholder` of a `torch.nn.Module`.
        name: Put before every name.

    Raises:
        UnsafePickleError: It is no module, or its parts are not what a module's are.
    """
    found: dict[str, Placeholder] = {}
    pending: list[tuple[str, Any]] = [(name, module)]
    budget = _Budget(name)
    while pending:
        here, part = pending.pop()
        if type(part) is not Placeholder:
            raise UnsafePickleError(f"{here} is a {type(part).__name__} where a pickled module belongs")
        found[here] = part
        pending += [(f"{here}.{key}", child) for key, child in _children(part, "_modules", here, budget)]
        if len(found) + len(pending) > _MAX_MODULES or here.count(".") > _MAX_DEPTH:
            raise UnsafePickleError(f"the modules of {name} contain each other, or there are too many of them")
    return found


def state_dict_of(module: Any, name: str) -> dict[str, TensorRef]:
    """Return the parameters and buffers of a pickled module by name, as its `state_dict()` would have them.

    Args:
        module: A `Placeholder` of a `torch.nn.Module`.
        name: Put before every name.

    Raises:
        UnsafePickleError: It is no module, or its parts are not what a module's are.
    """
    modules = modules_of(module, name)
    state: dict[str, TensorRef] = {}
    budget = _Budget(name)
    for here, part in modules.items():
        for key, value in (
            *_children(part, "_parameters", here, budget),
            *_children(part, "_buffers", here, budget),
        ):
            if type(value) is not TensorRef:
                raise UnsafePickleError(f"{here}.{key} is a {type(value).__name__} where a tensor belongs")
            if f"{here}.{key}" in state:
                raise UnsafePickleError(f"{here}.{key} is there twice")
            state[f"{here}.{key}"] = value
    return state


class _Budget:
    """Bounds how many parts are looked at: a few bytes can say that all modules share one large dict of them."""

    def __init__(self, name: str):
        self._name = name
        self._left = _MAX_PARTS

    def spend(self, parts: int) -> None:
        """Raise `UnsafePickleError` where too many were looked at."""
        self._left -= parts
        if self._left < 0:
            raise UnsafePickleError(f"the modules of {self._name} have more than {_MAX_PARTS} parts")


def _children(part: Placeholder, kind: str, here: str, budget: _Budget) -> list[tuple[str, Any]]:
    """Return the named parts of a module, without those that are none."""
    children = part.fields.get(kind, {})
    transient = part.fields.get("_non_persistent_buffers_set", set()) if kind == "_buffers" else set()
    if type(children) is not dict or type(transient) is not set:
        raise UnsafePickleError(f"{printable(here)} is no torch module (its {kind} are damaged)")
    budget.spend(len(children))
    for key in children:
        if type(key) is not str or not re.fullmatch(r"\w{1,64}", key, re.ASCII):
            # the text of anything else could be without end
            shown = printable(str(key)) if type(key) in (str, int) else f"of a {type(key).__name__}"
            raise UnsafePickleError(f"{printable(here)} has a part with the name {shown}")
    return [(key, value) for key, value in children.items() if value is not None and key not in transient]
