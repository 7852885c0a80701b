"""Optimiser, schedule and gradient clipping: torch's and transformers' own, set up from a recipe."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import Adam, AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from transformers import PreTrainedModel, get_scheduler

from rscc_hf.errors import InputError, RecipeError
from rscc_hf.training.engine.recipe import LoopRecipe
from rscc_hf.training.engine.task import Part

_ONE_CYCLE_RISE = 0.3  # torch's own default


class MuonIn(Muon):
    """torch's Muon, whose iterations run in a format of choice; torch's own (2.13) knows bfloat16 only.

    In bfloat16 its steps have the bits of torch's. Its updates are scaled to AdamW's size ("match_rms_adamw", arXiv
    2502.16982): a learning rate means the same.

    Args:
        params: Matrices, or groups of them.
        dtype: Of the iterations; momentum and weights keep theirs.
    """

    def __init__(self, params: Any, dtype: torch.dtype):
        super().__init__(params, adjust_lr_fn="match_rms_adamw")
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step; see `torch.optim.Optimizer`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters: list[torch.Tensor] = []
            gradients: list[torch.Tensor] = []
            momenta: list[torch.Tensor] = []
            self._init_group(group, parameters, gradients, momenta)
            rate, momentum = group["lr"], group["momentum"]
            for parameter, gradient, buffer in zip(parameters, gradients, momenta, strict=True):
                buffer.lerp_(gradient, 1 - momentum)
                update = gradient.lerp(buffer, momentum) if group["nesterov"] else buffer
                update = orthogonal(update, self.dtype, group["ns_coefficients"], group["ns_steps"], group["eps"])
                parameter.mul_(1 - rate * group["weight_decay"])
                parameter.add_(update, alpha=-rate * 0.2 * math.sqrt(max(parameter.shape)))
        return loss


def orthogonal(
    matrix: torch.Tensor,
    dtype: torch.dtype,
    coefficients: tuple[float, float, float],
    steps: int,
    eps: float,
) -> torch.Tensor:
    """Return the matrix with singular values near 1 (0.7 to 1.2), by the Newton-Schulz iterations of torch's Muon.

    Args:
        matrix: (m, n).
        dtype: Of the iterations and of the result.
        coefficients: Of the polynomial: of the matrix, its cube and its fifth power.
        steps: How many iterations.
        eps: Least norm that the matrix is divided by.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    result = matrix.to(dtype, copy=True)
    if tall:
        result = result.T
    result.div_(result.norm().clamp(min=eps))
    a, b, c = coefficients
    for _ in range(steps):
        gram = result @ result.T
        result = torch.addmm(result, torch.addmm(gram, gram, gram, beta=b, alpha=c), result, beta=a)
    return result.T if tall else result


class MuonWithAdamW(Optimizer):
    """Muon and AdamW as one optimiser, since Muon takes matrices only.

    The two share the groups and the state of this one, so that schedules and checkpoints see a single optimiser.

    Args:
        groups: parameter groups; those with `muon: True` hold matrices only and go to Muon.
        betas: AdamW's.
        eps: AdamW's.
        muon_dtype: Of Muon's iterations.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        betas: tuple[float, float],
        eps: float,
        muon_dtype: torch.dtype = torch.bfloat16,
    ):
        super().__init__(groups, {})
        by_muon: list[dict[str, Any]] = [group for group in self.param_groups if group["muon"]]
        others: list[dict[str, Any]] = [group for group in self.param_groups if not group["muon"]]
        self.members: list[tuple[bool, Optimizer]] = []  # they add their defaults to the groups, which stay the same
        if by_muon:
            self.members.append((True, MuonIn(by_muon, muon_dtype)))
        if others:
            self.members.append((False, AdamW(others, betas=betas, eps=eps)))
        self._share()

    def _share(self) -> None:
        for by_muon, member in self.members:
            member.param_groups = [group for group in self.param_groups if group["muon"] == by_muon]
            member.state = self.state

    def step(self, closure: Any = None) -> Any:
        """Take a step of both; see `torch.optim.Optimizer`."""
        loss = None if closure is None else closure()
        for _, member in self.members:
            member.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `torch.optim.Optimizer`, which makes new groups and a new state here."""
        super().load_state_dict(state_dict)
        self._share()


def build_optimizer(parts: Sequence[Part], recipe: LoopRecipe, model: torch.nn.Module) -> Optimizer:
    """Make Adam (weight decay, if any, is L2), AdamW, or Muon with AdamW; a part has one to three groups of its name.

    With weight decay, vectors (biases, norms, single embeddings) get a group without. With muon, the weights of
    linear layers get a group of Muon's; embeddings, the output projection and kernels stay with AdamW, as Muon's
    authors advise.

    Args:
        parts: What learns.
        recipe: Optimiser, its numbers, weight decay; a muon_dtype of auto, which `arithmetic.settle` has not seen,
            is torch's bfloat16.
        model: The bare model, asked which parameters are weights of linear layers.

    Raises:
        InputError: Nothing is left to train.
    """
    hidden = hidden_matrices(model) if recipe.optimizer == "muon" else frozenset()
    groups: list[dict[str, Any]] = []
    for part in parts:
        kinds: dict[tuple[bool, float], list[torch.nn.Parameter]] = {}
        for parameter in part.parameters:
            decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
            kinds.setdefault((id(parameter) in hidden, decay), []).append(parameter)
        for (by_muon, decay), chosen in kinds.items():
            rate = part.learning_rate * (recipe.muon_learning_rate_ratio if by_muon else 1.0)
            groups.append({"params": chosen, "weight_decay": decay, "lr": rate, "name": part.name, "muon": by_muon})
    if not groups:
        raise InputError("Nothing is left to train: every parameter is frozen; name parts that learn.")
    betas = (recipe.beta1, recipe.beta2)
    if recipe.optimizer == "muon":
        dtype = torch.float32 if recipe.muon_dtype == "float32" else torch.bfloat16
        return MuonWithAdamW(groups, betas, recipe.epsilon, dtype)
    return {"adam": Adam, "adamw": AdamW}[recipe.optimizer](groups, betas=betas, eps=recipe.epsilon)


def log_name(group: dict[str, Any]) -> str:
    """Return what a group of `build_optimizer` is called in logs: its part, with `/muon` for Muon's share of it."""
    return f"{group['name']}/muon" if group["muon"] else str(group["name"])


def hidden_matrices(model: torch.nn.Module) -> frozenset[int]:
    """Return the ids of the weights of linear layers, but for the one that gives the output."""
    output = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    return frozenset(
        id(layer.weight) for layer in model.modules() if isinstance(layer, torch.nn.Linear) and layer is not output
    )


def warmup_length(recipe: LoopRecipe, total_steps: int | None) -> int:
    """Return the steps in which the learning rate rises, of a run of so many steps."""
    given = recipe.warmup_steps or round(recipe.warmup_ratio * (total_steps or 0))
    return given or (round(_ONE_CYCLE_RISE * (total_steps or 0)) if recipe.schedule == "one_cycle" else 0)


def build_schedule(optimizer: Optimizer, recipe: LoopRecipe, total_steps: int | None) -> LRScheduler:
    """Return the recipe's schedule, stepped once an optimiser step.

    Args:
        optimizer: Its groups' learning rates are the peaks.
        recipe: Names the schedule and its warm-up.
        total_steps: Steps of the whole run; None where only the end of a stream will tell.

    Raises:
        RecipeError: The schedule needs to know the number of steps, or warms up for longer than the run.
    """
    if total_steps is None and (recipe.schedule != "constant" or recipe.warmup_ratio):
        key = f"schedule {recipe.schedule}" if recipe.schedule != "constant" else "warmup_ratio"
        raise RecipeError(f"{key} needs the number of steps, which a stream does not tell; set max_steps.")
    warmup = warmup_length(recipe, total_steps)
    if total_steps is not None and warmup > total_steps:
        raise RecipeError(f"warmup_steps is {warmup}, but the run has {total_steps} steps; lower it.")
    if recipe.schedule == "one_cycle":
        assert total_steps is not None
        if total_steps < 3:
            raise RecipeError(
                f"one_cycle needs 3 steps or more to rise and fall, the run has {total_steps}; choose another."
            )
        return OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=total_steps,
            pct_start=min(max(warmup, 2), total_steps - 1) / total_steps,  # torch divides by the length of each part
            cycle_momentum=False,
        )
    name = "constant_with_warmup" if recipe.schedule == "constant" else recipe.schedule
    return get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=total_steps)


def decay_learning_rate(optimizer: Optimizer, schedule: LRScheduler, names: set[str], factor: float) -> None:
    """Multiply the peak, and so every later learning rate, of the named parts' groups."""
    for number, group in enumerate(optimizer.param_groups):
        if group["name"] in names:
            for key in ("lr", "initial_lr", "max_lr", "min_lr"):  # the last two are OneCycleLR's
                if key in group:
                    group[key] *= factor
            schedule.base_lrs[number] *= factor


def limit_gradients(parts: Sequence[Part], max_norm: float | None) -> None:
    """Clamp each part's gradients element by element, then the norm of all of them."""
    for part in parts:
        if part.clamp is not None:
            torch.nn.utils.clip_grad_value_(part.parameters, part.clamp)
    if max_norm is not None:
        torch.nn.utils.clip_grad_norm_([parameter for part in parts for parameter in part.parameters], max_norm)
