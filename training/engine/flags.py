"""Flags of a training script that have no effect in the run that they are given to are errors.

A recipe in YAML may keep keys of other settings, as one file serves many runs; what somebody types is meant. The same
rule as for the options of `rscc` (`rscc_hf.commands.modes`): a default that was typed is a use of its flag.

Keys that `validate` compares with others (lora_alpha, stream_shuffle_buffer, ...) are not here: it refuses
them where they have no effect, and somebody who types `--stream_shuffle_buffer 0` takes back what a recipe says.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Belonging:
    """What some keys of a recipe belong to.

    Attributes:
        keys: The keys, split by spaces; those that a recipe lacks are passed over.
        mode: Completes "it belongs to".
        holds: Whether a recipe is of that mode.
    """

    keys: str
    mode: str
    holds: Callable[[Any], bool]


def _learns(part: str) -> Callable[[Any], bool]:
    return lambda recipe: part in recipe.learning_parts


def _on_the_hub(*where: str | None) -> bool:
    """Return whether one of these is no file or folder here; also where none is named, an error of its own."""
    named = [name for name in where if name is not None]
    return not named or any(not Path(name).expanduser().exists() for name in named)


def _data_on_the_hub(recipe: Any) -> bool:
    return _on_the_hub(recipe.train_data, recipe.validation_data if recipe.eval_unit != "never" else None)


BELONGINGS = (
    Belonging("muon_learning_rate_ratio muon_dtype", "optimizer muon", lambda it: it.optimizer == "muon"),
    Belonging(
        "patience metric_for_best eval_every validation_batch_size max_validation_pairs num_beams lr_decay "
        "validation_data validation_split max_new_tokens",
        "runs that evaluate, and eval_unit is never",
        lambda it: it.eval_unit != "never",
    ),
    Belonging("lr_decay_patience", "lr_decay below 1", lambda it: it.lr_decay < 1),
    Belonging(
        "save_every keep_checkpoints",
        "runs that write checkpoints, and save_unit is never",
        lambda it: it.save_unit != "never",
    ),
    Belonging("data_revision", "data on the Hub, and all data that is read is on this machine", _data_on_the_hub),
    Belonging(
        "init_revision", "a model on the Hub, and init_from is on this machine", lambda it: _on_the_hub(it.init_from)
    ),
    Belonging("jitter_independent", "colour_jitter above 0", lambda it: it.colour_jitter > 0),
    Belonging(
        "captions_per_pair",
        "captions flatten and together",
        lambda it: it.captions != "random_choice" or it.captions_per_pair is None,
    ),
    Belonging(
        "semantic_resample semantic_num_channels semantic_coverage",
        "semantic maps, and modalities is rgb",
        lambda it: it.modalities != "rgb",
    ),
    Belonging(
        "vocabulary_splits vocabulary_min_frequency",
        "a vocabulary that is built, and tokenizer is given",
        lambda it: it.tokenizer is None,
    ),
    Belonging(
        "freeze_statistics",
        "frozen_stages, and there are none",
        lambda it: any(stage != "none" for stage in it.frozen_stages),
    ),
    Belonging(
        "num_integration_layers integration_gate integration_attention_heads integration_ffn_dim "
        "integration_learning_rate_ratio",
        "the module, and integration is false",
        lambda it: it.integration is not False,
    ),
    Belonging("vision_learning_rate_ratio", "a vision tower that learns", _learns("vision_tower")),
    Belonging("integration_learning_rate_ratio", "a module that learns", _learns("integration")),
    Belonging("projector_learning_rate_ratio", "a projector that learns", _learns("projector")),
    Belonging("language_learning_rate_ratio", "a language model that learns", _learns("language_model")),
)


def names_of_flags(arguments: Sequence[str], keys: Iterable[str]) -> list[str]:
    """Return the keys that a command line names: `--key value`, `--key=value`, `--no_key`."""
    known, found = set(keys), []
    for argument in arguments:
        if argument.startswith("--"):
            name = argument[2:].partition("=")[0].replace("-", "_")
            found += [key for key in (name, name.removeprefix("no_")) if key in known][:1]
    return found


def idle_flag(recipe: Any, given: Sequence[str]) -> str | None:
    """Return a sentence about the first key that was typed and has no effect on the run; None: there is none.

    Args:
        recipe: A recipe of any kind.
        given: The keys that were typed.
    """
    keys = {item.name for item in fields(recipe)}
    for belonging in BELONGINGS:
        for key in belonging.keys.split():
            if key in given and key in keys and not belonging.holds(recipe):
                return f"--{key} has no effect: it belongs to {belonging.mode}; leave it out."
    return None
