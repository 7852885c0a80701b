"""One optimiser step: the micro-batches of a global batch forward and backward, and the update.

The loss of a global batch is the sum over its target tokens divided by their number, over all micro-batches and
processes; see `loop.py`.
"""

import contextlib
import math
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import reduce, send_to_device

from rscc_hf.errors import TrainingError
from rscc_hf.training.engine.backend_deepspeed import Zero
from rscc_hf.training.engine.batches import Batch, BatchSource
from rscc_hf.training.engine.optimisation import limit_gradients
from rscc_hf.training.engine.recipe import LoopRecipe
from rscc_hf.training.engine.task import Part, Task


class Steps:
    """Takes steps. Every process must call each method.

    Args:
        recipe: The settings.
        accelerator: Of the run.
        task: Gives the losses.
        source: Gives a batch to a process that has no data left.
        model: As prepared for distributed, mixed-precision training. So is
        optimizer.
        schedule: Of its learning rates.
        parts: What learns.
        zero: DeepSpeed's engine, where it runs the model.
    """

    def __init__(
        self,
        recipe: LoopRecipe,
        accelerator: Accelerator,
        task: Task,
        source: BatchSource,
        model: Any,
        optimizer: Any,
        schedule: Any,
        parts: list[Part],
        zero: Zero | None,
    ):
        self.recipe, self.accelerator, self.task, self.source = recipe, accelerator, task, source
        self.model, self.optimizer, self.schedule, self.parts, self.zero = model, optimizer, schedule, parts, zero
        self.processes, self.process = accelerator.num_processes, accelerator.process_index

    def count(self, batches: list[Batch]) -> tuple[int, int]:
        """Target tokens of the global batch, and micro-batches of the process that has most; 0: the epoch is over."""
        counts = torch.tensor([sum(self.task.count_targets(batch) for batch in batches), len(batches)])
        if self.processes == 1:
            return int(counts[0]), int(counts[1])
        gathered = self.accelerator.gather(counts[None].to(self.accelerator.device)).cpu()
        return int(gathered[:, 0].sum()), int(gathered[:, 1].max())

    def take(self, number: int, batches: list[Batch], targets: int, micro_batches: int) -> float:
        """Takes one step.

        Args:
            number: The step's, from 1.
            batches: Micro-batches of this process.
            targets: See `count`.
            micro_batches: See `count`.

        Returns:
            The loss a target token.

        Raises:
            TrainingError: The loss, or with DeepSpeed a gradient, is not finite.
        """
        device = self.accelerator.device
        self.task.model.train()
        total = torch.zeros((), device=device)
        for place in range(micro_batches):
            last = place == micro_batches - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                torch.manual_seed(self._seed(number, place))
                if place < len(batches):
                    batch = send_to_device(batches[place], device)
                    with self.accelerator.autocast():  # which accelerate leaves out with FSDP2
                        loss = self.task.loss(self.model, batch, max(targets, 1))
                    total += loss.detach()
                else:
                    # Every process must take part in every backward pass, and in its exchanges in the same order. This
                    # one has no data left: what it runs counts nothing and leaves no trace in batch-norm statistics.
                    for module in self.task.model.modules():
                        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                            module.eval()
                    with self.accelerator.autocast():
                        loss = 0 * self.task.loss(self.model, send_to_device(self.source.filler(), device), 1)
                loss = loss * self.processes  # distributed training takes the mean of the gradients, the sum is wanted
                if self.zero is None:
                    self.accelerator.backward(loss)
                else:
                    self.zero.backward(loss, last)
        if self.processes > 1:
            total = reduce(total, "sum")
        loss_value = float(total)
        if not math.isfinite(loss_value):
            raise TrainingError(
                f"The loss is {loss_value} at step {number}: lower learning_rate, or clip the gradients "
                "by max_grad_norm."
            )
        self._update(number)
        return loss_value

    def _update(self, number: int) -> None:
        if self.zero is None:
            self.accelerator.unscale_gradients(self.optimizer)
            limit_gradients(self.parts, self.recipe.max_grad_norm)
            self.optimizer.step()
            skipped = self.accelerator.optimizer_step_was_skipped
            self.optimizer.zero_grad()
        elif not self.zero.update():
            raise TrainingError(
                f"The gradients are not finite at step {number}: lower learning_rate, or clip the "
                "gradients by max_grad_norm."
            )
        else:
            skipped = False
        if not skipped:
            self.schedule.step()

    def _seed(self, number: int, place: int) -> int:
        """Seed of a micro-batch: (recipe's seed, steps done, its number within the global batch)."""
        place = place * self.processes + self.process
        words = np.random.SeedSequence([self.recipe.seed, number - 1, place]).generate_state(2)
        return int(words[0]) << 31 | int(words[1]) >> 1
