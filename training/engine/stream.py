"""Which samples a step takes: a stream, shuffled by shard, that goes on exactly where it stopped.

The order of the shards follows from (seed, epoch); a shard is read from its start. A position is a place in that order
and a number of examples in that shard: going on skips those examples without decoding them. If asked for, the examples
of a shard are shuffled block by block, from (seed, epoch, shard, block), so that going on reads one block again. (The
state that `datasets` 5.2 keeps of its own shuffle buffer loses and doubles examples.)

Processes share the shards where these divide by the number of processes; else each reads all of them and keeps its own
examples. The streams of two processes need not be equally long: the last steps of an epoch are then smaller global
batches, normalised by their own target tokens, and no example is lost or repeated.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from datasets import IterableDataset

from rscc_hf.errors import InputError
from rscc_hf.training.engine.batches import Batch, Window


class Example(NamedTuple):
    """A row of a stream and its place there, from which its randomness follows.

    Attributes:
        epoch: Pass over the stream.
        shard: Index of the shard in the data set.
        number: Index of the example in the shard, after shuffling.
        row: The row; images are still encoded (`{"bytes": ..., "path": ...}`) where the stream allows.
    """

    epoch: int
    shard: int
    number: int
    row: dict[str, Any]


NumberedRow = tuple[int, dict[str, Any]]


class StreamBatches:
    """Deterministic micro-batches of a stream; a `BatchSource`.

    Args:
        dataset: The stream, not shuffled.
        make_batch: Prepares a micro-batch; called in threads, so it must not change shared state.
        seed: Of the order of the shards.
        per_device_batch_size: Examples of a micro-batch.
        accumulation_steps: Micro-batches of a process and step.
        process: Index of this process.
        processes: Number of processes.
        num_workers: Threads that prepare micro-batches; the order stays the same.
        shuffle_buffer: Size of the blocks of a shard that are shuffled, each by itself; 0: none.
        usable: Tells rows that are left out; None: all are used.
    """

    steps_per_epoch: int | None = None

    def __init__(
        self,
        dataset: IterableDataset,
        make_batch: Callable[[list[Example]], Batch],
        *,
        seed: int,
        per_device_batch_size: int,
        accumulation_steps: int,
        process: int = 0,
        processes: int = 1,
        num_workers: int = 0,
        shuffle_buffer: int = 0,
        usable: Callable[[dict[str, Any]], bool] | None = None,
    ):
        if _is_shuffled(dataset):
            raise InputError(
                "The stream is already shuffled by a buffer, which cannot be resumed; give it unshuffled, and set "
                "stream_shuffle_buffer in the recipe."
            )
        self.dataset = dataset.decode(False) if dataset.features else dataset
        self.make_batch = make_batch
        self.seed = seed
        self.per_device_batch_size = per_device_batch_size
        self.accumulation_steps = accumulation_steps
        self.process, self.processes = process, processes
        self.num_workers = num_workers
        self.shuffle_buffer = shuffle_buffer
        self.usable = usable

    def epoch(self, epoch: int, position: Any | None) -> Iterator[Window]:
        """See `BatchSource`. A position is [shards done, examples read of the next one]."""
        window: list[Batch] = []
        for batch, after in self._batches(epoch, position or [0, 0]):
            window.append(batch)
            if len(window) == self.accumulation_steps:
                yield Window(window, after)
                window = []
        if window:
            yield Window(window, after)

    def position_from(self, positions: list[Any]) -> Any:
        """See `BatchSource`.

        Raises:
            InputError: The checkpoint is of another number of processes, which read other parts of the stream.
        """
        if len(positions) != self.processes:
            raise InputError(
                f"The checkpoint is of a stream read by {len(positions)} process(es); continue it with as many, not "
                f"{self.processes}."
            )
        return positions[self.process]

    def filler(self) -> Batch:
        """See `BatchSource`."""
        rows = (row for row in self.dataset if self.usable is None or self.usable(row))
        return self.make_batch([Example(0, 0, 0, next(rows))])

    def _batches(self, epoch: int, position: list[int]) -> Iterator[tuple[Batch, list[int]]]:
        """Yield micro-batches and the position after each, prepared ahead by threads where there are any."""
        if self.num_workers == 0:
            for examples, after in self._micro_batches(epoch, position):
                yield self.make_batch(examples), after
            return
        pool = ThreadPoolExecutor(self.num_workers)
        pending: deque[tuple[Future[Batch], list[int]]] = deque()
        ahead = self._micro_batches(epoch, position)
        failure: Exception | None = None
        more = True
        try:
            while more or pending:
                try:
                    while more and len(pending) <= 2 * self.num_workers:
                        examples, after = next(ahead)
                        pending.append((pool.submit(self.make_batch, examples), after))
                except StopIteration:
                    more = False
                except Exception as error:  # noqa: BLE001 (raised in its turn: behind the batches before it)
                    more, failure = False, error
                if pending:
                    future, done = pending.popleft()
                    yield future.result(), done
            if failure is not None:
                raise failure
        finally:
            pool.shutdown(cancel_futures=True)

    def _micro_batches(self, epoch: int, position: list[int]) -> Iterator[tuple[list[Example], list[int]]]:
        examples: list[Example] = []
        after = list(position)
        for example, after in self._examples(epoch, position):
            examples.append(example)
            if len(examples) == self.per_device_batch_size:
                yield examples, after
                examples = []
        if examples:
            yield examples, after

    def _examples(self, epoch: int, position: list[int]) -> Iterator[tuple[Example, list[int]]]:
        shards = self.dataset.num_shards
        order = np.random.default_rng([self.seed, epoch]).permutation(shards).tolist()
        whole_shards = shards % self.processes == 0
        if whole_shards:
            order = order[self.process :: self.processes]
        first, done = position
        for place in range(first, len(order)):
            index = order[place]
            shard = self.dataset.shard(num_shards=shards, index=index)
            for number, row in self._rows(shard, epoch, index, start=done if place == first else 0):
                mine = whole_shards or (index + number) % self.processes == self.process
                if mine and (self.usable is None or self.usable(row)):
                    yield Example(epoch, index, number, row), [place, number + 1]

    def _rows(self, shard: IterableDataset, epoch: int, index: int, start: int) -> Iterator[NumberedRow]:
        """Yield the rows of a shard from a number on, shuffled within blocks if the recipe says so."""
        size = self.shuffle_buffer
        if size == 0:
            yield from enumerate(shard.skip(start), start=start)
            return
        first = start // size * size
        rows = iter(shard.skip(first))
        while block := list(islice(rows, size)):
            order = np.random.default_rng([self.seed, epoch, index, first]).permutation(len(block))
            for number, chosen in enumerate(order.tolist(), start=first):
                if number >= start:
                    yield number, block[chosen]
            first += len(block)


def _is_shuffled(dataset: IterableDataset) -> bool:
    iterable = getattr(dataset, "_ex_iterable", None)
    while iterable is not None:
        if type(iterable).__name__ == "BufferShuffledExamplesIterable":
            return True
        iterable = getattr(iterable, "ex_iterable", None)
    return False
