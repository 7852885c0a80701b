"""LoRA adapters of CCExpert, by peft: made, saved, loaded, merged.

    python training/adapters.py ADAPTERS OUT [--base BASE]

writes the whole model: that of the adapters in folder ADAPTERS, merged into the one that they were trained on.

The language model gets the adapters; module and projector learn in full and are saved with them.
"""

import argparse
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import BitsAndBytesConfig

from rscc_hf.modeling.configuration_ccexpert import CCExpertConfig
from rscc_hf.modeling.modeling_ccexpert import CCExpertForConditionalGeneration
from rscc_hf.processing.processing_ccexpert import CCExpertProcessor
from rscc_hf.training.ccexpert_recipe import CCExpertRecipe
from rscc_hf.training.ccexpert_start import load_start
from rscc_hf.training.recipe import RecipeError


def quantization(recipe: CCExpertRecipe) -> BitsAndBytesConfig | None:
    """How the language model is quantised; None: not at all.

    Raises:
        RecipeError: bitsandbytes is not installed.
    """
    if recipe.quantization == "none":
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise RecipeError("quantization 4bit needs bitsandbytes: `pip install bitsandbytes`, or set it to none.")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if recipe.mixed_precision == "bf16" else torch.float32,
        llm_int8_skip_modules=CCExpertForConditionalGeneration.full_precision_modules,
    )


def add_adapters(model: CCExpertForConditionalGeneration, recipe: CCExpertRecipe) -> PeftModel:
    """Puts fresh adapters into a frozen model; they change nothing until they are trained.

    Raises:
        RecipeError: No layer of the language model has one of the names.
    """
    assert recipe.lora_rank is not None
    wanted = "|".join(map(re.escape, recipe.lora_target_modules))
    pattern = rf"language_model\..*\.({wanted})"
    if not any(re.fullmatch(pattern, name) for name, _ in model.named_modules()):
        raise RecipeError(f"lora_target_modules {recipe.lora_target_modules}: the language model has no such layers.")
    whole = [name for name in recipe.learning_parts if name != "language_model"]
    config = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=2 * recipe.lora_rank if recipe.lora_alpha is None else recipe.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=recipe.lora_dropout,
        target_modules=pattern,
        modules_to_save=[name for name in whole if getattr(model, name) is not None] or None,
    )
    adapted = get_peft_model(model, config)
    assert isinstance(adapted, PeftModel)
    base = str(model.config.name_or_path)
    adapted.peft_config["default"].base_model_name_or_path = str(Path(base).resolve()) if Path(base).is_dir() else base
    return adapted


def save_adapters(model: Any, folder: Path, state: dict[str, torch.Tensor]) -> None:
    """Writes adapters, module and projector, and the model's configuration.

    Args:
        model: What `add_adapters` gave, a `PeftModel`.
        folder: Is made if need be.
        state: The weights, named as in `model.state_dict()`.
    """
    model.save_pretrained(str(folder), state_dict=state, save_embedding_layers=False)
    base: Any = model.get_base_model()
    base.config.save_pretrained(folder)


def load_adapters(
    folder: str | Path, base: str | None = None, *, trainable: bool = False
) -> tuple[PeftModel, CCExpertProcessor]:
    """The adapted model, as it was trained, and its processor.

    Args:
        folder: What `save_adapters` wrote, with the processor.
        base: Where the model lies that they were trained on, if not where it was then.
        trainable: Whether the adapters can be trained on.

    Raises:
        ValueError: There are no adapters, or the model that they belong to is not there.
    """
    folder = Path(folder)
    if not (folder / "adapter_config.json").is_file():
        raise ValueError(f"{folder} holds no adapters (adapter_config.json is missing): name a run with lora_rank.")
    config: Any = CCExpertConfig.from_pretrained(folder)
    recipe = CCExpertRecipe(
        init_from=base or PeftConfig.from_pretrained(str(folder)).base_model_name_or_path,
        init_weights="best",  # the very folder
        integration=config.integration,
        vision_levels=config.vision_levels,
        num_integration_layers=config.num_integration_layers,
        integration_gate=config.integration_gate,
    )
    model, _ = load_start(recipe)
    adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    return adapted, CCExpertProcessor.from_pretrained(folder)


def merge_adapters(folder: str | Path, output: str | Path, base: str | None = None) -> Path:
    """Writes a whole model, as `from_pretrained` reads it, whose answers are those of the adapted one.

    Args:
        folder: See `load_adapters`.
        output: Folder to write.
        base: See `load_adapters`.

    Raises:
        ValueError: See `load_adapters`; or `output` is the folder of the adapters.
    """
    output = Path(output)
    if output.resolve() == Path(folder).resolve():
        raise ValueError(f"{output} holds the adapters: name another folder for the merged model.")
    model, processor = load_adapters(folder, base)
    merged: Any = model.merge_and_unload()
    merged.save_pretrained(output)
    processor.save_pretrained(output)
    summary = Path(folder) / "training_summary.json"
    if summary.is_file():
        (output / summary.name).write_text(summary.read_text(encoding="utf-8"), encoding="utf-8")
    return output


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; a mistake ends it with one sentence."""
    parser = argparse.ArgumentParser(description="Merges LoRA adapters into a whole CCExpert.")
    parser.add_argument("adapters", help="folder that training with lora_rank wrote")
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--base", help="the model that they were trained on, if it lies elsewhere now")
    given = parser.parse_args(arguments)
    try:
        merge_adapters(given.adapters, given.out, given.base)
    except ValueError as error:
        sys.exit(f"adapters.py: {error}")


if __name__ == "__main__":
    main()
