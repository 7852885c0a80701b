"""Reading files of a checkpoint: what is raised when they are damaged or of another version, in one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

from rscc_hf.errors import RecipeError
from rscc_hf.text import reason_of

# From ImportError on: what transformers and peft make of damaged settings, and of such of other versions.
_KINDS = (
    OSError,
    ValueError,
    SafetensorError,
    ImportError,
    RuntimeError,
    TypeError,
    LookupError,
    AttributeError,
)
_PACKAGES = ("huggingface_hub", "jinja2")


def is_unreadable(error: Exception) -> bool:
    """Tell whether an error says that files cannot be read, or hold something else than they should.

    `tokenizers` raises a bare `Exception` for that; the Hub's client, which also checks the types of settings, and
    jinja2, which reads chat templates, raise errors of their own.
    """
    kind = type(error)
    return isinstance(error, _KINDS) or kind is Exception or kind.__module__.split(".")[0] in _PACKAGES


@contextmanager
def reading(what: str, remedy: str = "") -> Iterator[None]:
    """Make one sentence of whatever goes wrong when files are read: one is missing, cut off, or of something else.

    Args:
        what: Whose files they are.
        remedy: What to do about it, without a full stop.

    Raises:
        RecipeError: In place of the error.
    """
    try:
        yield
    except RecipeError:
        raise
    except Exception as error:
        if not is_unreadable(error):
            raise
        sentence = f"{what} cannot be read ({reason_of(error, whole=True)[:300]})"
        raise RecipeError(f"{sentence}; {remedy}." if remedy else f"{sentence}.") from error
