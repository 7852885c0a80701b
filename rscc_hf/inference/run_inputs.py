"""Digests of all that a caption depends on, so that a finished one is known by what was asked and not by its name.

Each line of captions carries them as `inputs`: of its own the bytes of both images and of the maps that were used, and
of the run the weights (with the config where the model is of no checkpoint), how images are read, the prompt with the
tokenizer, and the checkpoint's defaults of decoding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rscc_hf.data.lists.items import images_of
from rscc_hf.files import digest_file
from rscc_hf.inference.captioner import ChangeCaptioner
from rscc_hf.pair import Pair

_DIGITS = 16
# Values of a weight that are looked at: all of a small one, so many at even distances of a large one.
_SAMPLES = 65536
# What a processor's settings say beside how it reads: who wrote them, and limits that change no pixel.
_NO_READING = frozenset(
    (
        *("auto_map", "processor_class", "_processor_class", "image_processor_type", "name_or_path", "_name_or_path"),
        *("transformers_version", "device", "return_tensors", "max_image_pixels"),
    )
)
# What a config says beside what the model computes: who wrote it, where it lay, and the dtype, which is a setting.
_NO_MODEL = frozenset(
    (
        *("transformers_version", "_name_or_path", "name_or_path", "_commit_hash", "auto_map", "architectures"),
        *("dtype", "torch_dtype", "_attn_implementation"),
    )
)
_NO_DECODING = frozenset(("transformers_version", "_from_model_config", "_commit_hash"))
_TOLD = {
    "before": "another image before",
    "after": "another image after",
    "semantic_before": "another semantic map before",
    "semantic_after": "another semantic map after",
    "weights": "other weights of the model",
    "config": "another config of the model",
    "prompt": "another prompt or tokenizer",
    "reading": "other settings of reading images (size, normalisation, range of values)",
    "decoding": "other defaults of decoding in the checkpoint's generation_config",
}


def run_digests(captioner: ChangeCaptioner, generate_kwargs: Mapping[str, Any]) -> dict[str, str]:
    """Return digests of what all captions of a run depend on.

    Args:
        captioner: Answers.
        generate_kwargs: What is given to `generate`; a default of the checkpoint that it replaces does not matter.
    """
    generation = getattr(captioner.model, "generation_config", None)
    decoding = {} if generation is None else generation.to_diff_dict()
    reading, prompt = _of_processor(captioner.processor)
    # that of a checkpoint is part of its fingerprint; a model made in Python has none
    made_here = captioner.fingerprint is None
    config = {"config": _of_values(_without(captioner.model.config.to_dict(), _NO_MODEL))} if made_here else {}
    return {
        **config,
        "weights": _weights(captioner.model),
        "reading": _of_values(reading),
        "prompt": _of_values(prompt),
        "decoding": _of_values(_without(decoding, _NO_DECODING | generate_kwargs.keys())),
    }


def _of_processor(processor: Any) -> tuple[Any, Any]:
    """Return what a processor is set to, for images and for text."""
    images = getattr(processor, "image_processor", None)
    settings = {
        name: value for name, value in processor.to_dict().items() if name not in ("image_processor", "prompt")
    }
    tokenizer = getattr(processor, "tokenizer", None)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = {} if backend is None else json.loads(backend.to_str())
    text = {
        "prompt": getattr(processor, "prompt", None),
        "templates": [getattr(one, "chat_template", None) for one in (processor, tokenizer)],
        # how the last call padded stays in the tokenizer and says nothing about the next one
        "tokenizer": {name: value for name, value in words.items() if name not in ("padding", "truncation")},
    }
    if images is None:  # one that knows no parts: its settings are of both
        return _without(settings, _NO_READING), text
    return _without(images.to_dict(), _NO_READING), {**text, "settings": _without(settings, _NO_READING)}


def pair_digests(pair: Pair) -> dict[str, str]:
    """Return digests of the files of a pair; one that cannot be read has none: the processor says what is wrong."""
    digests = {name: _of_image(image) for name, image in images_of(pair).items()}
    return {name: digest for name, digest in digests.items() if digest is not None}


def difference(written: Any, now: Mapping[str, str]) -> str | None:
    """Return what of a line's `inputs` is not as it is now, in words; None where all is."""
    if written == now:
        return None
    for name, words in _TOLD.items():
        if written.get(name) != now.get(name):
            return words
    return "other inputs"


def _of_image(image: Path | Mapping[str, Any] | None) -> str | None:
    if image is None:
        return None
    if isinstance(image, Mapping):
        if image.get("bytes") is not None:
            return hashlib.sha256(image["bytes"]).hexdigest()[:_DIGITS]
        image = image.get("path")
    if image is None:
        return None
    try:
        return digest_file(image)[:_DIGITS]
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return None


def _of_values(values: Any) -> str:
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]


def _without(values: Any, left_out: frozenset[str]) -> Any:
    """Return a copy without some keys, also in dictionaries inside (a processor holds its image processor's)."""
    if not isinstance(values, Mapping):
        return values
    return {key: _without(value, left_out) for key, value in values.items() if key not in left_out}


def _weights(model: Any) -> str:
    """Return a digest of samples of every weight and buffer, as the model holds them.

    The fingerprint of a folder takes samples of its files, where a small part that was trained can lie between them;
    and a model made in Python has none.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype};".encode())
        if tensor.device.type == "meta":
            continue
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, -(-flat.numel() // _SAMPLES))].cpu().contiguous()
        digest.update(sample.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:_DIGITS]
