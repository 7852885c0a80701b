"""`--plan`: what a stage of CCExpert will train, hold and cost, reckoned before it starts and without any weights.

The model is built on torch's meta device, from `init_from`'s configuration or, where that cannot be read yet, from the
paper's preset that `size` names. Parameters, bytes of weights, gradients and optimiser and tokens of images are exact;
so are samples and steps where the tokenizer is there: the code that trains counts them. Floating-point operations are
counted by torch on one sample; hours follow from the speed that is assumed.
"""

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from rscc_hf.errors import RecipeError
from rscc_hf.modeling.configuration_ccexpert import CCExpertConfig
from rscc_hf.modeling.modeling_ccexpert import CCExpertForConditionalGeneration
from rscc_hf.processing.chat_templates_ccexpert import PAPER_PROMPT, SYSTEM_MESSAGE
from rscc_hf.processing.processing_ccexpert import CCExpertProcessor
from rscc_hf.training.engine.optimisation import hidden_matrices
from rscc_hf.training.systems.ccexpert.parts import part_of, prepare_to_learn
from rscc_hf.training.systems.ccexpert.recipe import CCExpertRecipe
from rscc_hf.training.systems.ccexpert.samples import prompted_samples
from rscc_hf.training.systems.ccexpert.start import Start, StartMissing, find_start, start_processor
from rscc_hf.training.systems.ccexpert.task import CCExpertTask
from rscc_hf.training.systems.pairs.pixels import FromDisk, PixelSource, undecoded
from rscc_hf.training.systems.pairs.samples import CaptionFilter

_GIB = 2**30
_CHATML_MARKS = 13  # tokens of the template around system message, question and answer
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


@dataclass
class Plan:
    """What a run will be.

    Attributes:
        model: Where its shape comes from.
        parameters: Of each part: how many there are.
        trained: Of each part: how many of them learn.
        rates: Of each part that learns: its peak learning rate.
        weight_bytes: Of the whole model while it trains; so are the next two.
        gradient_bytes: Of what learns, float32.
        optimizer_bytes: Of the optimiser's state.
        activation_bytes: Roughly what a device keeps for the backward pass; None without gradient checkpointing.
        image_tokens: Of a pair.
        text_tokens: Of a pair: prompt and, where the data could be read, the mean caption.
        exact_text: Whether the text was tokenised; else its words were counted, and samples and steps are about so.
        accumulation: Micro-batches of a device and step.
        samples: Of an epoch; None where the data was not given.
        steps: Optimiser steps of the run, without an early end by `patience`; None where they are not known.
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
    image_tokens: int
    text_tokens: int
    exact_text: bool
    accumulation: int
    samples: int | None
    steps: int | None
    flops_per_sample: float
    step_seconds: float


def take_plan_options(arguments: Sequence[str]) -> tuple[PlanOptions | None, list[str]]:
    """Takes `--plan`, `--devices N` and `--tflops X` off a command line.

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
            raise RecipeError("--devices and --tflops are for --plan: a run's processes are the launcher's.")
        return None, remaining
    devices = int(os.environ.get("WORLD_SIZE", 1)) if given.devices is None else given.devices
    tflops = PlanOptions.tflops if given.tflops is None else given.tflops
    if devices < 1 or not tflops > 0:
        raise RecipeError(f"--devices {devices} --tflops {tflops}: give numbers above 0.")
    return PlanOptions(devices, tflops), remaining


def write_plan(recipe: CCExpertRecipe, options: PlanOptions) -> None:
    """Prints the plan as a table; only one process of a launcher does."""
    if int(os.environ.get("RANK", 0)) == 0:
        Console().print(plan_table(make_plan(recipe, options), recipe, options))


def make_plan(recipe: CCExpertRecipe, options: PlanOptions | None = None) -> Plan:
    """Reckons what a run will be.

    Raises:
        RecipeError: The global batch does not divide, or neither `init_from` nor `size` tells the model.
    """
    options = options or PlanOptions()
    accumulation = recipe.accumulation_steps(options.devices)
    config, source, start = _config(recipe)
    processor = None if start is None else start_processor(start, recipe)
    with torch.device("meta"):
        model: Any = CCExpertForConditionalGeneration(config)
    data = None if recipe.train_data is None or recipe.streaming else _PlannedTask(recipe, processor)
    images, texts = _tokens(recipe, config, processor, [] if data is None else data.some_captions())
    flops = _flops(model, recipe, images + texts)
    model = prepare_to_learn(model, recipe, start)  # a frozen model is asked no gradients
    named = list(model.named_parameters())
    parameters: dict[str, int] = {}
    trained: dict[str, int] = {}
    for name, parameter in named:
        part = part_of(name)
        parameters[part] = parameters.get(part, 0) + parameter.numel()
        trained[part] = trained.get(part, 0) + (parameter.numel() if parameter.requires_grad else 0)
    matrices = hidden_matrices(model) if recipe.optimizer == "muon" else frozenset()
    optimizer = sum(
        parameter.numel() * (4 if id(parameter) in matrices else 8)
        for _, parameter in named
        if parameter.requires_grad
    )
    samples, steps = _steps(recipe, data, options.devices, accumulation)
    return Plan(
        model=source,
        parameters=parameters,
        trained=trained,
        rates={part: rate for part, rate in recipe.learning_rates.items() if trained.get(part)},
        weight_bytes=sum(_bytes(name, parameter, recipe) for name, parameter in named),
        gradient_bytes=4 * sum(trained.values()),
        optimizer_bytes=optimizer,
        activation_bytes=_activations(config, recipe, images + texts),
        image_tokens=images,
        text_tokens=texts,
        exact_text=processor is not None,
        accumulation=accumulation,
        samples=samples,
        steps=steps,
        flops_per_sample=flops,
        step_seconds=flops * recipe.global_batch_size / options.devices / (options.tflops * 1e12),
    )


def plan_table(plan: Plan, recipe: CCExpertRecipe, options: PlanOptions) -> Table:
    """The plan, to print."""
    table = Table(title=f"Plan of {recipe.output_dir}", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row("model", plan.model)
    for part, count in plan.parameters.items():
        learns = plan.trained[part]
        what = f"{learns:,} of {count:,} parameters learn" if learns else f"{count:,} parameters, frozen"
        table.add_row(part, what + (f" at {plan.rates[part]:g}" if part in plan.rates else ""))
    table.add_row("all", f"{sum(plan.trained.values()):,} of {sum(plan.parameters.values()):,} parameters learn")
    held = (("weights", plan.weight_bytes), ("gradients", plan.gradient_bytes), ("optimiser", plan.optimizer_bytes))
    for name, size in held:
        table.add_row(name, f"{size:,} bytes ({size / _GIB:.2f} GiB; {size / _GIB / options.devices:.2f} if sharded)")
    if plan.activation_bytes is not None:
        table.add_row("activations", f"roughly {plan.activation_bytes / _GIB:.1f} GiB a device")
    about = "" if plan.exact_text else " (about: no tokenizer at hand)"
    table.add_row(
        "tokens a pair", f"{plan.image_tokens + plan.text_tokens:,}: {plan.image_tokens:,} of images, "
        f"{plan.text_tokens} of text{about}",
    )  # fmt: skip
    table.add_row(
        "global batch",
        f"{recipe.global_batch_size} = {options.devices} device(s) x {recipe.per_device_batch_size} x "
        f"{plan.accumulation} accumulated",
    )
    unknown = "unknown: train_data is a stream or not given"
    table.add_row("samples an epoch", unknown if plan.samples is None else f"{plan.samples:,}{about}")
    most = "" if recipe.patience is None else f", or fewer (patience {recipe.patience})"
    table.add_row("steps", unknown if plan.steps is None else f"{plan.steps:,}{most}{about}")
    table.add_row("operations", f"{plan.flops_per_sample / 1e12:.1f} x 10^12 a sample, training")
    speed = f"at {options.tflops:g} x 10^12 operations a second and device"
    table.add_row("time of a step", f"{plan.step_seconds:.1f} s {speed}")
    if plan.steps is not None:
        table.add_row("time of the run", f"{plan.step_seconds * plan.steps / 3600:.1f} h, without validation")
    return table


class _PlannedTask(CCExpertTask):
    """The data of a task, without its model: captions are dropped and samples made by the code that trains on them."""

    def __init__(self, recipe: CCExpertRecipe, processor: CCExpertProcessor | None):
        self.recipe = recipe
        if processor is None:
            self.caption_filter = _WordFilter(recipe.max_caption_length)
        else:
            self.processor = processor
            self.prepare_words()
        self.training = self._load(recipe.train_data, recipe.train_split, False, "train_data")
        self.samples = self._samples(self.training)

    def choose_samples(self, pixels: PixelSource, captions: list[list[str]]) -> Any:
        """See `PairTask`; keeps them."""
        recipe = self.recipe
        maker: Any = SimpleNamespace(seed=recipe.seed)  # all that counting asks of it
        self.chosen: Any = prompted_samples(recipe.captions, pixels, captions, maker, recipe.captions_per_pair)
        return self.chosen

    def some_captions(self) -> list[str]:
        """Captions of the first samples."""
        chosen = [texts for _, texts in self.chosen.samples[:_SOME_CAPTIONS]]
        return [text for texts in chosen for text in ([texts] if isinstance(texts, str) else texts)]

    def _pixels(self, dataset: Any, where: str, training: bool) -> PixelSource:
        """No image is read."""
        return FromDisk(undecoded(dataset), SimpleNamespace())  # type: ignore[arg-type]


class _WordFilter(CaptionFilter):
    """In place of `PromptedCaptionFilter` where there is no tokenizer yet: words stand for tokens."""

    def __init__(self, max_length: int):
        self.max_length = max_length

    def __call__(self, captions: Sequence[str] | None) -> list[str]:
        """The usable ones of a pair's captions."""
        return [text for text in captions or [] if 0 < _words(text) <= self.max_length]


def _config(recipe: CCExpertRecipe) -> tuple[CCExpertConfig, str, Start | None]:
    """The model's shape, where it comes from, and the checkpoint, if it is there."""
    try:
        start = find_start(recipe)
    except StartMissing as error:
        if recipe.size is None:
            raise RecipeError(f"{str(error).rstrip('.')}; or set size to plan without it.") from error
        reason = "init_from is not given" if recipe.init_from is None else f"{recipe.init_from} is not there yet"
        return (
            CCExpertConfig.preset(recipe.size, **recipe.module_settings),
            f"the paper's {recipe.size} ({reason})",
            None,
        )
    return start.config, f"as {start.path}", start


def _tokens(
    recipe: CCExpertRecipe, config: CCExpertConfig, processor: CCExpertProcessor | None, captions: list[str]
) -> tuple[int, int]:
    """Tokens of a pair's images and text."""
    images = 2 * config.tokens_per_image
    if processor is None:
        asked = f"{SYSTEM_MESSAGE} {recipe.prompt or PAPER_PROMPT}".replace("<image>", "")
        prompt = _CHATML_MARKS + _words(asked)
        lengths = [_words(text) + 1 for text in captions]
    else:
        prompt = len(processor(text=[None], captions=None, return_tensors=None)["input_ids"][0]) - images
        rows = processor.tokenizer(captions, add_special_tokens=False)["input_ids"] if captions else []
        lengths = [len(ids) + 1 for ids in rows]
    return images, prompt + _captions_a_sample(recipe) * _mean(lengths)


def _captions_a_sample(recipe: CCExpertRecipe) -> int:
    return recipe.captions_per_pair or 1 if recipe.captions == "together" else 1


def _words(text: str) -> int:
    return len(re.findall(r"[^\W\d]+|\d|[^\w\s]", text))


def _mean(lengths: list[int]) -> int:
    return round(sum(lengths) / len(lengths)) if lengths else 0


def _steps(
    recipe: CCExpertRecipe, data: _PlannedTask | None, devices: int, accumulation: int
) -> tuple[int | None, int | None]:
    """Samples an epoch and steps of the run."""
    limits = [] if recipe.max_steps is None else [recipe.max_steps]
    samples = None
    if data is not None and data.samples is not None:
        samples = len(data.samples)
        steps = data.batches(0, devices, accumulation).steps_per_epoch
        if recipe.max_epochs is not None and steps is not None:
            limits.append(recipe.max_epochs * steps)
    return samples, min(limits, default=None)


def _bytes(name: str, parameter: torch.Tensor, recipe: CCExpertRecipe) -> int:
    """Of a parameter's weights: float32, or NF4 with a scale for every 64."""
    quantised = (
        recipe.quantization == "4bit"
        and ".layers." in name
        and part_of(name) == "language_model"
        and not parameter.requires_grad
        and parameter.ndim == 2
    )
    return round(parameter.numel() * (0.5 + 1 / 64)) if quantised else 4 * parameter.numel()


def _flops(model: Any, recipe: CCExpertRecipe, tokens: int) -> float:
    """Floating-point operations of one training sample.

    A part whose inputs need no gradient and that has nothing to learn runs forward only. Else it runs backward, once
    for its inputs and once for its own weights where these learn, and forward again with gradient checkpointing.
    """
    config = model.config
    images = torch.empty(
        1, 2, config.vision.num_channels, config.image_size, config.image_size, device="meta", dtype=torch.bfloat16
    )
    embedded = torch.empty(1, tokens, config.text.hidden_size, device="meta", dtype=torch.bfloat16)
    model = model.to(torch.bfloat16)
    counts: dict[str, float] = {}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.get_image_features(images)
        features = counter.get_total_flops()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.vision_tower(images.flatten(0, 1), config.used_levels)
        counts["vision_tower"] = counter.get_total_flops()
    width, inner = config.vision.hidden_size, config.text.hidden_size
    counts["projector"] = 2.0 * 2 * config.tokens_per_image * (width * inner + inner * inner)
    counts["integration"] = features - counts["vision_tower"] - counts["projector"]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        mask = torch.empty(
            1, 1, tokens, tokens, device="meta", dtype=torch.bfloat16
        )  # else transformers looks for one
        model.language_model(inputs_embeds=embedded, attention_mask=mask, use_cache=False)
        counts["language_model"] = counter.get_total_flops()
    model.to(torch.float32)
    total, flows = 0.0, False
    for part in ("vision_tower", "integration", "projector", "language_model"):
        learns = part in recipe.learning_parts
        passes = 1 + flows + learns  # forward, backward to the inputs, backward to the weights
        if learns and not flows:
            passes += 1  # within the part the gradient flows from layer to layer
        if part == "language_model" and recipe.lora_rank is not None:
            passes -= learns  # of adapters the backward pass is next to nothing
        again = recipe.gradient_checkpointing and (flows or learns) and part != "projector"
        total += counts[part] * (passes + again)
        flows = flows or learns
    return total


def _activations(config: CCExpertConfig, recipe: CCExpertRecipe, tokens: int) -> int | None:
    """Bytes that a device keeps: the inputs of checkpointed layers, and one layer's insides while it is recomputed."""
    if not recipe.gradient_checkpointing:
        return None
    text, vision, levels = config.text, config.vision, len(config.used_levels)
    learns = recipe.learning_parts
    patches = 2 * config.tokens_per_image
    kept = text.num_hidden_layers * tokens * text.hidden_size
    inside = tokens * (4 * text.intermediate_size + 6 * text.hidden_size)
    if "vision_tower" in learns:
        kept += vision.num_hidden_layers * patches * vision.hidden_size
    if config.integration and ({"vision_tower", "integration"} & set(learns)):
        kept += levels * 2 * patches * vision.hidden_size * config.num_integration_layers
        inside = max(inside, levels * patches * vision.hidden_size * 24)
    return round(recipe.per_device_batch_size * (4 * kept + 2 * inside))
