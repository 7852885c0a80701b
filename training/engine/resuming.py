"""Whether a run that goes on is the one that began: its recipe, its data and start, and where it goes on from."""

import logging
from pathlib import Path
from typing import Any

from rscc_hf.errors import CheckpointError, RecipeError
from rscc_hf.training.engine import checkpoints
from rscc_hf.training.engine.optimisation import warmup_length
from rscc_hf.training.engine.recipe import (
    LoopRecipe,
    limit_passed,
    steps_of_run,
    trajectory_difference,
    with_later_keys,
)

logger = logging.getLogger(__name__)

_WORDS = {
    "train_data": "train_data holds other pairs than that",
    "validation_data": "validation_data holds other pairs than that",
    "tokenizer": "The tokenizer has other words or settings than that",
    "prompt_ids": "init_from writes the prompt in other words than that",
    "init_from": "init_from is another model than that",
    "init_from_weights": "init_from has other weights than that",
    "backbone_weights_rgb": "backbone_weights_rgb are other weights than those",
    "backbone_weights_semantic": "backbone_weights_semantic are other weights than those",
}


def check_recipe(checkpoint: Path, recipe: LoopRecipe) -> None:
    """Compare the recipe to that of the checkpoint.

    Raises:
        RecipeError: A key differs that led to other weights.
        CheckpointError: The checkpoint is incomplete.
    """
    saved = checkpoints.read_state(checkpoint)
    old = with_later_keys(saved["recipe"])
    key = trajectory_difference(old, recipe, saved.get("identity") or {})
    if key is None:
        return
    why = f", which schedule {recipe.schedule} reckons with" if key in ("max_steps", "max_epochs") else ""
    raise RecipeError(
        f"{key} is {getattr(recipe, key, None)!r} in the recipe and was {old.get(key)!r} in {checkpoint}{why}; "
        "continue with the same value, or start a new run in another output_dir."
    )


def check_identity(checkpoint: Path, saved: dict[str, Any], now: dict[str, str]) -> None:
    """Compare what a run goes on with to what it began with.

    Args:
        checkpoint: What the run goes on from.
        saved: Its state.
        now: What `Task.identity` gives.

    Raises:
        CheckpointError: Something is another, or is not there any more.
    """
    began: dict[str, str] = saved.get("identity") or {}
    for key, digest in now.items():
        if key in began and began[key] != digest:
            what = _WORDS.get(key, f"{key} is another than that")
            raise CheckpointError(
                f"{what} of {checkpoint}'s run ({began[key][:12]} then, {digest[:12]} now); continue with the "
                "same, or start a new run in another output_dir."
            )
    for key in began:
        if key not in now:
            raise CheckpointError(
                f"{checkpoint}'s run began with {key} {began[key][:12]}, and what {key} is now cannot be told; "
                "continue with the same, or start a new run in another output_dir."
            )
    unknown = [key for key in now if key not in began]
    if unknown:
        logger.warning(
            "%s does not say with which %s the run began (an older version wrote it): that it is the same was not "
            "checked",
            checkpoint,
            " and ".join(unknown),
        )


def check_position(checkpoint: Path, saved: dict[str, Any], recipe: LoopRecipe, steps_per_epoch: int | None) -> None:
    """Compare the length of an epoch, the end of the run and its warm-up to those of the checkpoint.

    Args:
        checkpoint: What the run goes on from.
        saved: Its state.
        recipe: Of the run.
        steps_per_epoch: As its data has them; None: a stream does not tell.

    Raises:
        CheckpointError: An epoch of the checkpoint had other steps.
        RecipeError: The run ends before the checkpoint, or would have warmed up otherwise.
    """
    if saved["steps_per_epoch"] != steps_per_epoch:
        raise CheckpointError(
            f"{checkpoint} was trained on other data: an epoch had {saved['steps_per_epoch']} steps and has "
            f"{steps_per_epoch} now; give the same data, or another output_dir."
        )
    begun = saved["epoch"] + any(position is not None for position in saved["positions"])
    passed = limit_passed(recipe, saved["step"], begun)
    if passed is not None:
        raise RecipeError(
            f"{passed} is {getattr(recipe, passed)}, and {checkpoint} is past that (step {saved['step']}, epoch "
            f"{begun}); raise it, continue an earlier checkpoint (resume), or start a new run in another output_dir."
        )
    old = saved["recipe"]
    steps = steps_of_run(recipe.max_steps, recipe.max_epochs, steps_per_epoch)
    was = warmup_length(recipe, steps_of_run(old.get("max_steps"), old.get("max_epochs"), steps_per_epoch))
    now = warmup_length(recipe, steps)
    if was != now:  # only where the schedule is constant may the number of steps differ at all
        raise RecipeError(
            f"warmup_ratio {recipe.warmup_ratio} makes {now} steps of warm-up of a run of {steps} steps, and made "
            f"{was} in {checkpoint}; leave max_steps and max_epochs as they were, or start a new run in another "
            "output_dir."
        )
