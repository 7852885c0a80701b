"""Values of recipes: read from YAML without surprises, and made what their field says, wherever they come from."""

import math
import numbers
import os
import re
import types
import typing
from collections.abc import Callable
from typing import Any, Literal

import yaml

from rscc_hf.errors import InputError

# What YAML 1.1 reads in base 8 or 60 although most people mean a decimal number, or a time.
_SURPRISING_NUMBER = re.compile(r"[-+]?0[0-7_]+|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which of a key that stands twice would take the last one without a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """See `yaml.SafeLoader`; a merged key (`<<`) may be overridden, one that is written twice may not.

        Raises:
            ConstructorError: A key stands twice.
        """
        lines: dict[Any, int] = {}
        if isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                if not isinstance(name, yaml.ScalarNode) or name.tag == "tag:yaml.org,2002:merge":
                    continue
                line = name.start_mark.line + 1
                key = self.construct_object(name)
                if key in lines:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{name.value} stands in line {lines[key]} and in line {line}: keep one of them"
                    )
                lines[key] = line
                self._check_number(name, value)
        return super().construct_mapping(node, deep)

    def _check_number(self, name: yaml.ScalarNode, node: Any) -> None:
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self._check_number(name, item)
        elif isinstance(node, yaml.ScalarNode) and node.style is None and _SURPRISING_NUMBER.fullmatch(node.value):
            if not node.tag.endswith((":int", ":float")) or not node.value.strip("+-0_"):
                return
            raise yaml.constructor.ConstructorError(
                None, None, f"{name.value} is {node.value}, which YAML reads as {self.construct_object(node)}: write "
                "it as a decimal number, or in quotes",
            )  # fmt: skip


def load_yaml(text: str) -> Any:
    """What a YAML text holds.

    Raises:
        ValueError: It is no YAML, has a key twice, or a number that YAML 1.1 reads in another base; the words say
            what, in one line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        raise InputError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise InputError("it is nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist, a number of 5,000 digits
        raise InputError(" ".join(str(error).split())) from error


def converted(value: Any, hint: Any) -> Any:
    """`value` as the type `hint` wants it.

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
            raise InputError(value)
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
    """What a field of this type takes, in words."""
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
    """All values, each as its hint wants it.

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
            raise fail(f"{name} is {value!r}: give {describe(hints[name])}.") from error
    return result


def is_infinite(value: Any) -> bool:
    """Whether it is a number beyond all bounds; what is no number at all fails other checks."""
    return isinstance(value, float) and math.isinf(value)
