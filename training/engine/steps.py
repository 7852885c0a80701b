"""One optimiser step: the micro-batches of a global batch forward and backward, and the update.

The loss of a global batch is the sum over its target tokens divided by their number, over all micro-batches and
processes; see `loop.py`.
"""

import math

import numpy as np
import torch
from accelerate.utils import reduce, send_to_device
from torch.optim.lr_scheduler import LRScheduler

from rscc_hf.errors import TrainingError
from rscc_hf.training.engine.backend import Backend
from rscc_hf.training.engine.batches import Batch, BatchSource
from rscc_hf.training.engine.recipe import LoopRecipe
from rscc_hf.training.engine.task import Task


class Steps:
    """Takes steps. Every process must call each method.

    Args:
        recipe: The settings.
        backend: Runs and updates the model; prepared.
        task: Counts the targets.
        source: Gives a batch to a process that has no data left.
        schedule: Of the optimiser's learning rates.
    """

    def __init__(self, recipe: LoopRecipe, backend: Backend, task: Task, source: BatchSource, schedule: LRScheduler):
        self.recipe, self.backend, self.task, self.source, self.schedule = recipe, backend, task, source, schedule
        self.accelerator = backend.accelerator
        self.processes, self.process = self.accelerator.num_processes, self.accelerator.process_index

    def count(self, batches: list[Batch]) -> tuple[int, int]:
        """Return the target tokens of the global batch, and the micro-batches of the process that has most.

        Where these are 0, the epoch is over.
        """
        counts = torch.tensor([sum(self.task.count_targets(batch) for batch in batches), len(batches)])
        if self.processes == 1:
            return int(counts[0]), int(counts[1])
        gathered = self.accelerator.gather(counts[None].to(self.accelerator.device)).cpu()
        return int(gathered[:, 0].sum()), int(gathered[:, 1].max())

    def take(self, number: int, batches: list[Batch], targets: int, micro_batches: int) -> float:
        """Take one step.

        Args:
            number: The step's, from 1.
            batches: Micro-batches of this process.
            targets: See `count`.
            micro_batches: See `count`.

        Returns:
            The loss a target token.

        Raises:
            TrainingError: The loss, or what the backend looks at, is not finite.
        """
        device = self.accelerator.device
        self.task.model.train()
        total = torch.zeros((), device=device)
        for place in range(micro_batches):
            last = place == micro_batches - 1
            torch.manual_seed(self._seed(number, place))
            if place < len(batches):
                batch = send_to_device(batches[place], device)
                total += self.backend.accumulate(batch, max(targets, 1), weight=1.0, last=last)
            else:
                # Every process must take part in every backward pass, and in its exchanges in the same order. This
                # one has no data left: what it runs counts nothing and leaves no trace in batch-norm statistics.
                for module in self.task.model.modules():
                    if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                        module.eval()
                self.backend.accumulate(send_to_device(self.source.filler(), device), 1, weight=0.0, last=last)
        if self.processes > 1:
            total = reduce(total, "sum")
        loss_value = float(total)
        if not math.isfinite(loss_value):
            raise TrainingError(
                f"The loss is {loss_value} at step {number}; lower learning_rate, or clip the gradients "
                "by max_grad_norm."
            )
        if self.backend.update(number):
            self.schedule.step()
        return loss_value

    def _seed(self, number: int, place: int) -> int:
        """Return the seed of a micro-batch: of (recipe's seed, steps done, its number within the global batch)."""
        place = place * self.processes + self.process
        words = np.random.SeedSequence([self.recipe.seed, number - 1, place]).generate_state(2)
        return int(words[0]) << 31 | int(words[1]) >> 1
