"""Run as a script by `run_a_pair`: loads a checkpoint as a stranger would and captions a made-up pair.

Prints `{"caption": ...}` as its last line, with null where the folder holds no processor. It imports nothing of
rscc_hf and makes that import fail, so that the code in the folder is what runs.
"""

import json
import sys
from pathlib import Path
from typing import Any


def _try(folder: Path, dtype: str) -> str | None:
    import numpy as np
    import torch
    from transformers import AutoModel, AutoProcessor
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model, info = AutoModel.from_pretrained(
        folder, dtype=dtype, trust_remote_code=True, use_safetensors=True, output_loading_info=True
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[kind]:
            first = sorted(map(str, info[kind]))[0]
            raise ValueError(f"{len(info[kind])} {kind.replace('_', ' ')}, first {first}")
    model.register_forward_hook(_check_numbers)
    if not (folder / "processor_config.json").is_file():
        _run_without_words(model.eval())
        return None
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    size = processor.image_processor.size
    shape = (4, int(size["height"]), int(size["width"]), 3)
    before, after, *maps = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    given: dict[str, Any] = {"images": [[before, after]]}
    if getattr(model.config, "modalities", None) == "rgb_semantic":
        given["semantic_maps"] = [maps]
    inputs = processor(**given, return_tensors="pt").to(model.device)
    for name, value in inputs.items():
        if value.is_floating_point():
            inputs[name] = value.to(model.dtype)
    with torch.inference_mode():
        tokens = model.eval().generate(**inputs)
    return processor.batch_decode(tokens, skip_special_tokens=True)[0]


def _run_without_words(model: Any) -> None:
    """Run a made-up pair through a model without a processor: numbers must come out, whatever they mean."""
    import torch

    config = model.config
    if not hasattr(config, "image_token_id"):
        return  # takes no images among its words
    noise = torch.Generator().manual_seed(0)
    pixels = torch.randn((1, 2, config.vision.num_channels, config.image_size, config.image_size), generator=noise)
    ids = torch.tensor([[0, *[config.image_token_id] * 2 * config.tokens_per_image, 0]])
    with torch.inference_mode():
        model(input_ids=ids, pixel_values=pixels.to(model.dtype), logits_to_keep=1)


def _check_numbers(model: Any, given: Any, answer: Any) -> None:
    """Check after each step that what the model says of the words are numbers, or the words say nothing of it."""
    if not bool(answer.logits.isfinite().all()):
        raise ValueError("a made-up pair gives numbers that are not finite; its weights are damaged or overflow")


if __name__ == "__main__":
    sys.modules["rscc_hf"] = None  # type: ignore[assignment]  # any import of it fails from here on
    print(json.dumps({"caption": _try(Path(sys.argv[1]), sys.argv[2])}))
