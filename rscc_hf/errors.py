"""What can be wrong with what a user gave: errors whose text is one sentence with the remedy.

A command and a script print that sentence and end; every other exception but `OSError` is a fault of the program and
keeps its traceback. What ships with checkpoints cannot import these: it raises `ValueError` and its own `PairError`,
which become an `InputError` where we call it with what a user gave (`input_errors`).
"""

from collections.abc import Iterator
from contextlib import contextmanager


class RsccError(ValueError):
    """Base of all errors that are a user's to mend: one sentence that names the file, field or key and the remedy."""


class InputError(RsccError):
    """An argument, a file, a folder or a list that cannot be used.

    Attributes:
        pair: Name or number of the pair it is about, where it is about one.
        file: The image or map of the pair.
    """

    pair: str | int | None = None
    file: str | None = None


class PredictionsError(InputError):
    """A file of predictions that cannot be used; the message names the line."""


class UnsafePickleError(InputError):
    """A pickle that is damaged or holds what is not allowed; the message is part of a sentence that names the file."""


class RecipeError(RsccError):
    """A recipe that cannot be run; the message names the key and the file."""


class CheckpointError(RsccError):
    """A checkpoint of training that cannot be used or written; the message names it."""


class TrainingError(RsccError, RuntimeError):
    """Training that cannot go on; the message says at which step and what to try."""


class MeteorError(RsccError, RuntimeError):
    """METEOR that cannot be computed: no Java, a process that died or took too long, or a senseless answer."""


class PushError(RsccError):
    """A folder that must not be pushed, or a push that cannot be done."""


@contextmanager
def input_errors(kind: type[RsccError] = InputError, where: str = "") -> Iterator[None]:
    """Make a `ValueError` about a user's input, or what a configuration raises, an error of ours with its words.

    For the few calls of code that ships with checkpoints, or of a library, with what a user gave, and for them alone:
    in our own code a bare `ValueError` is a fault.

    Args:
        kind: What is raised.
        where: What the input is, before the words: "init_from stage1".

    Raises:
        RsccError: In place of a `ValueError`; an `InputError` keeps `pair` and `file` of a `PairError`. In place of a
            `StrictDataclassError` with the words of its cause, as its own are two lines about a validator.
    """
    try:
        yield
    except RsccError:
        raise
    except Exception as error:
        from huggingface_hub.errors import StrictDataclassError  # here: it costs a tenth of a second

        if not isinstance(error, ValueError | StrictDataclassError):
            raise
        cause = (error.__cause__ or error) if isinstance(error, StrictDataclassError) else None
        words = str(error) if cause is None else " ".join(str(cause).split())
        ours = kind(f"{where}: {words}" if where else words)
        if isinstance(ours, InputError):
            ours.pair, ours.file = getattr(error, "pair", None), getattr(error, "file", None)
        raise ours from error
