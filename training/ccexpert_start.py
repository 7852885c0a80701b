"""What a stage of CCExpert starts from: a checkpoint of ours, or of the LLaVA family, with its processor."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from rscc_hf.modeling.configuration_ccexpert import CCExpertConfig, qwen2_config
from rscc_hf.modeling.loading_ccexpert import translate_config
from rscc_hf.modeling.modeling_ccexpert import CCExpertForConditionalGeneration
from rscc_hf.processing.chat_templates_ccexpert import prepare_tokenizer
from rscc_hf.processing.processing_ccexpert import CCExpertProcessor
from rscc_hf.training.ccexpert_recipe import CCExpertRecipe
from rscc_hf.training.output import LAST
from rscc_hf.training.recipe import RecipeError


def start_path(recipe: CCExpertRecipe) -> str:
    """`init_from`, or the last weights in it.

    Raises:
        RecipeError: It is not given, or is a folder without a checkpoint.
    """
    where = recipe.init_from
    if where is None:
        raise RecipeError("init_from is not given: name a CCExpert, a LLaVA-OneVision or a LLaVA-1.5 to start from.")
    folder = Path(where).expanduser()
    if not folder.is_dir():
        if folder.is_absolute() or where.startswith((".", "~")) or where.count("/") > 1:
            raise RecipeError(f"init_from {where}: there is no such folder; has the stage before been run?")
        return where
    if recipe.init_weights == "last" and (folder / LAST / "config.json").is_file():
        folder = folder / LAST
    if (folder / "adapter_config.json").is_file():
        raise RecipeError(
            f"init_from {folder} holds adapters: write a whole model with `python training/adapters.py {folder} OUT`."
        )
    if not (folder / "config.json").is_file():
        raise RecipeError(f"init_from {folder} holds no checkpoint (config.json is missing): name a finished run.")
    return str(folder)


def start_config(recipe: CCExpertRecipe) -> CCExpertConfig:
    """The configuration that training starts with, read without the weights.

    Raises:
        RecipeError: There is no such checkpoint, it is of another family or size, or contradicts the recipe.
    """
    path = start_path(recipe)
    try:
        source: Any = AutoConfig.from_pretrained(path, revision=recipe.init_revision)
    except (OSError, ValueError) as error:
        raise RecipeError(f"init_from {path} cannot be read ({str(error).splitlines()[0]})") from error
    if source.model_type in ("llava_onevision", "llava"):
        config = translate_config(CCExpertConfig, source, recipe.module_settings)
    elif source.model_type == "ccexpert":
        config = source
        for name, value in recipe.module_settings.items():
            if getattr(config, name) != value:
                raise RecipeError(
                    f"{name} is {value} in the recipe and {getattr(config, name)} in {path}: set it to null, or start "
                    "from a LLaVA."
                )
    else:
        raise RecipeError(f"init_from {path} is a {source.model_type}: name a ccexpert, llava_onevision or llava.")
    if recipe.size is not None:
        wanted, found = qwen2_config(recipe.size), config.text
        for name in ("hidden_size", "num_hidden_layers", "intermediate_size"):
            if getattr(found, name, None) != getattr(wanted, name):
                raise RecipeError(
                    f"size is {recipe.size} and init_from {path} has a language model of {name} "
                    f"{getattr(found, name, None)}, not {getattr(wanted, name)}: set size to null or to its own."
                )
    return config


def load_start(
    recipe: CCExpertRecipe, quantization_config: Any = None
) -> tuple[CCExpertForConditionalGeneration, CCExpertProcessor]:
    """Model (float32 master weights) and processor that a recipe starts from.

    Args:
        recipe: `init_from` and the settings of module, prompt and labels.
        quantization_config: transformers' `BitsAndBytesConfig`; None: no quantisation.

    Raises:
        ValueError: One sentence that names the key or the checkpoint, and the remedy.
    """
    config = start_config(recipe)
    path = start_path(recipe)
    options: dict[str, Any] = {
        "dtype": torch.float32,
        "revision": recipe.init_revision,
        "attn_implementation": recipe.attn_implementation,
    }
    if quantization_config is not None:
        options["quantization_config"] = quantization_config
    settings = {
        name: value
        for name, value in (("prompt", recipe.prompt), ("label_policy", recipe.label_policy))
        if value is not None
    }
    kind = AutoConfig.from_pretrained(path, revision=recipe.init_revision).model_type
    if kind == "ccexpert":
        loaded: Any = CCExpertForConditionalGeneration.from_pretrained(path, output_loading_info=True, **options)
        model, info = loaded
        absent = sorted([*info["missing_keys"], *info["unexpected_keys"]])
        if absent:
            raise RecipeError(f"init_from {path} has missing or foreign weights, first {absent[0]}: give a whole one.")
        processor = CCExpertProcessor.from_pretrained(path, revision=recipe.init_revision or "main")
        for name, value in settings.items():
            setattr(processor, name, value)
    else:
        load = getattr(
            CCExpertForConditionalGeneration, "from_llava_onevision" if kind == "llava_onevision" else "from_llava"
        )
        torch.manual_seed(recipe.seed)  # the module's weights
        model = load(path, **recipe.module_settings, **options)
        tokenizer = AutoTokenizer.from_pretrained(path, revision=recipe.init_revision)
        prepare_tokenizer(tokenizer, "chatml" if kind == "llava_onevision" else "vicuna")
        if len(tokenizer) > config.text.vocab_size:
            model.resize_token_embeddings(len(tokenizer))
        processor = CCExpertProcessor.for_config(model.config, tokenizer, **settings)
    return model, processor
