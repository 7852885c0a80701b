"""What the commands of `rscc` share: errors in one line, lines beside the answer, progress, quiet libraries."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from typer.core import TyperGroup

# Names of files that are told one by one before "and N more".
_TOLD = 10


class OneLineErrors(TyperGroup):
    """Says what is wrong with the input in one line; whatever else goes wrong keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except Exception as error:
            if not _is_ours(error):
                raise
            print(f"Error: {_one_line(error)}", file=sys.stderr)
            raise SystemExit(1) from error


def _is_ours(error: Exception) -> bool:
    """Whether the error is about what the user gave: a file, or a sentence of this package."""
    if isinstance(error, OSError) or type(error).__module__.startswith("rscc_hf."):
        return True
    if not isinstance(error, ValueError):
        return False
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames[-1].f_globals.get("__name__", "").startswith(("rscc_hf.", "transformers_modules."))


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return printable(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    return printable(str(error))


def printable(text: str) -> str:
    """Text in one line; what would control the terminal is shown as its escape, letters of all languages as they are.

    Names out of files and archives of strangers are among what is told.
    """
    line = " ".join(text.split())
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in line)


def count(number: int, noun: str) -> str:
    """`1 pair`, `2 pairs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def tell(text: str = "") -> None:
    """A line for the person at the terminal, which is no part of the answer."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def progress_bar(title: str) -> Iterator[Any]:
    """A bar on the terminal (nothing elsewhere); gives the function to call with (done, of how many)."""
    columns = (
        TextColumn(title),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    console = Console(stderr=True)
    if (
        not console.is_terminal
    ):  # a Progress that is only disabled still leaves an empty line with old versions of rich
        yield lambda done, total: None
        return
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def quiet_models() -> Iterator[None]:
    """No bars and advice of the libraries while a model is loaded or answers; their settings come back afterwards.

    What a user has to know about a pair (that a date was resized) is told by its notes.
    """
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub_verbosity = hub_logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    hub_logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def quiet_reading() -> Iterator[None]:
    """No bars of `datasets` while a data set is read."""
    import datasets

    were_off = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            datasets.enable_progress_bars()


def is_given(ctx: typer.Context, name: str) -> bool:
    """Whether an option was written on the command line, be it with its default."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def tell_some(lines: list[str]) -> None:
    for line in lines[:_TOLD]:
        tell(line)
    if len(lines) > _TOLD:
        tell(f"  ... and {len(lines) - _TOLD} more")
