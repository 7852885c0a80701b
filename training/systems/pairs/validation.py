"""Validation by generation: captions of the validation pairs, gathered from all processes, scored once as a set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from accelerate.utils import broadcast_object_list, gather_object, send_to_device

from rscc_hf.errors import InputError, MeteorError, RecipeError
from rscc_hf.evaluation import Meteor, corpus_scores, find_java
from rscc_hf.processing.change_pair_writer import CaptionWriter
from rscc_hf.training.engine.backend import Backend
from rscc_hf.training.engine.workers import Batch, prepared


@dataclass
class ValidationPairs:
    """What is asked and what should be answered.

    Attributes:
        pair_ids: Of all pairs, each once.
        references: Captions of each.
        changed: Whether each changed.
        batch: Model inputs of some of them, by index; may be pickled for workers, see `prepared`.
    """

    pair_ids: Sequence[str]
    references: Sequence[Sequence[str]]
    changed: Sequence[bool]
    batch: Callable[[Sequence[int]], Batch]

    def __post_init__(self) -> None:
        if not self.pair_ids:
            raise InputError("The validation split is empty; name another one, or set eval_unit to never.")
        seen: set[str] = set()
        for pair_id in self.pair_ids:
            if pair_id in seen:
                raise InputError(f"The validation split has pair {pair_id!r} twice; give every pair its own name.")
            seen.add(pair_id)


class Validator:
    """Scores a model on validation pairs; keeps METEOR's process, if it needs one, from one validation to the next.

    Args:
        pairs: The pairs.
        writer: Asks the model.
        batch_size: Pairs a generation batch.
        meteor: Whether METEOR, and with it S*m, is wanted. It needs Java.
        num_workers: Worker processes that prepare batches.
        generate_options: For `model.generate`.

    Raises:
        RecipeError: METEOR is wanted and there is no Java.
    """

    def __init__(
        self,
        pairs: ValidationPairs,
        writer: CaptionWriter,
        *,
        batch_size: int,
        meteor: bool,
        num_workers: int = 0,
        **generate_options: Any,
    ):
        self.pairs, self.writer, self.batch_size = pairs, writer, batch_size
        self.num_workers, self.generate_options = num_workers, generate_options
        if meteor:
            try:  # now instead of after an epoch
                find_java()
            except MeteorError as error:
                sentence = str(error).rstrip(".")
                raise RecipeError(f"metric_for_best is s_m: {sentence}, or set metric_for_best to bleu_4.") from error
        self.meteor = Meteor() if meteor else None

    def __call__(self, backend: Backend) -> dict[str, float]:
        """Generate and score; every process calls it and gets the same scores.

        Args:
            backend: Of the run; its model is in eval mode.

        Returns:
            The scores and accuracies of `corpus_scores`.
        """
        accelerator = backend.accelerator
        indices = list(range(len(self.pairs.pair_ids)))[accelerator.process_index :: accelerator.num_processes]
        chunks = [indices[start : start + self.batch_size] for start in range(0, len(indices), self.batch_size)]
        if backend.lockstep:  # the processes with fewer pairs repeat some
            most = max(gather_object([len(chunks)]))
            chunks += [(indices or [0])[: self.batch_size]] * (most - len(chunks))
        loader = prepared(self.pairs.batch, chunks, self.num_workers)
        answers: list[tuple[int, str]] = []
        for chunk, batch in zip(chunks, loader, strict=True):
            inputs = send_to_device(batch, accelerator.device)
            sequences = self.writer.write(inputs, backend.generate, **self.generate_options)
            answers += zip(chunk, self.writer.texts(sequences), strict=True)
        captions: dict[int, str] = {}
        for index, caption in gather_object(answers):
            if captions.setdefault(index, caption) != caption:
                raise RuntimeError(f"Two processes answered pair {self.pairs.pair_ids[index]!r} differently.")
        scores: list[Any] = [self._score(captions) if accelerator.is_main_process else None]
        return broadcast_object_list(scores)[0]

    def close(self) -> None:
        """End METEOR's process."""
        if self.meteor is not None:
            self.meteor.close()

    def _score(self, captions: dict[int, str]) -> dict[str, float]:
        pairs = self.pairs
        missing = [pair_id for index, pair_id in enumerate(pairs.pair_ids) if index not in captions]
        if missing:
            raise RuntimeError(f"{len(missing)} validation pairs were not answered, the first is {missing[0]!r}.")
        answers = [captions[index] for index in range(len(pairs.pair_ids))]
        return corpus_scores(
            answers, pairs.references, self.meteor or False, pair_ids=pairs.pair_ids, changed=pairs.changed
        )


def spread(count: int, most: int | None) -> list[int]:
    """Return at most `most` of `count` indices, evenly spread and always the same; all where `most` is None."""
    if most is None or most >= count:
        return list(range(count))
    return [int(index) for index in np.linspace(0, count - 1, most)]
