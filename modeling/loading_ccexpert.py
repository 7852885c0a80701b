"""Weights and configurations of the LLaVA family (transformers format) for CCExpert."""

import os
from typing import Any


def load_llava(cls: Any, path_or_id: str | os.PathLike, kind: str, options: dict[str, Any]) -> Any:
    raise NotImplementedError
