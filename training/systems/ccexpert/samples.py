"""Samples of CCExpert: pairs and captions into prompts with labels.

The captions of a pair are samples of their own (`FlattenedSamples` with `captions_per_pair=None`, stages I and II), or
one of them is chosen anew each epoch (`ChosenSamples`, stage III), or several are learnt together: pair and prompt are
read once for all of them, see `packed`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from rscc_hf.data.augmentation import Augmentation
from rscc_hf.errors import InputError, RecipeError, input_errors
from rscc_hf.processing.change_pair_reader import PairPixels
from rscc_hf.processing.processing_ccexpert import CCExpertProcessor
from rscc_hf.processing.token_rows_ccexpert import IGNORED
from rscc_hf.training.aids.changed_pixels import changed_pixels
from rscc_hf.training.engine.batches import Batch, IndexedSamples
from rscc_hf.training.systems.pairs.pixels import Pixels, PixelSource
from rscc_hf.training.systems.pairs.samples import (
    LABEL_MULTIPLE,
    CaptionFilter,
    ChosenSamples,
    FlattenedSamples,
    SampleMaker,
    augment,
)

_KEPT_CAPTIONS = 65536  # a data set has a few ten thousand different ones, asked for again in each epoch
CAPTION_POLICIES = ("flatten", "random_choice", "together")


class PromptedBatchMaker(SampleMaker):
    """Makes micro-batches of the processor's prompt, one caption a sample.

    Args:
        processor: Normalises, writes the prompt, tokenises and labels.
        seed: Of all randomness.
        augmentation: Of pixels and words together; None: none, as in the paper.
        max_length: Longest sequence in tokens, those of the images included; None: whatever comes.
        changed_pixels_share: Share of the samples whose images are grey where nothing changed, see `changed_pixels`.

    Raises:
        RecipeError: `max_length` has no room for the prompt and a word.
    """

    def __init__(
        self,
        processor: CCExpertProcessor,
        seed: int,
        augmentation: Augmentation | None = None,
        max_length: int | None = None,
        changed_pixels_share: float = 0.0,
    ):
        super().__init__(seed)
        self.processor, self.augmentation, self.max_length = processor, augmentation, max_length
        self.changed_pixels_share = changed_pixels_share
        self._kept: dict[str, _Row] = {}
        self._prompts: dict[tuple[int, ...], tuple[int, ...]] = {}  # each kept once, for all captions behind it
        self.prompt_length = len(processor(text=[None], return_tensors=None)["input_ids"][0])
        if max_length is not None and max_length <= self.prompt_length:
            raise RecipeError(
                f"max_length is {max_length} and the prompt with its images makes {self.prompt_length} tokens; "
                "raise it."
            )

    def make(
        self,
        pixels: Pixels,
        captions: Sequence[Sequence[str]],
        generators: Sequence[np.random.Generator],
        epochs: Sequence[int],
    ) -> Batch:
        """Make `pixel_values`, `input_ids`, `attention_mask`, `labels`.

        Where the pixels have masks also `change_masks` (n, H, W) bool, and where a sample has several captions
        `segments` in place of `attention_mask`, with `position_ids` (see `packed`); neither is an input of the model.
        The sequences are padded on the right, to a multiple of `LABEL_MULTIPLE`.

        Raises:
            InputError: The samples differ in their number of captions.
        """
        counts = {len(texts) for texts in captions}
        if len(counts) != 1:
            raise InputError(f"The samples have {sorted(counts)} captions; give as many for each.")
        images, changes = pixels.images, pixels.changes
        maps = None
        if changes is not None:  # (n, 1, 1, H, W) -> (n, 2, 1, H, W): augmentation moves the maps of two dates
            maps = changes.to(torch.uint8).expand(-1, 2, -1, -1, -1)
        if self.augmentation is not None:
            images, maps, captions = augment(self.augmentation, images, maps, captions, generators)
        if self.changed_pixels_share and maps is not None:
            chosen = torch.tensor([generator.random() < self.changed_pixels_share for generator in generators])
            if chosen.any():
                images = images.clone()
                images[chosen] = changed_pixels(images[chosen], maps[chosen])
        (count,) = counts
        if count == 1:
            with input_errors():
                words: Any = self.processor(
                    captions=[texts[0] for texts in captions],
                    max_length=self.max_length,
                    padding_side="right",
                    pad_to_multiple_of=LABEL_MULTIPLE,
                )
        else:
            ids, labels = self._rows([text for texts in captions for text in texts])
            words = packed(ids, labels, count, self.processor.tokenizer.pad_token_id, self.max_length)
        batch = {**self._normalize(images, pixels), **words}
        if maps is not None:
            batch["change_masks"] = maps[:, 0, 0].bool()
        return batch

    def _rows(self, captions: Sequence[str]) -> tuple[list[list[int]], list[list[int]]]:
        """Return `input_ids` and `labels` of the prompt with each caption; what is written once is kept."""
        missing = [text for text in dict.fromkeys(captions) if text not in self._kept]
        if len(self._kept) + len(missing) > _KEPT_CAPTIONS:  # of a stream without end
            self._kept, missing = {}, list(dict.fromkeys(captions))
        if missing:
            with input_errors():
                rows = self.processor(captions=missing, max_length=self.max_length, padding=False, return_tensors=None)
            for text, ids, labels in zip(missing, rows["input_ids"], rows["labels"], strict=True):
                start = next((place for place, label in enumerate(labels) if label != IGNORED), len(ids))
                prompt = tuple(ids[:start])
                prompt = self._prompts.setdefault(prompt, prompt)
                self._kept[text] = _Row(prompt, tuple(ids[start:]), tuple(labels[start:]))
        found = [self._kept[text] for text in captions]
        return [[*row.prompt, *row.ids] for row in found], [
            [IGNORED] * len(row.prompt) + [*row.labels] for row in found
        ]

    def ask(self, pixels: Pixels) -> Batch:
        """Return what `generate` takes to caption pairs: `pixel_values`, `input_ids`, `attention_mask`."""
        words = self.processor(text=[None] * len(pixels.images), padding_side="left")
        return {**self._normalize(pixels.images, pixels), **words}

    def _normalize(self, images: torch.Tensor, pixels: Pixels) -> Batch:
        return self.processor.image_processor.normalize_pairs(PairPixels(images, None, pixels.present))


class _Row(NamedTuple):
    """Ids of a prompt, which is not learnt, and ids and labels of what stands behind it."""

    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    labels: tuple[int, ...]


def packed(
    input_ids: Sequence[list[int]], labels: Sequence[list[int]], count: int, pad: int, max_length: int | None = None
) -> Batch:
    """Put the captions of a pair behind one copy of its prompt: prompt, caption 1, caption 2, ...

    Each caption sees the prompt and itself, at the positions that it has behind the prompt, so that it is learnt as
    if it were alone. Before each stands the prompt's last token, which says the caption's first word.

    Args:
        input_ids: Prompt and caption, `count` rows a pair one after the other, whose prompts are the same.
        labels: Of these rows: -100 on the prompt.
        count: Captions a pair.
        pad: Id of the padding token.
        max_length: Captions for which a sequence of this length has no more room are left out, but for the first.

    Returns:
        `input_ids`, `labels`, `position_ids` and `segments`, (pairs, T) each. A segment is 0 on the prompt but for its
        last token, 1 .. count on that token and the caption, -1 on padding.
    """
    columns: dict[str, list[list[int]]] = {name: [] for name in ("input_ids", "labels", "position_ids", "segments")}
    for first in range(0, len(input_ids), count):
        start = next(place for place, label in enumerate(labels[first]) if label != IGNORED) - 1
        ids, learnt = list(input_ids[first][:start]), [IGNORED] * start
        positions, segments = list(range(start)), [0] * start
        for number in range(count):
            caption, targets = input_ids[first + number][start:], labels[first + number][start:]
            if number and max_length is not None and len(ids) + len(caption) > max_length:
                continue
            ids += caption
            learnt += targets
            positions += range(start, start + len(caption))
            segments += [number + 1] * len(caption)
        for name, values in zip(columns, (ids, learnt, positions, segments), strict=True):
            columns[name].append(values)
    longest = max(len(row) for row in columns["input_ids"])
    length = longest + -longest % LABEL_MULTIPLE
    fillers = {"input_ids": pad, "labels": IGNORED, "position_ids": 0, "segments": -1}
    return {
        name: torch.tensor([row + [fillers[name]] * (length - len(row)) for row in rows])
        for name, rows in columns.items()
    }


def segment_mask(segments: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return what each token of packed rows sees, for the model's `attention_mask`.

    Args:
        segments: (n, T), see `packed`.
        dtype: Of the mask.

    Returns:
        (n, 1, T, T), 0 where a token (row) sees another (column), the dtype's lowest value elsewhere.
    """
    length = segments.shape[1]
    mine, theirs = segments[:, :, None], segments[:, None, :]
    seen = ((theirs == 0) | (theirs == mine)).tril() & (theirs >= 0)
    seen |= torch.eye(length, dtype=torch.bool, device=segments.device)  # padding sees itself: a softmax needs one
    mask = torch.zeros(seen.shape, dtype=dtype, device=segments.device)
    return mask.masked_fill(~seen, torch.finfo(dtype).min)[:, None]


class PromptedCaptionFilter(CaptionFilter):
    """Which captions are trained on: as `CaptionFilter`, and without marks of the conversation in them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int):
        super().__init__(tokenizer, max_length)
        added = tokenizer.added_tokens_decoder.items()  # all_special_ids would lack `<image>`
        self.marks = {number for number, token in added if token.special} - {tokenizer.unk_token_id}

    def __call__(self, captions: Sequence[str] | None) -> list[str]:
        """Return the usable ones of a pair's captions."""
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
    """Return the samples of a stage.

    Args:
        policy: "flatten", "random_choice" or "together".
        pixels: The pairs.
        captions: The usable captions of each pair; a pair without any gives no sample.
        maker: Makes the micro-batches.
        captions_per_pair: With "flatten": as many of each pair, drawn once; None: all. With "together": as many
            of each pair, drawn anew each epoch.

    Raises:
        RecipeError: There is no such policy, or captions_per_pair is missing.
    """
    if policy == "flatten":
        return FlattenedSamples(pixels, captions, maker, captions_per_pair)
    if policy == "random_choice":
        return ChosenSamples(pixels, captions, maker)
    if policy == "together":
        if captions_per_pair is None:
            raise RecipeError("captions is together; say by captions_per_pair how many of each pair.")
        return ChosenSamples(pixels, captions, maker, captions_per_pair)
    raise RecipeError(f"captions is {policy!r}; there are {', '.join(CAPTION_POLICIES)}.")
