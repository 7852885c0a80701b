"""What is raised when files of a checkpoint are damaged, or of another version."""

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
