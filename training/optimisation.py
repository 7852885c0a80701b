"""Optimiser, schedule and gradient clipping: torch's and transformers' own, set up from a recipe."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from transformers import get_scheduler

from rscc_hf.training.recipe import LoopRecipe, RecipeError
from rscc_hf.training.task import Part

_ONE_CYCLE_RISE = 0.3  # torch's own default


def build_optimizer(parts: Sequence[Part], recipe: LoopRecipe) -> Optimizer:
    """Adam (weight decay, if any, is L2) or AdamW; one or two groups a part, named after it.

    With weight decay, vectors (biases, norms, single embeddings) get a group without.

    Raises:
        ValueError: Nothing is left to train, or a parameter is in two parts.
    """
    groups: list[dict[str, Any]] = []
    for part in parts:
        shared = {"lr": part.learning_rate, "name": part.name}
        if recipe.weight_decay == 0:
            split = [(part.parameters, 0.0)]
        else:
            matrices = [parameter for parameter in part.parameters if parameter.ndim > 1]
            vectors = [parameter for parameter in part.parameters if parameter.ndim <= 1]
            split = [(matrices, recipe.weight_decay), (vectors, 0.0)]
        groups += [{"params": chosen, "weight_decay": decay, **shared} for chosen, decay in split if chosen]
    if not groups:
        raise ValueError("Nothing is left to train: every parameter is frozen.")
    optimizer_class = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    return optimizer_class(groups, betas=(recipe.beta1, recipe.beta2), eps=recipe.epsilon)


def build_schedule(optimizer: Optimizer, recipe: LoopRecipe, total_steps: int | None) -> LRScheduler:
    """The recipe's schedule, stepped once an optimiser step.

    Args:
        optimizer: Its groups' learning rates are the peaks.
        recipe: Names the schedule and its warm-up.
        total_steps: Steps of the whole run; None where only the end of a stream will tell.

    Raises:
        RecipeError: The schedule needs to know the number of steps, or warms up for longer than the run.
    """
    if total_steps is None and (recipe.schedule != "constant" or recipe.warmup_ratio):
        key = f"schedule {recipe.schedule}" if recipe.schedule != "constant" else "warmup_ratio"
        raise RecipeError(f"{key} needs the number of steps, which a stream does not tell: set max_steps.")
    warmup = recipe.warmup_steps or round(recipe.warmup_ratio * (total_steps or 0))
    if total_steps is not None and warmup > total_steps:
        raise RecipeError(f"warmup_steps is {warmup}, but the run has {total_steps} steps: lower it.")
    if recipe.schedule == "one_cycle":
        assert total_steps is not None
        if total_steps < 3:
            raise RecipeError(f"one_cycle needs 3 steps or more to rise and fall, the run has {total_steps}.")
        rise = warmup or round(_ONE_CYCLE_RISE * total_steps)
        return OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=total_steps,
            pct_start=min(max(rise, 2), total_steps - 1) / total_steps,  # torch divides by the length of each part
            cycle_momentum=False,
        )
    name = "constant_with_warmup" if recipe.schedule == "constant" else recipe.schedule
    return get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=total_steps)


def decay_learning_rate(optimizer: Optimizer, schedule: LRScheduler, names: set[str], factor: float) -> None:
    """Multiplies the peak, and so every later learning rate, of the named parts' groups."""
    for number, group in enumerate(optimizer.param_groups):
        if group["name"] in names:
            for key in ("lr", "initial_lr", "max_lr", "min_lr"):  # the last two are OneCycleLR's
                if key in group:
                    group[key] *= factor
            schedule.base_lrs[number] *= factor


def limit_gradients(parts: Sequence[Part], max_norm: float | None) -> None:
    """Clamps each part's gradients element by element, then the norm of all of them."""
    for part in parts:
        if part.clamp is not None:
            torch.nn.utils.clip_grad_value_(part.parameters, part.clamp)
    if max_norm is not None:
        torch.nn.utils.clip_grad_norm_([parameter for part in parts for parameter in part.parameters], max_norm)
