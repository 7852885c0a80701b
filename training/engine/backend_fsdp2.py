"""FSDP2: every process holds a piece of each parameter, of its gradient and of the optimiser's state."""

from typing import Any

import torch
from accelerate import Accelerator
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)


class Sharded:
    """Puts the pieces together for files, and takes them apart again. Every process must call each method.

    Args:
        accelerator: Of the run.
        model: As prepared.
        optimizer: As prepared.
    """

    def __init__(self, accelerator: Accelerator, model: torch.nn.Module, optimizer: Any):
        self.accelerator, self.model, self.optimizer = accelerator, model, optimizer
        self.options = StateDictOptions(full_state_dict=True, cpu_offload=True)

    def weights(self) -> dict[str, torch.Tensor]:
        """All weights, on the CPU; empty in all processes but the first."""
        whole: Any = get_model_state_dict(self.model, options=self.options)
        return whole

    def optimizer_state(self) -> dict[str, Any]:
        """The optimiser's state by names of parameters; empty in all processes but the first."""
        return get_optimizer_state_dict(self.model, self._bare(), options=self.options)

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        """Takes up what `optimizer_state` gave."""
        set_optimizer_state_dict(self.model, self._bare(), state, options=StateDictOptions(full_state_dict=True))

    def _bare(self) -> torch.optim.Optimizer:
        return getattr(self.optimizer, "optimizer", self.optimizer)
