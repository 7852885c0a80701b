"""What a training script gives to the loop: its model, the parts that learn, its data, its scores."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from rscc_hf.errors import RecipeError
from rscc_hf.training.engine.batches import Batch, BatchSource

if TYPE_CHECKING:  # which knows tasks
    from rscc_hf.training.engine.backend import Backend


@dataclass
class Part:
    """Parameters that share a learning rate.

    Attributes:
        name: In logs and for the decay of its learning rate.
        parameters: Those that need a gradient; frozen ones are left out.
        learning_rate: Its peak.
        clamp: Every element of a gradient is clamped to +-clamp; None: not.
        decays: Whether the recipe's `lr_decay` applies to it.
    """

    name: str
    parameters: list[torch.nn.Parameter]
    learning_rate: float
    clamp: float | None = None
    decays: bool = False


def bytes_of(model: torch.nn.Module) -> int:
    """Return the bytes of a model's parameters and buffers."""
    return sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])


class Task(ABC):
    """One kind of training. The loop calls nothing else of a script.

    Attributes:
        model: The bare model, on the CPU until the loop places it. `forward(**batch, num_items_in_batch=n)` gives
            `.loss`, the sum over its targets divided by n; `train()` must leave frozen statistics alone.
    """

    model: PreTrainedModel

    @abstractmethod
    def parts(self) -> list[Part]:
        """Return all that learns, each parameter once."""

    @abstractmethod
    def batches(self, process: int, processes: int, accumulation_steps: int) -> BatchSource:
        """Return the training data as one of the processes sees it."""

    @abstractmethod
    def validate(self, backend: "Backend") -> dict[str, float]:
        """Return the scores of the validation split, the same in every process; every process calls it together.

        Args:
            backend: Generates with the model, which is in eval mode.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write model and processor as `from_pretrained` reads them; called in the main process only."""

    def save_weights(self, folder: Path, weights: dict[str, torch.Tensor]) -> None:
        """Write, as `save` does, a model that the processes share out among them.

        Args:
            folder: See `save`.
            weights: The whole of it, on the CPU, named as in `model.state_dict()`.

        Raises:
            RecipeError: This kind of training was never tried so.
        """
        raise RecipeError(f"{type(self).__name__} runs on one process or by DDP; use no FSDP or DeepSpeed.")

    def saved_bytes(self) -> int:
        """Return the bytes of the weights that `save` writes; those of the whole model, unless a task writes less."""
        return bytes_of(self.model)

    def identity(self) -> dict[str, str]:
        """Return what a run must not change when it goes on, as digests: keys of the recipe, and "tokenizer".

        Called in the main process only, before the model has learnt anything.
        """
        return {}

    def loss(self, model: torch.nn.Module, batch: Batch, targets: int) -> torch.Tensor:
        """Return the sum of the losses of a micro-batch over `targets`, the target tokens of the whole global batch.

        Args:
            model: The model as prepared for distributed, mixed-precision training.
            batch: On the model's device.
            targets: At least 1.
        """
        return model(**batch, num_items_in_batch=targets).loss

    def count_targets(self, batch: Batch) -> int:
        """Return the target tokens of a micro-batch."""
        return int((batch["labels"] != -100).sum())

    def close(self) -> None:  # noqa: B027 (most tasks hold nothing)
        """End what the task started (a scorer's process); called once, also after an error."""
