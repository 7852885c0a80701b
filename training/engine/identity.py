"""What a run learns from and starts with, as digests: whether a run that goes on is the one that began."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from rscc_hf.checkpoint import source_fingerprint
from rscc_hf.errors import CheckpointError

logger = logging.getLogger(__name__)

_CAPTION = "two houses appear"  # any would do

_WORDS = {
    "train_data": "train_data holds other pairs than that",
    "validation_data": "validation_data holds other pairs than that",
    "tokenizer": "The tokenizer has other words or settings than that",
    "prompt_ids": "init_from writes the prompt in other words than that",
    "init_from": "init_from is another model than that",
    "init_from_weights": "init_from has other weights than that",
    "backbone_weights_rgb": "backbone_weights_rgb are other weights than those",
    "backbone_weights_semantic": "backbone_weights_semantic are other weights than those",
}


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """The digest of a tokenizer's words, their numbers, and how it cuts texts into them."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    settings = {} if backend is None else json.loads(backend.to_str())
    for name in ("truncation", "padding"):  # of the last call
        settings.pop(name, None)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return _digest([settings, sorted(tokenizer.get_vocab().items()), sorted(special.items())])


def prompt_digest(processor: Any) -> str:
    """The digest of a conversation as a CCExpert's processor writes it, and of what of it is learnt."""
    rows = processor(captions=[_CAPTION], padding=False, return_tensors=None)
    return _digest([[int(number) for number in rows[name][0]] for name in ("input_ids", "labels")])


def sources_identity(sources: dict[str, tuple[str | None, str | None]]) -> dict[str, str]:
    """The digest of each model that a run starts from: a folder's contents, or the Hub's commit.

    Args:
        sources: Folder or id on the Hub, and revision, by the recipe's key; those of None are left out.
    """
    found = {}
    for key, (where, revision) in sources.items():
        mark = None if where is None else source_fingerprint(str(Path(where).expanduser()), revision)
        if mark is not None:
            found[key] = mark
    return found


def check_identity(checkpoint: Path, state: dict[str, Any], now: dict[str, str]) -> None:
    """Compares what a run goes on with to what it began with.

    Args:
        checkpoint: Of the run.
        state: Of the checkpoint.
        now: What `Task.identity` gives.

    Raises:
        CheckpointError: Something is another, or is not there any more.
    """
    began: dict[str, str] = state.get("identity") or {}
    for key, digest in now.items():
        if key in began and began[key] != digest:
            what = _WORDS.get(key, f"{key} is another than that")
            raise CheckpointError(
                f"{what} of {checkpoint}'s run ({began[key][:12]} then, {digest[:12]} now): continue with the "
                "same, or start a new run in another output_dir."
            )
    for key in began:
        if key not in now:
            raise CheckpointError(
                f"{checkpoint}'s run began with {key} {began[key][:12]}, and what {key} is now cannot be told: "
                "continue with the same, or start a new run in another output_dir."
            )
    unknown = [key for key in now if key not in began]
    if unknown:
        logger.warning(
            "%s does not say with which %s the run began (an older version wrote it): that it is the same was not "
            "checked",
            checkpoint,
            " and ".join(unknown),
        )


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
