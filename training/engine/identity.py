"""What a run learns from and starts with, as digests; `resuming.py` compares them."""

import hashlib
import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from rscc_hf.checkpoint import source_fingerprint


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the digest of a tokenizer's words, their numbers, and how it cuts texts into them."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    settings = {} if backend is None else json.loads(backend.to_str())
    for name in ("truncation", "padding"):  # of the last call
        settings.pop(name, None)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return digest([settings, sorted(tokenizer.get_vocab().items()), sorted(special.items())])


def sources_identity(sources: dict[str, tuple[str | None, str | None]]) -> dict[str, str]:
    """Return the digest of each model that a run starts from: a folder's contents, or the Hub's commit.

    Args:
        sources: Folder or id on the Hub, and revision, by the recipe's key; those of None are left out.
    """
    found = {}
    for key, (where, revision) in sources.items():
        mark = None if where is None else source_fingerprint(str(Path(where).expanduser()), revision)
        if mark is not None:
            found[key] = mark
    return found


def digest(content: Any) -> str:
    """Return the digest of what JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
