"""Which model answers when none is named: the one that the user's own demo trained."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rscc_hf.errors import InputError
from rscc_hf.files import write_text

ENVIRONMENT = "RSCC_MODEL"
DEMO_MODEL = Path("demo_output") / "model"
# A path need not be text in UTF-8; it is noted by its own bytes.
_ERRORS = sys.getfilesystemencodeerrors()


def _record() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "rscc_hf" / "demo_model.txt"


def remember_demo_model(model: str | os.PathLike[str]) -> None:
    """Note where the demo saved its model (`~/.cache/rscc_hf/demo_model.txt`; `XDG_CACHE_HOME` is honoured).

    Args:
        model: The model's folder.

    Raises:
        OSError: The note cannot be written.
    """
    write_text(_record(), f"{Path(model).resolve()}\n", errors=_ERRORS)


def find_demo_model() -> str | None:
    """Return the model that answers when none is named: the first there is of these.

    1. What the environment variable `RSCC_MODEL` says: a folder or a Hub id.
    2. `demo_output/model` in the current folder.
    3. The folder that `remember_demo_model` noted, where it still exists.
    """
    named = os.environ.get(ENVIRONMENT)
    if named:
        return named
    if (DEMO_MODEL / "config.json").is_file():
        return str(DEMO_MODEL)
    record = _record()
    if record.is_file():
        folder = Path(record.read_text(encoding="utf-8", errors=_ERRORS).removesuffix("\n"))
        if (folder / "config.json").is_file():
            return str(folder)
    return None


def model_to_use(named: str | None) -> str:
    """Choose `named`, or else what `find_demo_model` finds.

    Raises:
        ValueError: No model is named and there is none to be found.
    """
    found = named or find_demo_model()
    if found is None:
        raise InputError(f"no model; train one with `rscc demo`, or name one with --model (or ${ENVIRONMENT}).")
    return found
