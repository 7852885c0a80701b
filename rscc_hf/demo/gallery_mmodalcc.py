"""What the page of MModalCC's demo shows of a test pair: images, maps, captions, and the gates of every word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from rscc_hf.demo.report import data_uri, judged
from rscc_hf.inference.captioner import ChangeCaptioner


@dataclass(frozen=True)
class Gates:
    """Mean gate values of one caption, a value a word, each in 0..1 (MGCA's g_rgb, g_sem, g_word)."""

    words: list[str]
    rgb: list[float]
    semantic: list[float]
    word: list[float]


def gates_of(captioner: ChangeCaptioner, pair: dict[str, Any], caption: str) -> Gates:
    """Return the gates of each word of `caption` in the last decoder layer, from one pass with maps."""
    processor, model = captioner.processor, captioner.model
    inputs = processor(
        images=[[pair["image_before"], pair["image_after"]]],
        semantic_maps=[[pair["semantic_before"], pair["semantic_after"]]],
        text=[caption],
        return_tensors="pt",
    ).to(model.device)
    labels = inputs.pop("labels")  # w1 .. wn <end>
    start = labels.new_full((1, 1), model.config.decoder_start_token_id)
    explained = model.explain(inputs, torch.cat([start, labels], dim=1))
    words = processor.tokenizer.convert_ids_to_tokens(labels[0, :-1].tolist())
    rgb, semantic, word = explained.gates[0, -1, : len(words)].unbind(-1)
    return Gates(words=words, rgb=rgb.tolist(), semantic=semantic.tolist(), word=word.tolist())


def gallery_entry(
    captioner: ChangeCaptioner, pair: dict[str, Any], caption: str, caption_without_maps: str
) -> dict[str, Any]:
    """Return what the template shows of one test pair."""
    images = [
        ("before", pair["image_before"]),
        ("after", pair["image_after"]),
        ("map before", pair["semantic_before"]),
        ("map after", pair["semantic_after"]),
    ]
    return {
        **judged(pair, caption),
        "images": [(label, data_uri(image)) for label, image in images],
        "caption_without_maps": caption_without_maps,
        "gates": vars(gates_of(captioner, pair, caption)),
    }
