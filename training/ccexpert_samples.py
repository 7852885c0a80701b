"""Samples of CCExpert: pairs and captions into prompts with labels.

The captions of a pair are samples of their own (`FlattenedSamples` with `captions_per_pair=None`, stages I and II) or
one of them is chosen anew each epoch (`ChosenSamples`, stage III).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from rscc_hf.data.augmentation import Augmentation
from rscc_hf.processing.processing_ccexpert import CCExpertProcessor
from rscc_hf.training.batches import Batch, IndexedSamples
from rscc_hf.training.pair_images import Pixels, PixelSource
from rscc_hf.training.recipe import RecipeError
from rscc_hf.training.samples import (
    LABEL_MULTIPLE,
    CaptionFilter,
    ChosenSamples,
    FlattenedSamples,
    SampleMaker,
    augment,
)

CAPTION_POLICIES = ("flatten", "random_choice")


class PromptedBatchMaker(SampleMaker):
    """Makes micro-batches of the processor's prompt, one caption a sample.

    Args:
        processor: Normalises, writes the prompt, tokenises and labels.
        seed: Of all randomness.
        augmentation: Of pixels and words together; None: none, as in the paper.
        max_length: Longest sequence in tokens, those of the images included; None: whatever comes.

    Raises:
        RecipeError: `max_length` has no room for the prompt and a word.
    """

    def __init__(
        self,
        processor: CCExpertProcessor,
        seed: int,
        augmentation: Augmentation | None = None,
        max_length: int | None = None,
    ):
        super().__init__(seed)
        self.processor, self.augmentation, self.max_length = processor, augmentation, max_length
        self.prompt_length = len(processor(text=[None], return_tensors=None)["input_ids"][0])
        if max_length is not None and max_length <= self.prompt_length:
            raise RecipeError(
                f"max_length is {max_length} and the prompt with its images makes {self.prompt_length} tokens: "
                "raise it."
            )

    def make(
        self,
        pixels: Pixels,
        captions: Sequence[Sequence[str]],
        generators: Sequence[np.random.Generator],
        epochs: Sequence[int],
    ) -> Batch:
        """`pixel_values`, `input_ids`, `attention_mask`, `labels`.

        Where the pixels have masks also `change_masks` (n, H, W) bool, which are no input of the model. The sequences
        are padded on the right, to a multiple of `LABEL_MULTIPLE`.

        Raises:
            ValueError: A sample has not exactly one caption.
        """
        if any(len(texts) != 1 for texts in captions):
            raise ValueError("CCExpert reads one caption a sample: set captions_per_sample to 1.")
        images, changes = pixels.images, pixels.changes
        maps = None
        if changes is not None:  # (n, 1, 1, H, W) -> (n, 2, 1, H, W): augmentation moves the maps of two dates
            maps = changes.to(torch.uint8).expand(-1, 2, -1, -1, -1)
        if self.augmentation is not None:
            images, maps, captions = augment(self.augmentation, images, maps, captions, generators)
        batch = dict(
            self.processor(
                images=images,
                captions=[texts[0] for texts in captions],
                max_length=self.max_length,
                padding_side="right",
                pad_to_multiple_of=LABEL_MULTIPLE,
                return_tensors="pt",
            )
        )
        if maps is not None:
            batch["change_masks"] = maps[:, 0, 0].bool()
        return batch

    def ask(self, images: torch.Tensor) -> Batch:
        """What `generate` takes to caption pairs: `pixel_values`, `input_ids`, `attention_mask`.

        Args:
            images: (n, 2, C, H, W) uint8, as `Pixels.images`.
        """
        return dict(self.processor(images=images, padding_side="left", return_tensors="pt"))


class PromptedCaptionFilter(CaptionFilter):
    """Which captions are trained on: as `CaptionFilter`, and without marks of the conversation in them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int):
        super().__init__(tokenizer, max_length)
        added = tokenizer.added_tokens_decoder.items()  # all_special_ids would lack `<image>`
        self.marks = {number for number, token in added if token.special} - {tokenizer.unk_token_id}

    def __call__(self, captions: Sequence[str] | None) -> list[str]:
        """The usable ones of a pair's captions."""
        kept = [text for text in super().__call__(captions) if text.strip()]
        if not kept:
            return []
        rows: Any = self.tokenizer(kept, add_special_tokens=False)["input_ids"]
        return [text for text, ids in zip(kept, rows, strict=True) if not self.marks.intersection(ids)]


def prompted_samples(
    policy: str,
    pixels: PixelSource,
    captions: Sequence[Sequence[str]],
    maker: PromptedBatchMaker,
    captions_per_pair: int | None = None,
) -> IndexedSamples:
    """The samples of a stage.

    Args:
        policy: "flatten" or "random_choice".
        pixels: The pairs.
        captions: The usable captions of each pair; a pair without any gives no sample.
        maker: Makes the micro-batches.
        captions_per_pair: With "flatten": as many of each pair, drawn once. None: all.

    Raises:
        RecipeError: There is no such policy.
    """
    if policy == "flatten":
        return FlattenedSamples(pixels, captions, maker, captions_per_pair)
    if policy == "random_choice":
        return ChosenSamples(pixels, captions, maker)
    raise RecipeError(f"captions is {policy!r}: there are {' and '.join(CAPTION_POLICIES)}.")
