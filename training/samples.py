"""Samples of MModalCC: which caption, which augmentation, which maps are left out; and the micro-batch they make.

All randomness of a sample comes from a generator seeded with (recipe's seed, epoch, index): no worker and no process
has a state of its own, so that nothing about samples needs to be saved for resuming.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from rscc_hf.data.augmentation import Augmentation
from rscc_hf.processing.processing_mmodalcc import MModalCCProcessor
from rscc_hf.training.batches import Batch, Key
from rscc_hf.training.pair_images import PixelReader, Pixels, PixelSource
from rscc_hf.training.stream import Example

LABEL_MULTIPLE = 8
"""Labels are padded to a multiple of this: kernels of CPUs and compilers are made anew for every new shape."""


class Coverage(NamedTuple):
    """When maps show changed pixels only (as SECOND's do) although the data has whole ones.

    Where something changed is easy to see on such maps. A model from nothing learns on them to say where, and then
    finds it far sooner on whole maps, where it must compare the dates cell by cell.

    Attributes:
        epochs: In this many epochs at the start every map is such.
        share: Afterwards this share of the samples.
    """

    epochs: int = 0
    share: float = 0.0

    def __bool__(self) -> bool:
        return self.epochs > 0 or self.share > 0


class BatchMaker:
    """Augments samples and hands the micro-batch as a whole to the processor.

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
        self.processor, self.augmentation = processor, augmentation
        self.semantic_dropout, self.seed, self.coverage = semantic_dropout, seed, coverage or Coverage()

    def generator(self, *place: int) -> np.random.Generator:
        """The generator of a sample: `place` is its epoch and its index or indices."""
        return np.random.default_rng([self.seed, *place])

    def make(
        self,
        pixels: Pixels,
        captions: Sequence[Sequence[str]],
        generators: Sequence[np.random.Generator],
        epochs: Sequence[int],
    ) -> Batch:
        """A micro-batch of n samples: `pixel_values`, `labels` and, with maps, `semantic_values`, `semantic_present`.

        Args:
            pixels: Of n pairs; not changed.
            captions: Those of each pair, as many for each; `labels` has them pair by pair.
            generators: n generators, from which augmentation and dropout draw.
            epochs: The epoch of each sample.
        """
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
            moved = [
                self.augmentation(images[row], None if maps is None else maps[row], tuple(captions[row]), generator)
                for row, generator in enumerate(generators)
            ]
            images = torch.stack([sample[0] for sample in moved])
            if maps is not None:
                maps = torch.stack([sample[1] for sample in moved if sample[1] is not None])
            captions = [sample[2] for sample in moved]
        batch = dict(
            self.processor(
                images=images,
                semantic_maps=maps,
                text=[text for texts in captions for text in texts],
                return_tensors="pt",
                white_to_void=False,  # done when they were read
            )
        )
        padding = -batch["labels"].shape[1] % LABEL_MULTIPLE
        batch["labels"] = torch.nn.functional.pad(batch["labels"], (0, padding), value=-100)
        if maps is not None:
            batch["semantic_values"][~present] = 0
            batch["semantic_present"] = present
        return batch


class CaptionFilter:
    """Which captions are trained on: those that have words and are not too long."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int):
        self.tokenizer, self.max_length = tokenizer, max_length

    def __call__(self, captions: Sequence[str] | None) -> list[str]:
        """The usable ones of a pair's captions."""
        if not captions:
            return []
        lengths = [len(ids) for ids in self.tokenizer(list(captions), add_special_tokens=False)["input_ids"]]
        return [text for text, length in zip(captions, lengths, strict=True) if 0 < length <= self.max_length]


class FlattenedSamples:
    """Every caption is a sample: exactly `captions_per_pair` of each pair, which are drawn once.

    Args:
        pixels: The pairs.
        captions: The usable captions of each pair; a pair without any gives no sample.
        maker: Makes the micro-batches.
        captions_per_pair: As the release: fewer are filled up by drawing with repetition, more are drawn without.
    """

    def __init__(
        self, pixels: PixelSource, captions: Sequence[Sequence[str]], maker: BatchMaker, captions_per_pair: int
    ):
        self.pixels, self.maker = pixels, maker
        self.samples: list[tuple[int, str]] = []
        for pair, texts in enumerate(captions):
            if not texts:
                continue
            generator = np.random.default_rng([maker.seed, pair])
            missing = captions_per_pair - len(texts)
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
    """`count` of the captions by chance; some come again only where there are fewer."""
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

    def __init__(self, pixels: PixelSource, captions: Sequence[Sequence[str]], maker: BatchMaker, count: int = 1):
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


class StreamedSamples:
    """The samples of a stream: each row with some of its captions, chosen anew each epoch.

    Args:
        reader: Reads images and maps.
        captions: Leaves the usable captions of a row.
        maker: Makes the micro-batches.
        count: Captions of a sample, as for `ChosenSamples`.
    """

    def __init__(self, reader: PixelReader, captions: CaptionFilter, maker: BatchMaker, count: int = 1):
        self.reader, self.captions, self.maker, self.count = reader, captions, maker, count

    def usable(self, row: dict[str, Any]) -> bool:
        """Whether a row has a caption to train on."""
        return bool(self.captions(row["captions"]))

    def batch(self, examples: Sequence[Example]) -> Batch:
        """The micro-batch of these rows."""
        generators = [self.maker.generator(item.epoch, item.shard, item.number) for item in examples]
        captions = []
        for item, generator in zip(examples, generators, strict=True):
            captions.append(choose(self.captions(item.row["captions"]), self.count, generator))
        pixels = self.reader.read([item.row for item in examples])
        return self.maker.make(pixels, captions, generators, [item.epoch for item in examples])
