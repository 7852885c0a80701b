"""Samples: which caption, which augmentation, which maps are left out; and the micro-batch they make.

All randomness of a sample comes from a generator seeded with (recipe's seed, epoch, index): no worker and no process
has a state of its own, so that nothing about samples needs to be saved for resuming.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from rscc_hf.data.augmentation import Augmentation
from rscc_hf.errors import input_errors
from rscc_hf.processing.change_pair_reader import PairPixels
from rscc_hf.processing.processing_mmodalcc import MModalCCProcessor
from rscc_hf.training.aids.coverage import Coverage
from rscc_hf.training.engine.batches import Batch, IndexedSamples, Key
from rscc_hf.training.engine.stream import Example
from rscc_hf.training.systems.pairs.pixels import PixelReader, Pixels, PixelSource

LABEL_MULTIPLE = 8
"""Labels are padded to a multiple of this: kernels of CPUs and compilers are made anew for every new shape."""


class SampleMaker(ABC):
    """Makes micro-batches of pixels and captions.

    Args:
        seed: Of all randomness.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def generator(self, *place: int) -> np.random.Generator:
        """Return the generator of a sample: `place` is its epoch and its index or indices."""
        return np.random.default_rng([self.seed, *place])

    @abstractmethod
    def make(
        self,
        pixels: Pixels,
        captions: Sequence[Sequence[str]],
        generators: Sequence[np.random.Generator],
        epochs: Sequence[int],
    ) -> Batch:
        """Make a micro-batch of n samples.

        Args:
            pixels: Of n pairs; not changed.
            captions: Those of each pair, as many for each.
            generators: n generators, from which augmentation and dropout draw.
            epochs: The epoch of each sample.
        """


def augment(
    augmentation: Augmentation,
    images: torch.Tensor,
    maps: torch.Tensor | None,
    captions: Sequence[Sequence[str]],
    generators: Sequence[np.random.Generator],
) -> tuple[torch.Tensor, torch.Tensor | None, list[Sequence[str]]]:
    """Augment the samples of a micro-batch, each with its own generator.

    Args:
        augmentation: Of one sample.
        images: (n, 2, C, H, W) uint8.
        maps: Whatever moves along without a change of colour, (n, 2, C', H, W) uint8; None: nothing.
        captions: Those of each sample.
        generators: n generators.

    Returns:
        New images, maps and captions.
    """
    moved = [
        augmentation(images[row], None if maps is None else maps[row], tuple(captions[row]), generator)
        for row, generator in enumerate(generators)
    ]
    moved_maps = None if maps is None else torch.stack([sample[1] for sample in moved if sample[1] is not None])
    return torch.stack([sample[0] for sample in moved]), moved_maps, [sample[2] for sample in moved]


class BatchMaker(SampleMaker):
    """Augments samples and hands the micro-batch as a whole to MModalCC's processor.

    Args:
        processor: Normalises, and tokenises captions.
        augmentation: Of pixels, maps and words together; None: none.
        semantic_dropout: Probability that a sample's maps are left out.
        seed: Of all randomness.
        coverage: Which samples' maps show changed pixels only.
    """

    def __init__(
        self,
        processor: MModalCCProcessor,
        augmentation: Augmentation | None,
        semantic_dropout: float,
        seed: int,
        coverage: Coverage | None = None,
    ):
        super().__init__(seed)
        self.processor, self.augmentation = processor, augmentation
        self.semantic_dropout, self.coverage = semantic_dropout, coverage or Coverage()

    def make(
        self,
        pixels: Pixels,
        captions: Sequence[Sequence[str]],
        generators: Sequence[np.random.Generator],
        epochs: Sequence[int],
    ) -> Batch:
        """Make `pixel_values`, `labels` (pair by pair) and, with maps, `semantic_values`, `semantic_present`."""
        images, maps, present, changes = pixels
        if self.semantic_dropout and maps is not None:
            dropped = [generator.random() < self.semantic_dropout for generator in generators]
            present = present & ~torch.tensor(dropped)
        if self.coverage and maps is not None and changes is not None:
            draws = [generator.random() for generator in generators]
            whole = torch.tensor(
                [
                    epoch >= self.coverage.epochs and draw >= self.coverage.share
                    for epoch, draw in zip(epochs, draws, strict=True)
                ]
            )
            maps = maps * (changes | whole[:, None, None, None, None])  # black is void here
        if self.augmentation is not None:
            images, maps, captions = augment(self.augmentation, images, maps, captions, generators)
        inputs = self.processor.image_processor.normalize_pairs(PairPixels(images, maps, present))
        with input_errors():
            labels = self.processor(text=[text for texts in captions for text in texts])["labels"]
        padding = -labels.shape[1] % LABEL_MULTIPLE
        return {**inputs, "labels": torch.nn.functional.pad(labels, (0, padding), value=-100)}


class CaptionFilter:
    """Which captions are trained on: those that have words and are not too long."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int):
        self.tokenizer, self.max_length = tokenizer, max_length

    def __call__(self, captions: Sequence[str] | None) -> list[str]:
        """Return the usable ones of a pair's captions."""
        if not captions:
            return []
        lengths = [len(ids) for ids in self.tokenizer(list(captions), add_special_tokens=False)["input_ids"]]
        return [text for text, length in zip(captions, lengths, strict=True) if 0 < length <= self.max_length]


class FlattenedSamples:
    """Every caption is a sample: all, or exactly `captions_per_pair` of each pair, which are drawn once.

    Args:
        pixels: The pairs.
        captions: The usable captions of each pair; a pair without any gives no sample.
        maker: Makes the micro-batches.
        captions_per_pair: As MModalCC's release: fewer are filled up by drawing with repetition, more are drawn
            without. None: all captions there are, as CCExpert's.
    """

    def __init__(
        self, pixels: PixelSource, captions: Sequence[Sequence[str]], maker: SampleMaker, captions_per_pair: int | None
    ):
        self.pixels, self.maker = pixels, maker
        self.samples: list[tuple[int, str]] = []
        for pair, texts in enumerate(captions):
            if not texts:
                continue
            generator = np.random.default_rng([maker.seed, pair])
            missing = 0 if captions_per_pair is None else captions_per_pair - len(texts)
            if missing >= 0:
                chosen = [*texts, *(texts[number] for number in generator.integers(len(texts), size=missing))]
            else:
                kept = generator.choice(len(texts), size=captions_per_pair, replace=False)
                chosen = [texts[number] for number in sorted(kept)]
            self.samples += [(pair, text) for text in chosen]

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, keys: Sequence[Key]) -> Batch:
        """See `IndexedSamples`."""
        pairs, captions = zip(*(self.samples[index] for _, index in keys), strict=True)
        generators = [self.maker.generator(*key) for key in keys]
        texts = [[caption] for caption in captions]
        return self.maker.make(self.pixels.get(pairs), texts, generators, [epoch for epoch, _ in keys])


def choose(captions: Sequence[str], count: int, generator: np.random.Generator) -> list[str]:
    """Return `count` of the captions by chance; some come again only where there are fewer."""
    if count == 1:
        return [captions[int(generator.integers(len(captions)))]]
    order = generator.permutation(len(captions))
    return [captions[order[number % len(captions)]] for number in range(count)]


class ChosenSamples:
    """Every pair is a sample, with some of its captions, chosen anew each epoch.

    Args:
        pixels: The pairs.
        captions: The usable captions of each pair; a pair without any gives no sample.
        maker: Makes the micro-batches.
        count: Captions of a sample. The model encodes the pair once for all of them.
    """

    def __init__(self, pixels: PixelSource, captions: Sequence[Sequence[str]], maker: SampleMaker, count: int = 1):
        self.pixels, self.maker, self.count = pixels, maker, count
        self.samples = [(pair, texts) for pair, texts in enumerate(captions) if texts]

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, keys: Sequence[Key]) -> Batch:
        """See `IndexedSamples`."""
        generators = [self.maker.generator(*key) for key in keys]
        pairs, texts = zip(*(self.samples[index] for _, index in keys), strict=True)
        captions = [
            choose(choices, self.count, generator) for choices, generator in zip(texts, generators, strict=True)
        ]
        return self.maker.make(self.pixels.get(pairs), captions, generators, [epoch for epoch, _ in keys])


class FewerUnchanged:
    """All samples of changed pairs, and each epoch other ones of unchanged pairs, until these have had their turn.

    Half of the pairs of change-captioning sets are unchanged and share five sentences, which are learned at once:
    seeing fewer of them leaves more of a budget for the changes.

    Args:
        samples: The samples to take from.
        changed: Whether the pair of each sample changed.
        share: Share of the samples of unchanged pairs that an epoch sees, in (0, 1].
        seed: Of the order in which unchanged ones take turns.
    """

    def __init__(self, samples: IndexedSamples, changed: Sequence[bool], share: float, seed: int):
        self.samples = samples
        marks = np.asarray(changed, dtype=bool)
        self.always = np.flatnonzero(marks)
        self.in_turn = np.random.default_rng([seed, len(marks)]).permutation(np.flatnonzero(~marks))
        self.a_turn = math.ceil(share * len(self.in_turn))

    def __len__(self) -> int:
        return len(self.always) + self.a_turn

    def batch(self, keys: Sequence[Key]) -> Batch:
        """See `IndexedSamples`."""
        return self.samples.batch([(epoch, self._place(epoch, index)) for epoch, index in keys])

    def _place(self, epoch: int, index: int) -> int:
        if index < len(self.always):
            return int(self.always[index])
        return int(self.in_turn[(epoch * self.a_turn + index - len(self.always)) % len(self.in_turn)])


class StreamedSamples:
    """The samples of a stream: each row with some of its captions, chosen anew each epoch.

    Args:
        reader: Reads images and maps.
        captions: Leaves the usable captions of a row.
        maker: Makes the micro-batches.
        count: Captions of a sample, as for `ChosenSamples`.
    """

    def __init__(self, reader: PixelReader, captions: CaptionFilter, maker: SampleMaker, count: int = 1):
        self.reader, self.captions, self.maker, self.count = reader, captions, maker, count

    def usable(self, row: dict[str, Any]) -> bool:
        """Return whether a row has a caption to train on."""
        return bool(self.captions(row["captions"]))

    def batch(self, examples: Sequence[Example]) -> Batch:
        """Return the micro-batch of these rows."""
        generators = [self.maker.generator(item.epoch, item.shard, item.number) for item in examples]
        captions = []
        for item, generator in zip(examples, generators, strict=True):
            captions.append(choose(self.captions(item.row["captions"]), self.count, generator))
        pixels = self.reader.read([item.row for item in examples])
        return self.maker.make(pixels, captions, generators, [item.epoch for item in examples])
