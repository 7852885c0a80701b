"""DeepSpeed's ZeRO: processes share optimiser and gradients out among them (stage 2), or parameters as well (stage 3).

The recipe says what it says without DeepSpeed: precision (float32 weights under torch's autocast, DeepSpeed's
`torch_autocast`), clipping, accumulation, optimiser and schedule. From the launcher come the stage and what concerns
communication alone. Checkpoints hold whole tensors by name, so that the stage may change.
"""

import contextlib
import importlib.util
import logging
import os
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from rscc_hf.errors import RecipeError
from rscc_hf.training.engine.recipe import LoopRecipe
from rscc_hf.training.engine.task import Part

_STAGES = (2, 3)


def asked_for() -> bool:
    """Whether the launcher wants DeepSpeed; this is how `accelerate launch` says so."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def check(recipe: LoopRecipe) -> None:
    """Refuses what DeepSpeed cannot do, before anything is started.

    Raises:
        RecipeError: It is not installed, or the recipe has a key that does not go with it.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise RecipeError(
            "accelerate is set to DeepSpeed, which is not installed: `pip install rscc_hf[deepspeed]`, or use FSDP2."
        )
    if recipe.cpu:
        raise RecipeError("cpu is true and accelerate is set to DeepSpeed: set cpu to false, or launch without it.")
    if recipe.optimizer == "muon":
        raise RecipeError("optimizer muon needs whole matrices, which DeepSpeed cuts up: set it to adamw or adam.")
    if recipe.mixed_precision == "fp16":
        raise RecipeError("mixed_precision fp16 was never tried with DeepSpeed: set it to bf16 or no.")


def configure(accelerator: Accelerator, recipe: LoopRecipe) -> None:
    """Puts the recipe's settings into DeepSpeed's configuration.

    Raises:
        RecipeError: The configuration has a key that the recipe decides, or one that was never tried.
    """
    config = _config(accelerator)
    zero = config["zero_optimization"]
    if zero.get("stage") not in _STAGES:
        raise RecipeError(f"DeepSpeed's zero_stage is {zero.get('stage')}: set it to 2 or 3.")
    for key in ("offload_optimizer", "offload_param"):
        if ((zero.get(key) or {}).get("device") or "none") != "none":
            raise RecipeError(f"DeepSpeed's {key}_device was never tried: set it to none.")
    for key, ours in (("optimizer", "optimizer"), ("scheduler", "schedule")):
        if key in config:
            raise RecipeError(f"DeepSpeed's configuration has {key!r}: remove it, the recipe's {ours} says it.")
    for key in ("fp16", "bf16"):
        if config.get(key, {}).get("enabled") is True:
            raise RecipeError(f"DeepSpeed's configuration has {key!r}: remove it; mixed_precision is the recipe's.")
    clipping = recipe.max_grad_norm or 0.0
    if config.get("gradient_clipping", "auto") not in ("auto", clipping):
        raise RecipeError(
            f"DeepSpeed's gradient_clipping is {config['gradient_clipping']} and the recipe's max_grad_norm "
            f"{recipe.max_grad_norm}: remove the first."
        )
    config["gradient_clipping"] = clipping
    config["gradient_accumulation_steps"] = 1  # the loop says where a step ends
    config["train_micro_batch_size_per_gpu"] = recipe.per_device_batch_size
    config["train_batch_size"] = recipe.per_device_batch_size * accelerator.num_processes
    config["torch_autocast"] = {
        "enabled": recipe.mixed_precision == "bf16",
        "dtype": "bfloat16",
        "lower_precision_safe_modules": [],  # whose gradients would be added up in bf16
    }
    # transformers would cut models up while it builds them; ours are loaded whole and cut up afterwards
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)


def stage(accelerator: Accelerator) -> int | None:
    """ZeRO's stage; None: the run goes without DeepSpeed."""
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return None
    return int(_config(accelerator)["zero_optimization"]["stage"])


def autocast(accelerator: Accelerator) -> contextlib.AbstractContextManager[Any]:
    """The recipe's precision where the bare model is run, with DeepSpeed or without."""
    if stage(accelerator) is None:
        return accelerator.autocast()
    return torch.autocast(
        accelerator.device.type, dtype=torch.bfloat16, enabled=_config(accelerator)["torch_autocast"]["enabled"]
    )


class Zero:
    """What differs with DeepSpeed: backward and update, and how pieces are put together for files.

    Every process must call each method.

    Args:
        accelerator: Of the run.
        model: The bare model, on the CPU.
        optimizer: Of torch, with the groups of `parts`.
        parts: What learns.

    Attributes:
        engine: The model as DeepSpeed runs it.
        optimizer: The prepared optimiser; its groups are those of the given one.

    Raises:
        RecipeError: Elements of gradients are to be clamped, or weights are quantised.
    """

    def __init__(
        self, accelerator: Accelerator, model: torch.nn.Module, optimizer: torch.optim.Optimizer, parts: list[Part]
    ):
        if any(part.clamp is not None for part in parts):
            raise RecipeError("gradient_clamp needs whole gradients, which DeepSpeed cuts up: set it to null.")
        if any(not parameter.is_floating_point() for parameter in model.parameters()):
            raise RecipeError("quantization 4bit was never tried with DeepSpeed: set it to none.")
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.bare, self.main, self.stage = model, accelerator.is_main_process, stage(accelerator)
        self.groups = [
            [(names[id(parameter)], parameter) for parameter in group["params"]] for group in optimizer.param_groups
        ]
        self.engine, self.optimizer = accelerator.prepare(model, optimizer)
        self.zero = self.optimizer.optimizer  # DeepSpeed's, around torch's

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Adds to the gradients, of which the processes take the mean.

        Args:
            loss: Of a micro-batch.
            last: Whether it is the step's last.
        """
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss, scale_wrt_gas=False)

    def update(self) -> bool:
        """Clips, steps and drops the gradients; False: they were not finite, and nothing has changed."""
        self.engine.step()
        return self.engine.was_step_applied()

    def weights(self) -> dict[str, torch.Tensor]:
        """All weights, on the CPU, tied ones once under both names; empty in all processes but the first."""
        from deepspeed.runtime.zero import GatheredParameters

        whole: dict[str, torch.Tensor] = {}
        copies: dict[int, torch.Tensor] = {}
        for name, tensor in self.bare.state_dict(keep_vars=True).items():
            with GatheredParameters([tensor], enabled=self.stage == 3 and isinstance(tensor, torch.nn.Parameter)):
                if self.main:
                    if id(tensor) not in copies:
                        copies[id(tensor)] = tensor.detach().to("cpu", copy=True)
                    whole[name] = copies[id(tensor)]
        return whole

    def optimizer_state(self) -> dict[str, Any]:
        """The optimiser's state by names of parameters; empty in all processes but the first."""
        from deepspeed.utils import safe_get_full_optimizer_state

        state: dict[str, dict[str, Any]] = {}
        own: dict[str, Any] = next(iter(self._torch_optimizer.state.values()), {})
        self._link_state()
        for name, parameter in (item for group in self.groups for item in group):
            entry = {}
            for key, value in own.items():
                if key == "step":
                    entry[key] = value.clone()
                else:
                    whole = safe_get_full_optimizer_state(parameter, key)
                    if self.main:
                        entry[key] = whole.to("cpu", copy=True)
            state[name] = entry
        if not self.main:
            return {}
        groups = [
            {**{key: value for key, value in group.items() if key != "params"}, "params": [name for name, _ in items]}
            for group, items in zip(self._torch_optimizer.param_groups, self.groups, strict=True)
        ]
        return {"state": state, "param_groups": groups}

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        """Takes up what `optimizer_state` gave."""
        entries = state["state"]
        for group, saved in zip(self._torch_optimizer.param_groups, state["param_groups"], strict=True):
            group.update({key: value for key, value in saved.items() if key != "params"})
        if not entries:
            return
        self._make_state(next(iter(entries.values())))
        for name, parameter in (item for group in self.groups for item in group):
            for key, value in entries[name].items():
                if key != "step":
                    self._set(parameter, key, value)

    def _make_state(self, like: dict[str, Any]) -> None:
        """The state that the first step would make, of zeros: DeepSpeed offers to fill it, not to make it."""
        flat = self.zero.single_partition_of_fp32_groups if self.stage == 2 else self.zero.fp32_partitioned_groups_flat
        for piece in flat:
            self._torch_optimizer.state[piece] = {
                key: value.clone() if key == "step" else torch.zeros_like(piece.data) for key, value in like.items()
            }
        self._link_state()

    def _link_state(self) -> None:
        """Stage 2 links parameters to their state after the first group's first step, when other groups have none."""
        if self.stage == 2 and self._torch_optimizer.state:
            self.zero._hp_optimizer_states_linked = False
            self.zero._lazy_init_hp_params_optimizer_state()

    def _set(self, parameter: Any, key: str, value: torch.Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if self.stage == 2:
            safe_set_full_optimizer_state(parameter, value.to(parameter.device), key)
            return
        # not safe_set_full_optimizer_state, which fails on a size that the number of processes does not divide
        size, flat = parameter.ds_tensor.numel(), value.flatten()
        rank, processes = torch.distributed.get_rank(), torch.distributed.get_world_size()
        flat = torch.nn.functional.pad(flat, (0, size * processes - flat.numel()))
        safe_set_local_optimizer_state(parameter, flat[rank * size :][:size].to(parameter.device), key)

    @property
    def _torch_optimizer(self) -> torch.optim.Optimizer:
        return self.zero.optimizer


def _config(accelerator: Accelerator) -> dict[str, Any]:
    return accelerator.state.deepspeed_plugin.deepspeed_config
