"""Which options say something in which mode of a command: one given in another mode is a usage error.

Every command carries `@by_mode`, which puts each of its options into the table: those that always count, and those of
a mode. A default that nobody typed is no use of its option; one that was typed is.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import typer

from rscc_hf.commands.terminal import is_given

_CONTEXT = "ctx"


@dataclass(frozen=True)
class Mode:
    """A way in which a command runs, and the options that say something in it alone.

    Attributes:
        belongs: Completes "it belongs to": the mode, and how it is asked for.
        options: Their names as parameters, split by spaces.
        runs: Whether the command runs so: of the values of all parameters, and `given`, the names of the typed ones.
    """

    belongs: str
    options: str
    runs: Callable[[Any], bool]


@dataclass(frozen=True)
class Modes:
    """The table of a command.

    Attributes:
        always: Parameters that say something however the command runs, or that `later` judges.
        modes: Those of the others; a parameter of two modes needs both.
    """

    always: frozenset[str]
    modes: tuple[Mode, ...]


def by_mode(*modes: Mode, always: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a command refuse options of another mode than the one it runs in.

    Args:
        *modes: The first one that does not run tells what its options belong to.
        always: The parameters that always count, split by spaces.

    Raises:
        TypeError: A parameter is in no mode, or a name is none of a parameter: at import.
    """
    table = Modes(frozenset(always.split()), modes)

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(command)
        hints = typing.get_type_hints(command, include_extras=True)
        parameters = set(signature.parameters) - {_CONTEXT}
        known = table.always.union(*(mode.options.split() for mode in modes))
        if parameters != known:
            odd = ", ".join(sorted(parameters ^ known))
            raise TypeError(f"{command.__name__} and its modes have other parameters; put {odd} into a mode.")

        def checked(**values: Any) -> Any:
            context = values[_CONTEXT]
            given = frozenset(name for name in parameters if is_given(context, name))
            state = SimpleNamespace(**values, given=given)
            for mode in modes:
                for name in mode.options.split():
                    if name in given and not mode.runs(state):
                        raise belongs_to(context, name, mode.belongs)
            if _CONTEXT not in signature.parameters:
                del values[_CONTEXT]
            return command(**values)

        # What typer reads: the command's own parameters, and the context.
        shown = [part.replace(annotation=hints[name]) for name, part in signature.parameters.items()]
        if _CONTEXT not in signature.parameters:
            shown.insert(0, inspect.Parameter(_CONTEXT, inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context))
        shown = [part.replace(kind=inspect.Parameter.KEYWORD_ONLY) for part in shown]
        checked.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
        checked.__annotations__ = {part.name: part.annotation for part in shown}
        checked.__name__, checked.__doc__, checked.__module__ = command.__name__, command.__doc__, command.__module__
        checked.modes = table  # type: ignore[attr-defined]
        return checked

    return decorate


def belongs_to(ctx: typer.Context, name: str, mode: str) -> typer.BadParameter:
    """Make the usage error of an option that has no effect here.

    Args:
        ctx: Of the command.
        name: The parameter, such as `batch_size`.
        mode: Completes "it belongs to".
    """
    flag = next(parameter.opts[0] for parameter in ctx.command.params if parameter.name == name)
    return typer.BadParameter(f"it belongs to {mode}.", ctx=ctx, param_hint=flag)
