"""Recipes: one flat dataclass, filled from a YAML file, overridden by flags; an unknown key is an error.

`LoopRecipe` holds what every training script shares; a script adds the fields of its model and data in a subclass.
The form follows trl's `TrlParser` and timm's `train.py`.
"""

import os
import sys
import typing
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.resources.abc import Traversable
from typing import Any, ClassVar, Literal, TypeVar, cast

import yaml
from transformers import HfArgumentParser

from rscc_hf.errors import RecipeError
from rscc_hf.evaluation.scores import BestScore
from rscc_hf.training.engine.flags import idle_flag, names_of_flags
from rscc_hf.training.engine.recipe_files import close_to, read_values
from rscc_hf.training.engine.recipe_values import checked, is_infinite

R = TypeVar("R", bound="LoopRecipe")


MIXED_PRECISION_HELP = (
    "Precision of forward and backward (autocast); auto: bf16 where a trial on the device shows it quicker, else no."
)
MUON_DTYPE_HELP = (
    "With muon: the format of its iterations; auto: bfloat16, or float32 where a trial shows bfloat16 emulated."
)
OPTIMIZER_HELP = "torch.optim.Adam or AdamW; muon: Muon for the matrices of linear layers, AdamW for the rest."


def option(default: Any, help: str) -> Any:
    """Return a field of a recipe with its help text."""
    return field(default=default, metadata={"help": help})


@dataclass
class LoopRecipe:
    """What the training loop itself needs. Field names are the keys of the YAML file and, with `--`, the flags.

    Raises:
        RecipeError: A value is out of range, or two values contradict each other.
    """

    # Changing one of these between a run and its continuation leaves the weights as they would have been.
    free_on_resume: ClassVar[frozenset[str]] = frozenset(
        {"output_dir", "resume", "overwrite", "patience", "save_every", "save_unit", "keep_checkpoints", "tracker"}
        | {"logging_steps", "num_workers", "torch_threads", "progress_bar"}
    )
    # Names of folders and files, or of ids on the Hub, in which `~` is the user's home.
    path_keys: ClassVar[frozenset[str]] = frozenset({"output_dir", "resume"})

    output_dir: str = option("outputs/run", "Folder of the trained model, its checkpoints and logs.")
    resume: str = option("auto", "auto: newest complete checkpoint of output_dir; never; or a checkpoint folder.")
    overwrite: bool = option(False, "With resume=never: delete the run that output_dir already holds.")
    seed: int = option(1, "Seed of the weights, the order of the data and all randomness of training.")

    global_batch_size: int = option(32, "Samples an optimiser step, over all processes and accumulated micro-batches.")
    per_device_batch_size: int = option(32, "Samples a forward pass on one device; accumulation follows from it.")
    max_epochs: int | None = option(None, "Stop after this many epochs.")
    max_steps: int | None = option(None, "Stop after this many optimiser steps.")
    patience: int | None = option(None, "Stop after this many evaluations in a row without improvement.")

    optimizer: Literal["adam", "adamw", "muon"] = option("adamw", OPTIMIZER_HELP)
    learning_rate: float = option(5e-5, "Peak learning rate of every part that has none of its own.")
    muon_learning_rate_ratio: float = option(1.0, "With muon: its learning rate by that of AdamW, for every part.")
    muon_dtype: Literal["auto", "bfloat16", "float32"] = option("auto", MUON_DTYPE_HELP)
    beta1: float = option(0.9, "Adam's decay rate of the gradient's mean.")
    beta2: float = option(0.999, "Adam's decay rate of the gradient's square.")
    epsilon: float = option(1e-8, "Adam's epsilon.")
    weight_decay: float = option(0.0, "Weight decay of matrices and kernels; biases and norms have none.")
    schedule: Literal["constant", "linear", "cosine", "one_cycle"] = option("constant", "Learning-rate schedule.")
    warmup_steps: int = option(0, "Steps of linear warm-up (one_cycle: of its rising part).")
    warmup_ratio: float = option(0.0, "The same as a share of all steps.")
    lr_decay: float = option(1.0, "Factor on the learning rate of the parts that decay when validation stalls.")
    lr_decay_patience: int = option(3, "Evaluations in a row without improvement before each such decay.")
    max_grad_norm: float | None = option(None, "Clip the norm of all gradients to this.")
    label_smoothing: float = option(0.0, "Label smoothing of the cross entropy, in [0, 1).")

    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = option("no", MIXED_PRECISION_HELP)
    gradient_checkpointing: bool = option(False, "Recompute activations in the backward pass to save memory.")
    cpu: bool = option(False, "Train on the CPU although an accelerator is there.")
    torch_threads: int | None = option(None, "torch.set_num_threads for the run; null leaves it.")
    num_workers: int = option(0, "Processes that prepare batches, for each training process; 0: none.")

    metric_for_best: BestScore = option("bleu_4", "Validation score that picks the best weights.")  # noqa: RUF009 (a field)
    eval_every: int = option(1, "Evaluate each time this many eval_units have passed.")
    eval_unit: Literal["epochs", "steps", "never"] = option("epochs", "Unit of eval_every; never: keep last weights.")
    validation_batch_size: int = option(32, "Pairs a generation batch on one device.")
    max_validation_pairs: int | None = option(None, "Evaluate on this many validation pairs at most, evenly spread.")
    num_beams: int = option(1, "Beams of generation during validation.")

    save_every: int = option(1, "Write a checkpoint each time this many save_units have passed.")
    save_unit: Literal["epochs", "steps", "never"] = option("epochs", "Unit of save_every.")
    keep_checkpoints: int = option(2, "Newest checkpoints to keep.")
    tracker: str = option("tensorboard", "A tracker of accelerate (tensorboard, wandb, ...) or none.")
    logging_steps: int = option(10, "Steps between two lines of training_log.jsonl and of the tracker.")
    progress_bar: bool = option(True, "Say how far it is: a bar on a terminal, else a line every 20 seconds.")

    @property
    def find_unused_parameters(self) -> bool:
        """Whether a forward pass may leave parameters out, which distributed training must then look for."""
        return False

    @property
    def keeps_last(self) -> bool:
        """Whether the last weights are kept as well where the best ones are others."""
        return False

    def __post_init__(self) -> None:
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        for name, value in checked(given, _hints(type(self)), RecipeError).items():
            setattr(self, name, _expanded(value) if name in self.path_keys else value)
        self.validate()

    def validate(self) -> None:
        """Check every value; subclasses add theirs and call this."""
        self.require_at_least(
            1,
            "global_batch_size per_device_batch_size max_epochs max_steps patience lr_decay_patience torch_threads "
            "eval_every validation_batch_size max_validation_pairs num_beams save_every keep_checkpoints "
            "logging_steps",
        )
        self.require_at_least(0, "seed learning_rate weight_decay warmup_steps num_workers")
        self.require_share("label_smoothing warmup_ratio beta1 beta2")
        if self.max_epochs is None and self.max_steps is None:
            raise RecipeError("Neither max_epochs nor max_steps is given; set one of them.")
        if self.warmup_steps and self.warmup_ratio:
            raise RecipeError("warmup_steps and warmup_ratio are both given; set one of them to 0.")
        if not 0 < self.lr_decay <= 1:
            raise RecipeError(f"lr_decay is {self.lr_decay}; give a factor in (0, 1]; 1 turns it off.")
        for name in ("epsilon", "max_grad_norm", "muon_learning_rate_ratio"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise RecipeError(f"{name} is {value}; give a positive number.")
        if self.overwrite and self.resume != "never":
            raise RecipeError("overwrite deletes the old run and resume continues it; set resume to never.")
        if not self.output_dir.strip():
            raise RecipeError("output_dir is empty; name the folder of the run.")
        for item in fields(self):
            if is_infinite(getattr(self, item.name)):
                raise RecipeError(f"{item.name} is {getattr(self, item.name)}; give a finite number.")

    def require_at_least(self, least: float, names: str) -> None:
        """Raise a `RecipeError` for a field of `names` (split by spaces) below `least`; None passes."""
        for name in names.split():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise RecipeError(f"{name} is {value}; give {least} or more.")

    def require_share(self, names: str) -> None:
        """Raise a `RecipeError` for a field of `names` (split by spaces) outside of [0, 1)."""
        for name in names.split():
            if not 0 <= getattr(self, name) < 1:
                raise RecipeError(f"{name} is {getattr(self, name)}; give a number in [0, 1).")

    def is_due(self, what: str, unit: str, count: int) -> bool:
        """Return whether a run is to "eval" or "save" when `count` of these units ("epochs", "steps") have passed."""
        return getattr(self, f"{what}_unit") == unit and count % getattr(self, f"{what}_every") == 0

    def accumulation_steps(self, processes: int) -> int:
        """Return the micro-batches that each of `processes` processes runs before an optimiser step.

        Raises:
            RecipeError: The global batch is no multiple of what one pass over all processes takes.
        """
        at_once = self.per_device_batch_size * processes
        if self.global_batch_size % at_once:
            fitting = [n for n in range(1, at_once + 1) if self.global_batch_size % (n * processes) == 0]
            remedy = f"per_device_batch_size {fitting[-1]} would do" if fitting else "use fewer processes"
            raise RecipeError(
                f"global_batch_size {self.global_batch_size} is no multiple of per_device_batch_size "
                f"{self.per_device_batch_size} x {processes} process(es); {remedy}."
            )
        return self.global_batch_size // at_once


def parse_recipe(recipe_class: type[R], arguments: Sequence[str] | None = None) -> R:
    """Read `--config`, a recipe of this package or FILE.yaml, and the flags that override it.

    Args:
        recipe_class: The dataclass to fill.
        arguments: Command line without the program's name; None: this process's.

    Raises:
        RecipeError: An unknown key or flag (with the closest ones that exist), one that is given twice, a value of a
            wrong type or range, a flag without effect on the run, or a file that cannot be read.
    """
    parser = _Parser(cast(Any, recipe_class), allow_abbrev=False, description=recipe_class.__doc__)
    parser.add_argument("--config", help="Recipe of this package, or YAML file with any of these keys and its base.")
    given = list(sys.argv[1:] if arguments is None else arguments)
    hints = _hints(recipe_class)
    names = [item.name for item in fields(recipe_class)]
    _refuse_twice(given, hints)

    nulls, remaining = _take_nulls(given, hints)
    known, _ = parser.parse_known_args(remaining)
    values = {} if known.config is None else read_values(known.config, hints, recipe_class.__name__)
    parser.set_defaults(**values)
    namespace, unknown = parser.parse_known_args(remaining)
    if unknown:
        flag = unknown[0].split("=")[0].lstrip("-").replace("-", "_")
        raise RecipeError(f"{unknown[0]}: no such flag{close_to(flag, names)}.")
    chosen = {name: getattr(namespace, name) for name in names}
    recipe = recipe_class(**{**chosen, **dict.fromkeys(nulls)})
    if sentence := idle_flag(recipe, names_of_flags(given, names)):
        raise RecipeError(sentence)
    return recipe


def read_recipe(recipe_class: type[R], path: str | os.PathLike | Traversable, **overrides: Any) -> R:
    """Read a recipe from a YAML file (see `recipe_files` for its `base`), with keyword overrides.

    Args:
        recipe_class: The dataclass to fill.
        path: The file, or the name of a recipe of this package (for a string; see `find_recipe`).
        **overrides: Values in place of the file's.

    Raises:
        RecipeError: See `parse_recipe`.
    """
    hints = _hints(recipe_class)
    unknown = [name for name in overrides if name not in hints]
    if unknown:
        raise RecipeError(f"{unknown[0]}: no key of {recipe_class.__name__}{close_to(unknown[0], list(hints))}.")
    return recipe_class(**{**read_values(path, hints, recipe_class.__name__), **overrides})


def recipe_to_yaml(recipe: LoopRecipe) -> str:
    """Return the resolved recipe, every key, as YAML that `read_recipe` reads back to an equal recipe."""
    return yaml.safe_dump(asdict(recipe), sort_keys=False, allow_unicode=True)


def trajectory_difference(old: dict[str, Any], recipe: LoopRecipe, identified: Collection[str] = ()) -> str | None:
    """Return the first key in which a checkpoint's recipe would have led to other weights; None: there is none.

    What a checkpoint knows by the digest of its contents may lie elsewhere now: its keys are `identified`, and whether
    the contents are the same is for `check_identity`.

    With a constant schedule a run may also be made longer or shorter. (Whether that changes a warm-up for a share of
    the steps is for the loop, which knows how many there are.)
    """
    free = set(recipe.free_on_resume)
    if recipe.schedule == "constant":
        free |= {"max_epochs", "max_steps"}
    new = asdict(recipe)
    old = with_later_keys(old)
    if recipe.optimizer != "muon":
        free.add("muon_dtype")
    for name in [*new, *(name for name in old if name not in new)]:
        was = _expanded(old.get(name)) if name in recipe.path_keys else old.get(name)
        if name in recipe.path_keys and name in identified and was is not None and new.get(name) is not None:
            continue
        if name not in free and was != new.get(name):
            return name
    return None


def steps_of_run(max_steps: int | None, max_epochs: int | None, steps_per_epoch: int | None) -> int | None:
    """Return the optimiser steps of a whole run; None where only the end of the data will tell."""
    limits = [] if max_steps is None else [max_steps]
    if max_epochs is not None and steps_per_epoch is not None:
        limits.append(max_epochs * steps_per_epoch)
    return min(limits, default=None)


def limit_passed(recipe: LoopRecipe, steps: int, epochs: int) -> str | None:
    """Return the limit of a recipe, max_steps or max_epochs, that a run has gone past; None: there is none.

    Args:
        recipe: As the run shall go on.
        steps: Optimiser steps done.
        epochs: Epochs begun.
    """
    for name, done in (("max_steps", steps), ("max_epochs", epochs)):
        limit = getattr(recipe, name)
        if limit is not None and done > limit:
            return name
    return None


def with_later_keys(old: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's recipe with the keys that came later, as the run went without them."""
    # torch's Muon iterates in bfloat16
    return {"muon_dtype": "bfloat16" if old.get("optimizer") == "muon" else "auto", **old}


def _hints(recipe_class: type) -> dict[str, Any]:
    """Return the type of each field, in the order of the fields (class variables are none)."""
    hints = typing.get_type_hints(recipe_class)
    return {item.name: hints[item.name] for item in fields(recipe_class)}


def _expanded(value: Any) -> Any:
    return os.path.expanduser(value) if isinstance(value, str) else value  # noqa: PTH111 (Path would change ids)


class _Parser(HfArgumentParser):
    """`HfArgumentParser` that raises one sentence where argparse would print its usage and leave."""

    def error(self, message: str) -> typing.NoReturn:
        raise RecipeError(f"{message}.")


def _refuse_twice(arguments: Sequence[str], hints: dict[str, Any]) -> None:
    """Raise where a flag is given twice, of which argparse would take the last without a word."""
    given = [argument.split("=")[0] for argument in arguments if argument.startswith("--")]
    names = [flag.removeprefix("--").replace("-", "_") for flag in given]
    plain = [name.removeprefix("no_") if hints.get(name.removeprefix("no_")) is bool else name for name in names]
    for name, times in Counter(plain).items():
        if times > 1 and (name in hints or name == "config"):
            raise RecipeError(f"--{name} is given {times} times; give it once.")


def _take_nulls(arguments: list[str], hints: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Split `--key null` of keys that may be null off the arguments, which argparse could not read."""
    nulls: list[str] = []
    remaining: list[str] = []
    position = 0
    while position < len(arguments):
        flag, equals, value = arguments[position].partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        width = 1 if equals else 2
        if not equals:
            value = arguments[position + 1] if position + 1 < len(arguments) else ""
        optional = flag.startswith("--") and type(None) in typing.get_args(hints.get(name))
        if optional and value in ("null", "None"):
            nulls.append(name)
            position += width
        else:
            remaining.append(arguments[position])
            position += 1
    return nulls, remaining
