"""What stands in a file of ours, as a dataclass: each field of the type that its class says."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from rscc_hf.errors import InputError

T = TypeVar("T")

_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


def filled(kind: type[T], row: Mapping[str, Any], where: str, remedy: str, *, exact: bool = False) -> T:
    """Make a dataclass of the fields of a JSON object.

    Args:
        kind: The dataclass; a field without a default must be there.
        row: The object.
        where: What it is, for the sentence.
        remedy: What to do about it, without a full stop.
        exact: Whether a field that the class has not is an error; else it is passed over, for a later version may say
            more.

    Raises:
        InputError: A field is missing, of another type, or not known.
    """
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]  # it is a dataclass
        if field.name not in row:
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise InputError(f"{where} has no field `{field.name}`; {remedy}.")
            continue
        values[field.name] = row[field.name]
        wanted = _runtime_types(hints[field.name])
        if not _is_of(row[field.name], wanted):
            words = " or ".join(_WORDS[one] for one in wanted if one in _WORDS)
            raise InputError(f"{where}: `{field.name}` must be {words}; {remedy}.")
    unknown = [name for name in row if name not in hints]
    if exact and unknown:
        raise InputError(f"{where} has the field `{unknown[0]}`, which is not known; {remedy}.")
    return kind(**values)


def _runtime_types(hint: Any) -> tuple[type, ...]:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return tuple(kind for inner in typing.get_args(hint) for kind in _runtime_types(inner))
    return (origin or hint,)


def _is_of(value: Any, wanted: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in wanted
    return isinstance(value, wanted) or (float in wanted and isinstance(value, int))
