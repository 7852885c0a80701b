"""The folder of a checkpoint: what of a folder is ours to replace, and a new one that is whole or absent."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from rscc_hf.files import Written, new_folder, refuse_input_as_output
from rscc_hf.formats.cards import is_ours, own_text
from rscc_hf.formats.records import Conversion, Evaluation

_OURS = ("mmodalcc", "ccexpert")  # model types


def _why_no_checkpoint(folder: Path) -> str | None:
    """Say why a folder is no checkpoint that a converter may replace (see `files.Written`)."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except OSError:
        return "is no checkpoint (no config.json)"
    except (ValueError, RecursionError):
        damaged = any(folder.glob("model*.safetensors"))  # else somebody else's config.json
        return None if damaged else "is no checkpoint (config.json is no JSON, and there are no weights)"
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind is None:
        return "is no checkpoint (config.json names no model_type)"
    return None if kind in _OURS else f"is a checkpoint of another kind (model_type {kind!r})"


def shipped_code() -> tuple[str, ...]:
    """Name the modules that go along with a checkpoint, as `save_pretrained` copies them."""
    specs = [find_spec(f"rscc_hf.{package}") for package in ("modeling", "processing")]  # without importing them
    folders = [Path(place) for spec in specs if spec is not None for place in spec.submodule_search_locations or ()]
    return tuple(sorted({path.name for folder in folders for path in folder.glob("*.py")} - {"__init__.py"}))


def _is_own_card(path: Path) -> bool:
    """Tell whether a card is all ours: somebody else's stays, and so does what a user added to ours."""
    try:
        card = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return is_ours(card) and not own_text(card)


CHECKPOINT = Written(
    "checkpoint",
    _why_no_checkpoint,
    (
        *("config.json", "generation_config.json", "README.md", Conversion.NAME, Evaluation.NAME),
        *("model.safetensors", "model-[0-9]*-of-[0-9]*.safetensors", "model.safetensors.index.json"),
        *("preprocessor_config.json", "processor_config.json", "chat_template.jinja", "chat_template.json"),
        *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json"),
        *("added_tokens.json", "vocab.json", "merges.txt", *shipped_code()),
    ),
    {"README.md": _is_own_card},
)
"""What converters write, and `rscc card` adds."""


@contextmanager
def new_checkpoint(out: Path, *, overwrite: bool, sources: Sequence[str | Path] = ()) -> Iterator[Path]:
    """Give a temporary folder beside `out` that takes its place at the end; after an error nothing of it is left.

    So it is after Ctrl+C and SIGTERM, which ends the process with a `SystemExit` here.

    Args:
        out: The checkpoint to make. Missing parents are made.
        overwrite: Whether a checkpoint that is there is replaced. Other folders never are: a slip in the name must
            not cost the user's files (`files.check_replaceable`).
        sources: What is read.

    Raises:
        ValueError: `out` is not to be replaced, or is, holds or lies in a source.
    """
    refuse_input_as_output(out, sources)
    with new_folder(out, overwrite=overwrite, kind=CHECKPOINT) as folder:
        yield folder
