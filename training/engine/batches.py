"""Which samples a step takes: the order of a data set that has indices, in any number of processes.

An epoch's order depends on (seed, epoch) alone. A global batch is a slice of it; each process takes its share of
every micro-batch of that slice. So neither the number of processes nor the accumulation changes what a step sees, and
a position is two numbers: epoch and steps done in it. The last global batch of an epoch may be smaller; it is kept and
its loss normalised by its own target tokens.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from rscc_hf.errors import InputError
from rscc_hf.training.engine.workers import Batch, prepared

Key = tuple[int, int]
"""Epoch and index of a sample: all that its randomness depends on, beside the seed."""


class Window(NamedTuple):
    """What one process contributes to one optimiser step."""

    batches: list[Batch]
    """At most as many micro-batches as the step accumulates; none where the step's samples went to the others."""
    position: Any
    """Where the epoch stands afterwards, for JSON; the same kind of value that `BatchSource.epoch` takes."""


class BatchSource(Protocol):
    """What the loop trains on, as one process sees it."""

    steps_per_epoch: int | None
    """Optimiser steps an epoch; None where only the end of the data tells (streams)."""

    def epoch(self, epoch: int, position: Any | None) -> Iterator[Window]:
        """Return the windows of an epoch from a position on; None: from its start."""
        ...

    def position_from(self, positions: list[Any]) -> Any:
        """Return this process's position in a checkpoint that holds those of every process."""
        ...

    def filler(self) -> Batch:
        """Return any batch, for a process that has no data left while others have: it runs with weight zero."""
        ...


class IndexedSamples(Protocol):
    """Samples by index, prepared a micro-batch at a time."""

    def __len__(self) -> int: ...

    def batch(self, keys: Sequence[Key]) -> Batch:
        """Return the micro-batch of these samples; it must depend on nothing but the keys and the recipe."""
        ...


class IndexedBatches:
    """Deterministic global batches of samples that have indices.

    Args:
        samples: The samples.
        seed: Of the order.
        per_device_batch_size: Samples of a micro-batch.
        accumulation_steps: Micro-batches of a process and step.
        process: Index of this process.
        processes: Number of processes.
        num_workers: Worker processes that prepare micro-batches.

    Raises:
        InputError: There are no samples.
    """

    def __init__(
        self,
        samples: IndexedSamples,
        *,
        seed: int,
        per_device_batch_size: int,
        accumulation_steps: int,
        process: int = 0,
        processes: int = 1,
        num_workers: int = 0,
    ):
        if len(samples) == 0:
            raise InputError(
                "The training data is empty: no pair with a usable caption is left; name data with captions."
            )
        self.samples = samples
        self.seed = seed
        self.per_device_batch_size = per_device_batch_size
        self.accumulation_steps = accumulation_steps
        self.process = process
        self.processes = processes
        self.num_workers = num_workers
        self.global_batch_size = per_device_batch_size * accumulation_steps * processes
        self.steps_per_epoch: int | None = -(-len(samples) // self.global_batch_size)

    def order(self, epoch: int) -> np.ndarray:
        """Return the permutation of an epoch: (samples,) int64."""
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.samples))

    def keys_of_step(self, order: np.ndarray, epoch: int, step: int) -> list[list[Key]]:
        """Return the micro-batches of this process in one step; those that would be empty are left out."""
        first = step * self.global_batch_size
        batch = order[first : first + self.global_batch_size]
        size = self.per_device_batch_size
        micro_batches = []
        for micro in range(self.accumulation_steps):
            start = (micro * self.processes + self.process) * size
            share = batch[start : start + size]
            if len(share):
                micro_batches.append([(epoch, int(index)) for index in share])
        return micro_batches

    def epoch(self, epoch: int, position: Any | None) -> Iterator[Window]:
        """See `BatchSource`. A position is the number of steps done in the epoch."""
        done = 0 if position is None else int(position)
        order = self.order(epoch)
        assert self.steps_per_epoch is not None
        steps = [self.keys_of_step(order, epoch, step) for step in range(done, self.steps_per_epoch)]
        batches = prepared(self.samples.batch, [keys for step in steps for keys in step], self.num_workers)
        for number, step in enumerate(steps, start=done + 1):
            yield Window([next(batches) for _ in step], number)

    def position_from(self, positions: list[Any]) -> Any:
        """See `BatchSource`. The position is the same in every process, and for any number of them."""
        return positions[0]

    def filler(self) -> Batch:
        """See `BatchSource`."""
        return self.samples.batch([(0, 0)])
