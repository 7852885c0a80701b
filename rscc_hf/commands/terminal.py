"""What the commands of `rscc` share: errors in one line, lines beside the answer, progress, quiet libraries."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from rscc_hf.errors import RsccError
from rscc_hf.files import cleaning_up_when_terminated
from rscc_hf.progress import Work, progress
from rscc_hf.text import sentence_of

TERMINATED = 128 + signal.SIGTERM
"""How a command ends after SIGTERM."""
_INTERRUPTED = 128 + signal.SIGINT

# Names of files that are told one by one before "and N more".
_TOLD = 10


class OneLineErrors(TyperGroup):
    """Say what is wrong with the input in one line; whatever else goes wrong keeps its traceback.

    So does what is wrong with the output: closed, on a full disk, a pipe that nobody reads any more. Ctrl+C ends a
    command with 130 and SIGTERM with 143, after its cleaning and with one line.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program; see `click.Command.main`."""
        _open_closed_streams()
        try:
            return super().main(*args, **kwargs)
        except OSError as error:  # outside of a command there is nothing but printing
            _fail(_lost_output() or OSError(error.errno, error.strerror, error.filename or "standard output"))
        finally:
            if lost := _lost_output():
                _fail(lost)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; see `click.Group.invoke`."""
        try:
            with cleaning_up_when_terminated():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            tell("Stopped.")
            raise SystemExit(_INTERRUPTED) from None
        except SystemExit as end:
            if end.code == TERMINATED:
                tell("Stopped by SIGTERM.")
            raise
        except (RsccError, OSError) as error:
            if isinstance(error, BrokenPipeError) and error.filename is None:
                error = OSError(error.errno, error.strerror, "standard output")
            _fail(_lost_output() or error)


def _fail(error: Exception) -> NoReturn:
    tell(f"Error: {sentence_of(error)}")
    raise SystemExit(1) from error


class _Closed(io.TextIOBase):
    """Stand for a standard output that was closed by the caller (`>&-`): Python has None there."""

    def write(self, text: str) -> int:
        """Raise: nobody reads it."""
        raise OSError(errno.EBADF, "it is closed; let it go somewhere, for example into a file", "standard output")


def _open_closed_streams() -> None:
    """Put something where a standard stream is closed, so that a file that is opened does not get its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    if sys.stdout is None:
        sys.stdout = _Closed()
    elif isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # as standard error: a letter that the terminal lacks, or a name that is no text, must not end a command
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # stays open


def _lost_output() -> OSError | None:
    """Write what is still held back for standard output; the error where that cannot be done, told only once."""
    try:
        sys.stdout.flush()
    except OSError as error:
        with suppress(OSError, ValueError):  # else Python tries again when it ends, and tells it in its own words
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        return OSError(error.errno, error.strerror, "standard output")
    return None


def check_output() -> None:
    """Look, before the work, whether standard output is open, for a command whose answer goes there.

    Raises:
        OSError: It is closed.
    """
    sys.stdout.write("")


def tell(text: str = "") -> None:
    """Write a line for the person at the terminal, no part of the answer; work goes on where it cannot be written."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def progress_bar(title: str, unit: str = "", *, threads: bool = True) -> AbstractContextManager[Work]:
    """Show a bar on the terminal, elsewhere a line every 20 seconds; give what is called with (done, of how many).

    Args:
        title: What is done.
        unit: What is counted.
        threads: See `rscc_hf.progress.progress`.
    """
    return progress(title, unit=unit, say=tell, threads=threads)


@contextmanager
def quiet_models() -> Iterator[None]:
    """Silence bars and advice of the libraries while a model is loaded or answers; they come back afterwards.

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
    """Silence bars of `datasets` while a data set is read."""
    import datasets

    were_off = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            datasets.enable_progress_bars()


def is_given(ctx: typer.Context, name: str) -> bool:
    """Tell whether an option was written on the command line, be it with its default."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def tell_some(lines: list[str]) -> None:
    """Tell the first lines, and how many more there are."""
    for line in lines[:_TOLD]:
        tell(line)
    if len(lines) > _TOLD:
        tell(f"  ... and {len(lines) - _TOLD} more")
