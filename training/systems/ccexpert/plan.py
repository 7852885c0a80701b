"""`--plan` of a stage of CCExpert; see `rscc_hf.training.systems.pairs.plan`.

The model has the shape of `init_from`'s configuration or, where that cannot be read yet, of the paper's preset that
`size` names. Parameters, bytes of weights, gradients and optimiser and tokens of images are exact; so are samples and
steps where the tokenizer is there. Floating-point operations are counted by torch on one sample; hours follow from the
speed that is assumed.
"""

import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from rscc_hf.errors import RecipeError, input_errors
from rscc_hf.modeling.configuration_ccexpert import CCExpertConfig
from rscc_hf.modeling.modeling_ccexpert import CCExpertForConditionalGeneration
from rscc_hf.processing.chat_templates_ccexpert import PAPER_PROMPT, SYSTEM_MESSAGE
from rscc_hf.processing.processing_ccexpert import CCExpertProcessor
from rscc_hf.training.systems.ccexpert.parts import part_of, prepare_to_learn
from rscc_hf.training.systems.ccexpert.recipe import CCExpertRecipe
from rscc_hf.training.systems.ccexpert.start import Start, StartMissing, find_start, start_processor
from rscc_hf.training.systems.ccexpert.task import CCExpertTask
from rscc_hf.training.systems.pairs.plan import Plan, PlannedPairs, PlanOptions, reckon
from rscc_hf.training.systems.pairs.samples import CaptionFilter

_CHATML_MARKS = 13  # tokens of the template around system message, question and answer


def make_plan(recipe: CCExpertRecipe, options: PlanOptions | None = None) -> Plan:
    """Reckon what a run will be.

    Raises:
        RecipeError: The global batch does not divide, or neither `init_from` nor `size` tells the model.
    """
    options = options or PlanOptions()
    recipe.accumulation_steps(options.devices)  # refuses before anything is read
    config, source, start = _config(recipe)
    processor = None if start is None else start_processor(start, recipe)
    with torch.device("meta"):
        model: Any = CCExpertForConditionalGeneration(config)
    task = _PlannedTask(recipe, processor)
    images, texts = _tokens(recipe, config, processor, task.some_captions())
    flops = _flops(model, recipe, images + texts)
    task.model = prepare_to_learn(model, recipe, start)  # a frozen model is asked no gradients
    return reckon(
        task,
        options,
        model=source,
        flops_per_sample=flops,
        weight_bytes=sum(_bytes(name, parameter, recipe) for name, parameter in task.model.named_parameters()),
        activation_bytes=_activations(config, recipe, images + texts),
        image_tokens=images,
        text_tokens=texts,
        exact_text=processor is not None,
    )


class _PlannedTask(PlannedPairs, CCExpertTask):
    """The task of a stage as far as a plan needs it; without a processor words stand for tokens."""

    def __init__(self, recipe: CCExpertRecipe, processor: CCExpertProcessor | None):
        self.recipe: CCExpertRecipe = recipe
        if processor is None:
            absent: Any = SimpleNamespace(
                seed=recipe.seed, image_processor=None, ask=None
            )  # all that counting asks of it
            self.processor = self.maker = absent
            self.caption_filter = _WordFilter(recipe.max_caption_length)
        else:
            self.processor = processor
            self.prepare_words()
        self.plan_data()


class _WordFilter(CaptionFilter):
    """In place of `PromptedCaptionFilter` where there is no tokenizer yet: words stand for tokens."""

    def __init__(self, max_length: int):
        self.max_length = max_length

    def __call__(self, captions: Sequence[str] | None) -> list[str]:
        """Return the usable ones of a pair's captions."""
        return [text for text in captions or [] if 0 < _words(text) <= self.max_length]


def _config(recipe: CCExpertRecipe) -> tuple[CCExpertConfig, str, Start | None]:
    """Return the model's shape, where it comes from, and the checkpoint, if it is there."""
    try:
        start = find_start(recipe)
    except StartMissing as error:
        if recipe.size is None:
            raise RecipeError(f"{str(error).rstrip('.')}; or set size to plan without it.") from error
        reason = "init_from is not given" if recipe.init_from is None else f"{recipe.init_from} is not there yet"
        with input_errors(RecipeError):
            preset = CCExpertConfig.preset(recipe.size, **recipe.module_settings)
        return preset, f"the paper's {recipe.size} ({reason})", None
    return start.config, f"as {start.path}", start


def _tokens(
    recipe: CCExpertRecipe, config: CCExpertConfig, processor: CCExpertProcessor | None, captions: list[str]
) -> tuple[int, int]:
    """Count the tokens of a pair's images and text."""
    images = 2 * config.tokens_per_image
    if processor is None:
        asked = f"{SYSTEM_MESSAGE} {recipe.prompt or PAPER_PROMPT}".replace("<image>", "")
        prompt = _CHATML_MARKS + _words(asked)
        lengths = [_words(text) + 1 for text in captions]
    else:
        prompt = len(processor(text=[None], captions=None, return_tensors=None)["input_ids"][0]) - images
        rows = processor.tokenizer(captions, add_special_tokens=False)["input_ids"] if captions else []
        lengths = [len(ids) + 1 for ids in rows]
    return images, prompt + (recipe.captions_per_pair or 1 if recipe.captions == "together" else 1) * _mean(lengths)


def _words(text: str) -> int:
    return len(re.findall(r"[^\W\d]+|\d|[^\w\s]", text))


def _mean(lengths: list[int]) -> int:
    return round(sum(lengths) / len(lengths)) if lengths else 0


def _bytes(name: str, parameter: torch.Tensor, recipe: CCExpertRecipe) -> int:
    """Count those of a parameter's weights: float32, or NF4 with a scale for every 64."""
    quantised = (
        recipe.quantization == "4bit"
        and ".layers." in name
        and part_of(name) == "language_model"
        and not parameter.requires_grad
        and parameter.ndim == 2
    )
    return round(parameter.numel() * (0.5 + 1 / 64)) if quantised else 4 * parameter.numel()


def _flops(model: Any, recipe: CCExpertRecipe, tokens: int) -> float:
    """Count the floating-point operations of one training sample.

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
    """Count the bytes that a device keeps: inputs of checkpointed layers, one layer's insides when recomputed."""
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
