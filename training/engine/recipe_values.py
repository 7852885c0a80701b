"""Values of recipes: made what their field says, wherever they come from."""

import math
import numbers
import os
import types
import typing
from collections.abc import Callable
from typing import Any, Literal


def converted(value: Any, hint: Any) -> Any:
    """Return `value` as the type `hint` wants it.

    YAML 1.1 reads `5e-6` as text, so text is accepted for numbers; a program may give a `Path` for text, a tuple for a
    list, and numbers of numpy.

    Raises:
        TypeError: It is of another type.
        ValueError: It is none of the values.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return converted(value, next(item for item in inner if item is not type(None)))
    if origin is Literal:
        if value is False and "no" in inner:
            return "no"  # YAML 1.1 reads a bare `no` as false
        if value not in inner or isinstance(value, bool):
            raise ValueError(value)
        return value
    if origin is list:
        if not isinstance(value, list | tuple):
            raise TypeError(value)
        return [converted(item, inner[0]) for item in value]
    if isinstance(value, bool) != (hint is bool):
        raise TypeError(value)
    if hint is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if hint is int and isinstance(value, str | numbers.Integral):
        return int(value)
    if hint is float and isinstance(value, str | numbers.Real):
        return float(value)
    if not isinstance(value, hint):
        raise TypeError(value)
    return value


def describe(hint: Any) -> str:
    """Say in words what a field of this type takes."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if item is type(None) else describe(item) for item in inner)
    if origin is Literal:
        return "one of " + ", ".join(str(item) for item in inner)
    if origin is list:
        return f"a list of {describe(inner[0])}"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return names.get(hint, str(hint))


def checked(values: dict[str, Any], hints: dict[str, Any], fail: Callable[[str], Exception]) -> dict[str, Any]:
    """Return all values, each as its hint wants it.

    Args:
        values: By name.
        hints: Types by name.
        fail: Makes the error of a sentence.

    Raises:
        Exception: What `fail` makes, of the first value that is of another type.
    """
    result = {}
    for name, value in values.items():
        try:
            result[name] = converted(value, hints[name])
        except (TypeError, ValueError, OverflowError) as error:
            raise fail(f"{name} is {value!r}; give {describe(hints[name])}.") from error
    return result


def is_infinite(value: Any) -> bool:
    """Return whether it is a number beyond all bounds; what is no number at all fails other checks."""
    return isinstance(value, float) and math.isinf(value)
