"""`--plan`: what a run will train, see, hold and cost, reckoned before it starts and without any weights.

Nothing is imitated: the task that trains chooses its samples, the batches say how many steps an epoch has, the recipe
says when it evaluates and saves, the optimiser takes a step on torch's meta device and is asked for its state. Images
are not read. A system gives its task with the data and a model on the meta device (`PlannedPairs`); what only the
system knows (tokens, operations, activations) it adds.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from rich.console import Console
from rich.table import Table

from rscc_hf.data.images import undecoded
from rscc_hf.errors import RecipeError
from rscc_hf.training.engine.batches import IndexedBatches
from rscc_hf.training.engine.optimisation import build_optimizer, build_schedule, warmup_length
from rscc_hf.training.engine.recipe import steps_of_run
from rscc_hf.training.systems.pairs.pixels import FromDisk, PixelSource
from rscc_hf.training.systems.pairs.recipe import PairRecipe
from rscc_hf.training.systems.pairs.task import PairTask, learning

_GIB = 2**30
_SOME_CAPTIONS = 1000


@dataclass
class PlanOptions:
    """What the plan assumes.

    Attributes:
        devices: Processes, one a device.
        tflops: What a device achieves, in 10^12 floating-point operations a second; 400 is about 40 % of what an H100
            can do in bf16.
    """

    devices: int = 1
    tflops: float = 400.0


@dataclass(kw_only=True)
class Plan:
    """What a run will be. Where a number is None, `unknown` says why.

    Attributes:
        model: Where its shape comes from.
        parameters: Of each part: how many there are.
        trained: Of each part: how many of them learn.
        rates: Of each part that learns: its peak learning rate.
        weight_bytes: Of the whole model while it trains.
        gradient_bytes: Of what learns, float32.
        optimizer_bytes: Of the optimiser's state, for all that learns.
        activation_bytes: Roughly what a device keeps for the backward pass; None where it was not reckoned.
        image_tokens: Of a pair; None where images are no tokens.
        text_tokens: Of a pair: prompt and, where the data could be read, the mean caption.
        exact_text: Whether the text was tokenised; else its words were counted, and what follows is about so.
        accumulation: Micro-batches of a device and step.
        pairs: Training pairs.
        usable_pairs: Training pairs with a caption that can be learnt.
        captions: Captions that can be learnt.
        samples: Of an epoch.
        steps_per_epoch: Optimiser steps of an epoch.
        steps: Optimiser steps of the run, without an early end by `patience`.
        warmup_steps: Of these: while the learning rate rises.
        samples_seen: Samples that the whole run learns from.
        captions_seen: Captions of these, each as often as it is learnt.
        validations: How often the validation pairs are answered in the whole run.
        checkpoints: How many are written in the whole run.
        unknown: Why the data does not tell its numbers; empty where it does.
        flops_per_sample: Forward, recomputed and backward.
        step_seconds: At the assumed speed, without reading data and without communication.
    """

    model: str
    parameters: dict[str, int]
    trained: dict[str, int]
    rates: dict[str, float]
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int | None
    image_tokens: int | None
    text_tokens: int
    exact_text: bool
    accumulation: int
    pairs: int | None
    usable_pairs: int | None
    captions: int | None
    samples: int | None
    steps_per_epoch: int | None
    steps: int | None
    warmup_steps: int | None
    samples_seen: int | None
    captions_seen: int | None
    validations: int | None
    checkpoints: int | None
    unknown: str
    flops_per_sample: float
    step_seconds: float


class PlannedPairs(PairTask):
    """A task that only counts; stands before the task of a system among the bases of its planned one.

    Its constructor takes no accelerator; it sets what the system's task sets but for the validator, the model on the
    meta device, and calls `plan_data`.
    """

    chosen: Any = None
    usable: list[list[str]] | None = None

    def plan_data(self) -> None:
        """Load the pairs, if the recipe names any, choose the samples, and check what will be asked in validation."""
        recipe = self.recipe
        self.training: Any = None
        if recipe.train_data is not None:
            self.training = self._load(recipe.train_data, recipe.train_split, recipe.streaming, "train_data")
        validation = self.load_validation() if recipe.validation_data or recipe.train_data else None
        self.samples = self._samples(self.training) if isinstance(self.training, Dataset) else None
        if validation is not None:
            self.validation_pairs(validation)

    def choose_samples(self, pixels: PixelSource, captions: list[list[str]]) -> Any:
        """See `PairTask`; keeps them."""
        self.usable, self.chosen = captions, super().choose_samples(pixels, captions)  # type: ignore[safe-super]
        return self.chosen

    def some_captions(self) -> list[str]:
        """Return captions of the first pairs."""
        texts = (text for captions in self.usable or [] for text in captions)
        return [text for text, _ in zip(texts, range(_SOME_CAPTIONS), strict=False)]

    def _pixels(self, dataset: Dataset, where: str, training: bool) -> PixelSource:
        """Return what would read the images; `cache: memory` would do it now."""
        return FromDisk(undecoded(dataset), self.reader(dataset, where, training))


def take_plan_options(arguments: Sequence[str]) -> tuple[PlanOptions | None, list[str]]:
    """Take `--plan`, `--devices N` and `--tflops X` off a command line.

    Returns:
        The options, None where there is no `--plan`; and the other arguments.

    Raises:
        RecipeError: A number is none, or `--devices` or `--tflops` stand without `--plan`.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--devices", type=int)
    parser.add_argument("--tflops", type=float)
    try:
        given, remaining = parser.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise RecipeError(f"{error}.") from error
    if not given.plan:
        if given.devices is not None or given.tflops is not None:
            raise RecipeError(
                "--devices and --tflops are for --plan; leave them out, a run's processes are the launcher's."
            )
        return None, remaining
    devices = int(os.environ.get("WORLD_SIZE", 1)) if given.devices is None else given.devices
    tflops = PlanOptions.tflops if given.tflops is None else given.tflops
    if devices < 1 or not tflops > 0:
        raise RecipeError(f"--devices {devices} --tflops {tflops}; give numbers above 0.")
    return PlanOptions(devices, tflops), remaining


def reckon(
    task: PlannedPairs,
    options: PlanOptions,
    *,
    model: str,
    flops_per_sample: float,
    weight_bytes: int | None = None,
    activation_bytes: int | None = None,
    image_tokens: int | None = None,
    text_tokens: int = 0,
    exact_text: bool = True,
) -> Plan:
    """Ask the parts of a run for what they will do.

    Args:
        task: With its data, and its model on the meta device.
        options: What is assumed.
        model: See `Plan`.
        flops_per_sample: See `Plan`.
        weight_bytes: See `Plan`; None: as float32.
        activation_bytes: See `Plan`.
        image_tokens: See `Plan`.
        text_tokens: See `Plan`.
        exact_text: See `Plan`.

    Raises:
        RsccError: What training would refuse, too, in the same words, as far as a plan looks: not at images, maps,
            masks and weights, and at the prompt only where there is a processor.
    """
    recipe, devices = task.recipe, options.devices
    accumulation = recipe.accumulation_steps(devices)
    groups, parts = task.parameters_by_part(), task.parts()
    optimizer = build_optimizer(parts, recipe, task.model)
    processes = range(0 if task.training is None else devices)
    sources = [task.batches(number, devices, accumulation) for number in processes]
    steps_per_epoch = sources[0].steps_per_epoch if sources else None
    steps = steps_of_run(recipe.max_steps, recipe.max_epochs, steps_per_epoch)
    if sources or steps is not None:
        build_schedule(optimizer, recipe, steps)  # which refuses what does not fit
    seen = _samples_seen(sources, steps)
    trained = {name: sum(one.numel() for one in learning(group)) for name, group in groups.items()}
    evaluated, saved = (_times(recipe, due, steps, steps_per_epoch) for due in ("eval", "save"))
    usable = task.usable
    return Plan(
        model=model,
        parameters={name: sum(one.numel() for one in group) for name, group in groups.items()},
        trained=trained,
        rates={part.name: part.learning_rate for part in parts},
        weight_bytes=4 * sum(one.numel() for one in task.model.parameters()) if weight_bytes is None else weight_bytes,
        gradient_bytes=4 * sum(trained.values()),
        optimizer_bytes=_state_bytes(optimizer),
        activation_bytes=activation_bytes,
        image_tokens=image_tokens,
        text_tokens=text_tokens,
        exact_text=exact_text,
        accumulation=accumulation,
        pairs=None if usable is None else len(usable),
        usable_pairs=None if usable is None else sum(bool(texts) for texts in usable),
        captions=None if usable is None else sum(len(texts) for texts in usable),
        samples=None if task.samples is None else len(task.samples),
        steps_per_epoch=steps_per_epoch,
        steps=steps,
        warmup_steps=None if steps is None else warmup_length(recipe, steps),
        samples_seen=seen,
        captions_seen=None if seen is None else seen * getattr(task.chosen, "count", 1),
        validations=evaluated,
        checkpoints=saved,
        unknown="" if usable is not None else f"train_data is {'not given' if task.training is None else 'a stream'}",
        flops_per_sample=flops_per_sample,
        step_seconds=flops_per_sample * recipe.global_batch_size / devices / (options.tflops * 1e12),
    )


def write_plan(plan: Plan, recipe: PairRecipe, options: PlanOptions) -> None:
    """Print the plan as a table; only one process of a launcher does."""
    if int(os.environ.get("RANK", 0)) == 0:
        Console().print(plan_table(plan, recipe, options))


def plan_table(plan: Plan, recipe: PairRecipe, options: PlanOptions) -> Table:
    """Return the plan, to print."""
    table = Table(title=f"Plan of {recipe.output_dir}", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    about = "" if plan.exact_text else " (about: no tokenizer at hand)"
    most = "" if recipe.patience is None or recipe.eval_unit == "never" else f", or fewer (patience {recipe.patience})"
    if plan.steps_per_epoch is None and recipe.max_epochs is not None:
        most = f", or fewer (max_epochs {recipe.max_epochs})"

    unknown = []

    def count(name: str, number: int | None, more: str = "") -> None:
        if number is None:
            unknown.append(name)
        else:
            table.add_row(name, f"{number:,}{more}")

    table.add_row("model", plan.model)
    for part, number in plan.parameters.items():
        learns = plan.trained[part]
        what = f"{learns:,} of {number:,} parameters learn" if learns else f"{number:,} parameters, frozen"
        table.add_row(part, what + (f" at {plan.rates[part]:g}" if part in plan.rates else ""))
    table.add_row("all", f"{sum(plan.trained.values()):,} of {sum(plan.parameters.values()):,} parameters learn")
    held = (("weights", plan.weight_bytes), ("gradients", plan.gradient_bytes), ("optimiser", plan.optimizer_bytes))
    for name, size in held:
        table.add_row(name, f"{size:,} bytes ({size / _GIB:.2f} GiB; {size / _GIB / options.devices:.2f} if sharded)")
    activations = "not reckoned: they come on top"
    if plan.activation_bytes is not None:
        activations = f"roughly {plan.activation_bytes / _GIB:.1f} GiB a device"
    table.add_row("activations", activations)
    if plan.image_tokens is not None:
        table.add_row(
            "tokens a pair", f"{plan.image_tokens + plan.text_tokens:,}: {plan.image_tokens:,} of images, "
            f"{plan.text_tokens} of text{about}",
        )  # fmt: skip
    table.add_row(
        "global batch",
        f"{recipe.global_batch_size} = {options.devices} device(s) x {recipe.per_device_batch_size} x "
        f"{plan.accumulation} accumulated",
    )
    usable = "" if plan.usable_pairs == plan.pairs else f", {plan.usable_pairs:,} of them with a usable caption{about}"
    count("pairs", plan.pairs, usable)
    count("captions", plan.captions, f" usable{about}")
    count("samples an epoch", plan.samples, about)
    count("steps an epoch", plan.steps_per_epoch, about)
    count("steps", plan.steps, f"{most}{about}")
    count("warm-up", plan.warmup_steps, f" steps{about}")
    count("seen in all", plan.samples_seen, f" samples, {plan.captions_seen or 0:,} captions{most}{about}")
    count("validations", plan.validations, most if plan.validations else " (eval_unit is never)")
    count("checkpoints", plan.checkpoints, most if plan.checkpoints else " (save_unit is never)")
    if unknown:
        table.add_row("unknown", f"{', '.join(unknown)}: {plan.unknown}")
    table.add_row("operations", f"{plan.flops_per_sample / 1e12:.3g} x 10^12 a sample, training")
    speed = f"at {options.tflops:g} x 10^12 operations a second and device"
    table.add_row("time of a step", f"{plan.step_seconds:.3g} s {speed}")
    if plan.steps is not None:
        table.add_row("time of the run", f"{plan.step_seconds * plan.steps / 3600:.3g} h, without validation")
    return table


def _samples_seen(sources: Sequence[Any], steps: int | None) -> int | None:
    """Count the samples of all processes in so many steps."""
    if steps is None or not sources or not isinstance(sources[0], IndexedBatches):
        return None
    epochs, more = divmod(steps, sources[0].steps_per_epoch or 1)
    order = sources[0].order(epochs)
    partial = sum(
        len(keys) for source in sources for step in range(more) for keys in source.keys_of_step(order, epochs, step)
    )
    return epochs * len(order) + partial


def _times(recipe: PairRecipe, what: str, steps: int | None, steps_per_epoch: int | None) -> int | None:
    """Count how often a run evaluates ("eval") or saves ("save"): when it is due, and at the end."""
    unit = getattr(recipe, f"{what}_unit")
    if unit == "never":
        return 0
    if steps is None or (unit == "epochs" and steps_per_epoch is None):
        return None
    each = 1 if unit == "steps" else steps_per_epoch or 1
    due = [number for number in range(1, steps // each + 1) if recipe.is_due(what, unit, number)]
    return len(due) + (not due or due[-1] * each != steps)


def _state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Count the bytes of an optimiser's state after a step on the meta device, its counters of steps left out."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return sum(
        value.nbytes
        for state in optimizer.state.values()
        for name, value in state.items()
        if name != "step" and torch.is_tensor(value)
    )
