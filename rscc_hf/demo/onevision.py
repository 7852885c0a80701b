"""A LLaVA-OneVision of the demo's own: a small SigLIP, a small Qwen2 and a vocabulary, all from nothing.

It stands in for the pretrained checkpoint that CCExpert starts from, and is written in the form in which transformers
writes LLaVA-OneVision (arXiv 2408.03326), so that CCExpert takes it in as it would take the large one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

from rscc_hf.data.vocabulary import build_bpe_tokenizer
from rscc_hf.errors import InputError
from rscc_hf.modeling.modeling_ccexpert_integration import sine_positions
from rscc_hf.processing.chat_templates_ccexpert import IMAGE_TOKEN, PAPER_PROMPT, SYSTEM_MESSAGE, prepare_tokenizer

#: Of the tower's first position embedding, sines of amplitude 1, so that attention of every part finds places.
_POSITION_SCALE = 3.0


@dataclass(frozen=True)
class SmallOneVision:
    """Sizes of the demo's LLaVA-OneVision.

    Attributes:
        image_size: Side of an image in pixels.
        patch_size: Side of a patch; an image gives `(image_size / patch_size) ** 2` tokens.
        vision_width: Channels of the tower, and
        vision_layers: its layers.
        text_width: Channels of the language model, and
        text_layers: its layers.
        vocab_size: Largest number of entries of the byte-pair vocabulary, without the marks of turns and images.
    """

    image_size: int = 96
    patch_size: int = 12
    vision_width: int = 96
    vision_layers: int = 4
    text_width: int = 128
    text_layers: int = 3
    vocab_size: int = 1200


def make_tokenizer(captions: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Make a byte-pair vocabulary of captions and of what CCExpert is asked, with the marks of turns and images."""
    asked = (PAPER_PROMPT.replace(IMAGE_TOKEN, " "), SYSTEM_MESSAGE, "system\n", "user\n", "assistant\n")
    return prepare_tokenizer(build_bpe_tokenizer([*captions, *asked * 100], vocab_size))


def write_new(folder: Path, tokenizer: PreTrainedTokenizerFast, sizes: SmallOneVision, seed: int) -> None:
    """Write a LLaVA-OneVision with new weights, and its tokenizer.

    Args:
        folder: Gets config.json, model.safetensors and the tokenizer.
        tokenizer: From `make_tokenizer`.
        sizes: Of the model.
        seed: Of the weights.
    """
    image: Any = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    heads = max(1, sizes.vision_width // 24), max(1, sizes.text_width // 32)
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=sizes.vision_width,
            intermediate_size=4 * sizes.vision_width,
            num_hidden_layers=sizes.vision_layers,
            num_attention_heads=heads[0],
            image_size=sizes.image_size,
            patch_size=sizes.patch_size,
            vision_use_head=False,
        ),
        text_config=Qwen2Config(
            hidden_size=sizes.text_width,
            intermediate_size=3 * sizes.text_width,
            num_hidden_layers=sizes.text_layers,
            num_attention_heads=heads[1],
            num_key_value_heads=heads[1],
            vocab_size=len(tokenizer),
            max_position_embeddings=1024,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=True,
        ),
        image_token_index=image,
        video_token_index=image,  # it reads no videos
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = LlavaOnevisionForConditionalGeneration(config)
    # SigLIP's own start is random and small beside the patches: "where" is then learned late or never
    grid = sizes.image_size // sizes.patch_size
    table = model.model.vision_tower.embeddings.position_embedding.weight
    with torch.no_grad():
        table.copy_(_POSITION_SCALE * sine_positions(grid, grid, sizes.vision_width))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_trained(folder: Path, new: Path, ccexpert: Any, tokenizer: Any) -> None:
    """Write the parts of a CCExpert without its module back as a LLaVA-OneVision.

    Args:
        folder: Gets config.json, model.safetensors and the tokenizer.
        new: What `write_new` wrote: the configuration, and the weights that CCExpert does not have.
        ccexpert: A `CCExpertForConditionalGeneration` that started from it, module off.
        tokenizer: Its tokenizer.

    Raises:
        ValueError: A weight of the CCExpert has no place in the LLaVA-OneVision.
    """
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(new, dtype=torch.float32)
    weights = model.state_dict()
    for name, value in ccexpert.state_dict().items():
        theirs = _onevision_name(name)
        if theirs not in weights or weights[theirs].shape != value.shape:
            raise InputError(f"{name} has no place in the LLaVA-OneVision of {new}: the two are of different sizes.")
        weights[theirs] = value
    model.load_state_dict(weights)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _onevision_name(name: str) -> str:
    """Return the name in memory of transformers' LLaVA-OneVision for a weight of CCExpert."""
    for ours, theirs in (
        ("vision_tower.model.", "model.vision_tower."),
        ("projector.", "model.multi_modal_projector."),
        ("language_model.", "model.language_model."),
    ):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name
