"""What is raised when files of a checkpoint are damaged, or of another version, and how to say it in a sentence."""

from safetensors import SafetensorError

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


def reason_of(error: Exception) -> str:
    """Say what went wrong, on one line, without a full stop."""
    if isinstance(error, OSError):
        words = error.strerror or str(error).split("\n")[0]  # the Hub's go on with advice
        if error.strerror and error.filename is not None:
            words = f"{words}: {error.filename}"
    else:
        words = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return " ".join(words.split()).rstrip(".") or type(error).__name__
