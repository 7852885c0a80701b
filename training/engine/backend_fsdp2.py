"""FSDP2: every process holds a piece of each parameter, of its gradient and of the optimiser's state."""

from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import MixedPrecisionPolicy

from rscc_hf.errors import RecipeError
from rscc_hf.training.engine.backend import SharedOut
from rscc_hf.training.engine.batches import Batch
from rscc_hf.training.engine.recipe import LoopRecipe
from rscc_hf.training.engine.task import Part, Task

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class FSDP2(SharedOut):
    """See `Backend`; steps are as in `Plain`, of which accelerate and torch exchange the pieces.

    Raises:
        RecipeError: The launcher asks for FSDP 1, or the recipe has a key that does not go with FSDP.
    """

    lockstep = True

    def __init__(self, accelerator: Accelerator, recipe: LoopRecipe):
        super().__init__(accelerator, recipe)
        if not accelerator.is_fsdp2:
            raise RecipeError("accelerate is set to FSDP version 1; set fsdp_version to 2.")
        if recipe.optimizer == "muon":
            raise RecipeError("optimizer muon needs whole matrices, which FSDP cuts up; set it to adamw or adam.")
        if recipe.mixed_precision == "fp16":
            raise RecipeError("mixed_precision fp16 was never tried with FSDP; set it to bf16 or no.")
        # Float32 is gathered and summed, autocast does the rest, as in one process. accelerate's own policy for bf16
        # would round the loss and add up micro-batches in bf16; sums in float32 beside it fail with adapters (torch
        # 2.13).
        accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy()

    def prepare(self, task: Task, optimizer: torch.optim.Optimizer, parts: list[Part]) -> None:
        """See `Backend`."""
        super().prepare(task, optimizer, parts)
        self.parts = task.parts()  # the processes hold pieces of the parameters now

    def own_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """See `Backend`."""
        for name, tensor in super().own_tensors():
            piece: Any = tensor
            yield name, piece.to_local() if hasattr(piece, "to_local") else piece

    def weights(self) -> dict[str, torch.Tensor]:
        """See `SharedOut`."""
        whole: Any = get_model_state_dict(self.model, options=_WHOLE)
        return whole

    def optimizer_state(self) -> dict[str, Any]:
        """See `SharedOut`."""
        return get_optimizer_state_dict(self.model, self.optimizer.optimizer, options=_WHOLE)

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        """See `SharedOut`."""
        options = StateDictOptions(full_state_dict=True)
        set_optimizer_state_dict(self.model, self.optimizer.optimizer, state, options=options)

    def generate(self, batch: Batch, **options: Any) -> torch.Tensor:
        """See `Backend`."""
        model: Any = self.task.model
        model.unshard()  # what lies in no layer; images may be encoded outside of `forward`
        return super().generate(batch, **options, synced_gpus=True)
