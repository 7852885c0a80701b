"""The precision of a run where its recipe says auto: settled once, kept by its checkpoints, one for all processes.

A run that is continued keeps what it began with, on any machine: its arithmetic never changes without a word.
"""

import dataclasses
import logging
from pathlib import Path
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from rscc_hf.errors import CheckpointError, RecipeError
from rscc_hf.precision import try_dtype
from rscc_hf.training.engine import checkpoints
from rscc_hf.training.engine.recipe import LoopRecipe, with_later_keys

logger = logging.getLogger(__name__)

R = TypeVar("R", bound=LoopRecipe)
_LOW = {"mixed_precision": "bf16", "muon_dtype": "bfloat16"}
_SINGLE = {"mixed_precision": "no", "muon_dtype": "float32"}


def settle(recipe: R, state: PartialState, mixed_precision: str | None = None) -> R:
    """Settle `mixed_precision` and, with muon, `muon_dtype` of a recipe; every process must call it.

    What is auto becomes, first of these: what the checkpoint that the run continues has; `mixed_precision`; what a
    trial on the first process's device shows to be quicker. fp16 is never chosen.

    A line of the log says what was chosen and why; a warning names what is slower here than float32.

    Args:
        recipe: As it was given.
        state: The processes and their device.
        mixed_precision: That of an `Accelerator` which this process had before; None: there was none.

    Raises:
        RecipeError: fp16 is asked for on a CPU.
    """
    if recipe.mixed_precision == "fp16" and state.device.type == "cpu":
        raise RecipeError("mixed_precision fp16 does not work on a CPU; set it to auto, bf16 or no.")
    values: dict[str, Any] = {}
    if state.is_main_process:
        values, told, warning = _choose(recipe, state, mixed_precision)
        if told:
            logger.info("%s", told)
        if warning:
            logger.warning("%s", warning)
    if state.num_processes > 1:
        shared = [values]
        broadcast_object_list(shared)
        values = shared[0]
    return dataclasses.replace(recipe, **values)


def _choose(recipe: LoopRecipe, state: PartialState, existing: str | None) -> tuple[dict[str, Any], str, str]:
    """Return the values, what to log and what to warn of (empty: nothing)."""
    asked: dict[str, str] = {"mixed_precision": recipe.mixed_precision}
    if recipe.optimizer == "muon":
        asked["muon_dtype"] = recipe.muon_dtype
    continued, kept = _kept(recipe)
    values: dict[str, Any] = {}
    reasons: list[tuple[str, str]] = []
    for key, value in asked.items():
        if value == "auto" and kept.get(key) in (_LOW[key], _SINGLE[key]):
            value, reason = str(kept[key]), f"as {continued} has it"
        elif value == "auto" and key == "mixed_precision" and existing in ("no", "bf16"):
            value, reason = existing, "as the Accelerator of this process has it"
        elif value == "auto":
            trial = try_dtype(state.device)
            low = trial.pays if key == "mixed_precision" else not trial.product_emulated
            value, reason = (_LOW if low else _SINGLE)[key], str(trial)
        else:
            reason = ""
        values[key] = value
        if reason:
            reasons.append((f"{key} auto: {value}", reason))
    return values, _told(reasons), _warning(values, state, continued)


def _told(reasons: list[tuple[str, str]]) -> str:
    """Put the reasons into one line; one that several share is given once."""
    grouped: dict[str, list[str]] = {}
    for what, reason in reasons:
        grouped.setdefault(reason, []).append(what)
    return "; ".join(f"{', '.join(what)} ({reason})" for reason, what in grouped.items())


def _warning(values: dict[str, Any], state: PartialState, continued: Path | None) -> str:
    """Return what asks for bfloat16 where float32 is quicker, and the remedy."""
    low = [key for key, value in values.items() if value == _LOW[key]]
    if not low:
        return ""
    trial = try_dtype(state.device)
    slow = [key for key in low if (trial.emulated if key == "mixed_precision" else trial.product_emulated)]
    if not slow:
        return ""
    named = " and ".join(f"{key} {values[key]}" for key in slow)
    better = " and ".join(f"{key} to {_SINGLE[key]}" for key in slow)
    if continued is not None:
        remedy = f"the run began so and goes on so, to change it set {better} in another output_dir"
        return f"{named}: {trial.verdict}; {remedy}."
    return f"{named}: {trial.verdict}; set {better}, or to auto."


def _kept(recipe: LoopRecipe) -> tuple[Path | None, dict[str, object]]:
    """Return the checkpoint that the run continues, and its recipe; (None, {}) for a new run.

    Which checkpoint it is, and whether it fits, is for `RunFolder`; all of a run have one precision.
    """
    if recipe.resume == "never":
        return None, {}
    folder = Path(recipe.output_dir) / "checkpoints"
    own = [*reversed(checkpoints.steps_in(folder).values()), *checkpoints.replaced_in(folder)]
    for path in own if recipe.resume == "auto" else [Path(recipe.resume)]:
        try:
            return path, with_later_keys(checkpoints.read_state(path)["recipe"])
        except (CheckpointError, KeyError):
            continue
    return None, {}
