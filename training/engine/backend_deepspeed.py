"""DeepSpeed's ZeRO: processes share optimiser and gradients out among them (stage 2), or parameters as well (stage 3).

The recipe says what it says without DeepSpeed: precision (float32 weights under torch's autocast, DeepSpeed's
`torch_autocast`), clipping, accumulation, optimiser and schedule. From the launcher come the stage and what concerns
communication alone. Checkpoints hold whole tensors by name, so that the stage may change.
"""

import importlib.util
import logging
from typing import Any

import torch
from accelerate import Accelerator

from rscc_hf.errors import RecipeError, TrainingError
from rscc_hf.training.engine.backend import SharedOut
from rscc_hf.training.engine.batches import Batch
from rscc_hf.training.engine.recipe import LoopRecipe
from rscc_hf.training.engine.task import Part, Task

_STAGES = (2, 3)


def check(recipe: LoopRecipe) -> None:
    """Refuse what DeepSpeed cannot do, before anything is started.

    Raises:
        RecipeError: It is not installed, or the recipe has a key that does not go with it.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise RecipeError(
            "accelerate is set to DeepSpeed, which is not installed; run `pip install "
            "rscc_hf[deepspeed]`, or use FSDP2."
        )
    if recipe.cpu:
        raise RecipeError("cpu is true and accelerate is set to DeepSpeed; set cpu to false, or launch without it.")
    if recipe.optimizer == "muon":
        raise RecipeError("optimizer muon needs whole matrices, which DeepSpeed cuts up; set it to adamw or adam.")
    if recipe.mixed_precision == "fp16":
        raise RecipeError("mixed_precision fp16 was never tried with DeepSpeed; set it to bf16 or no.")


def configure(accelerator: Accelerator, recipe: LoopRecipe) -> None:
    """Put the recipe's settings into DeepSpeed's configuration.

    Raises:
        RecipeError: The configuration has a key that the recipe decides, or one that was never tried.
    """
    config = _config(accelerator)
    zero = config["zero_optimization"]
    if zero.get("stage") not in _STAGES:
        raise RecipeError(f"DeepSpeed's zero_stage is {zero.get('stage')}; set it to 2 or 3.")
    for key in ("offload_optimizer", "offload_param"):
        if ((zero.get(key) or {}).get("device") or "none") != "none":
            raise RecipeError(f"DeepSpeed's {key}_device was never tried; set it to none.")
    for key, ours in (("optimizer", "optimizer"), ("scheduler", "schedule")):
        if key in config:
            raise RecipeError(f"DeepSpeed's configuration has {key!r}; remove it, the recipe's {ours} says it.")
    for key in ("fp16", "bf16"):
        if config.get(key, {}).get("enabled") is True:
            raise RecipeError(f"DeepSpeed's configuration has {key!r}; remove it, mixed_precision is the recipe's.")
    clipping = recipe.max_grad_norm or 0.0
    if config.get("gradient_clipping", "auto") not in ("auto", clipping):
        raise RecipeError(
            f"DeepSpeed's gradient_clipping is {config['gradient_clipping']} and the recipe's max_grad_norm "
            f"{recipe.max_grad_norm}; remove the first."
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


class DeepSpeed(SharedOut):
    """See `Backend`; DeepSpeed's engine runs the model, clips and steps.

    In stage 3 `own_tensors` gives parameters that are empty between steps, so that the look for weights that are not
    finite sees buffers alone; `update` has raised then, as it does for gradients. What DeepSpeed keeps instead
    (`ds_tensor`) ends in padding that nobody fills.

    Raises:
        RecipeError: DeepSpeed's configuration has what the recipe decides, or what was never tried.
    """

    def __init__(self, accelerator: Accelerator, recipe: LoopRecipe):
        super().__init__(accelerator, recipe)
        configure(accelerator, recipe)
        self.stage = int(_config(accelerator)["zero_optimization"]["stage"])
        self.lockstep = self.stage == 3  # where layers are put together for every forward pass

    def prepare(self, task: Task, optimizer: torch.optim.Optimizer, parts: list[Part]) -> None:
        """See `Backend`."""
        names = {id(parameter): name for name, parameter in task.model.named_parameters()}
        self.groups = [
            [(names[id(parameter)], parameter) for parameter in group["params"]] for group in optimizer.param_groups
        ]
        super().prepare(task, optimizer, parts)
        self.zero = self.optimizer.optimizer  # DeepSpeed's, around torch's

    def check_task(self, task: Task, parts: list[Part]) -> None:
        """See `SharedOut`; refuse also clamped gradients and quantised weights."""
        super().check_task(task, parts)
        if any(part.clamp is not None for part in parts):
            raise RecipeError("gradient_clamp needs whole gradients, which DeepSpeed cuts up; set it to null.")
        if any(not parameter.is_floating_point() for parameter in task.model.parameters()):
            raise RecipeError("quantization 4bit was never tried with DeepSpeed; set it to none.")

    def accumulate(self, batch: Batch, targets: int, *, weight: float, last: bool) -> torch.Tensor:
        """See `Backend`; the engine's forward pass has its own autocast."""
        loss = self.task.loss(self.model, batch, targets)
        self.model.set_gradient_accumulation_boundary(last)
        self.model.backward(self._shared(loss, weight), scale_wrt_gas=False)
        return loss.detach()

    def update(self, step: int) -> bool:
        """See `Backend`."""
        self.model.step()
        if not self.model.was_step_applied():
            raise TrainingError(
                f"The gradients are not finite at step {step}; lower learning_rate, or clip the gradients by "
                "max_grad_norm."
            )
        return True

    def generate(self, batch: Batch, **options: Any) -> torch.Tensor:
        """See `Backend`; the bare model generates, which has no autocast of its own."""
        if self.lockstep:
            options["synced_gpus"] = True
        enabled = _config(self.accelerator)["torch_autocast"]["enabled"]
        with torch.autocast(self.accelerator.device.type, dtype=torch.bfloat16, enabled=enabled):
            return super().generate(batch, **options)

    def weights(self) -> dict[str, torch.Tensor]:
        """See `SharedOut`."""
        from deepspeed.runtime.zero import GatheredParameters

        main = self.accelerator.is_main_process
        whole: dict[str, torch.Tensor] = {}
        copies: dict[int, torch.Tensor] = {}
        for name, tensor in self.task.model.state_dict(keep_vars=True).items():
            with GatheredParameters([tensor], enabled=self.stage == 3 and isinstance(tensor, torch.nn.Parameter)):
                if main:
                    if id(tensor) not in copies:
                        copies[id(tensor)] = tensor.detach().to("cpu", copy=True)
                    whole[name] = copies[id(tensor)]
        return whole

    def optimizer_state(self) -> dict[str, Any]:
        """See `SharedOut`."""
        from deepspeed.utils import safe_get_full_optimizer_state

        main = self.accelerator.is_main_process
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
                    if main:
                        entry[key] = whole.to("cpu", copy=True)
            state[name] = entry
        if not main:
            return {}
        groups = [
            {**{key: value for key, value in group.items() if key != "params"}, "params": [name for name, _ in items]}
            for group, items in zip(self._torch_optimizer.param_groups, self.groups, strict=True)
        ]
        return {"state": state, "param_groups": groups}

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        """See `SharedOut`."""
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
        """Make, of zeros, the state that the first step would: DeepSpeed offers to fill it, not to make it."""
        flat = self.zero.single_partition_of_fp32_groups if self.stage == 2 else self.zero.fp32_partitioned_groups_flat
        for piece in flat:
            self._torch_optimizer.state[piece] = {
                key: value.clone() if key == "step" else torch.zeros_like(piece.data) for key, value in like.items()
            }
        self._link_state()

    def _link_state(self) -> None:
        """Link parameters to their state, which stage 2 does when other groups than the first have none yet."""
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
