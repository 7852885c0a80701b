"""LoRA adapters of CCExpert, by peft: made, saved, loaded, merged.

    python training/adapters.py ADAPTERS OUT [--base BASE] [--overwrite]

writes the whole model: that of the adapters in folder ADAPTERS, merged into the one that they were trained on.

The language model gets the adapters; module and projector learn in full and are saved with them.
"""

import argparse
import copy
import dataclasses
import importlib.util
import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

import peft
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import safe_open
from transformers import BitsAndBytesConfig, GenerationConfig

from rscc_hf.checkpoint_folder import CHECKPOINT
from rscc_hf.errors import InputError, RecipeError, RsccError
from rscc_hf.files import new_folder, refuse_input_as_output
from rscc_hf.formats.records import AdapterBase
from rscc_hf.formats.training import TrainingSummary
from rscc_hf.modeling.configuration_ccexpert import CCExpertConfig
from rscc_hf.modeling.modeling_ccexpert import CCExpertForConditionalGeneration
from rscc_hf.processing.processing_ccexpert import CCExpertProcessor
from rscc_hf.reading import reading
from rscc_hf.text import sentence_of
from rscc_hf.training.systems.ccexpert.adapter_base import find_base
from rscc_hf.training.systems.ccexpert.recipe import CCExpertRecipe
from rscc_hf.training.systems.ccexpert.start import Start, check_processor, load_model, read_config, resolve_commit

logger = logging.getLogger(__name__)

MERGED = dataclasses.replace(CHECKPOINT, what="merged model", names=(*CHECKPOINT.names, TrainingSummary.NAME))
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def quantization(kind: str, compute_dtype: str) -> BitsAndBytesConfig | None:
    """Return how the language model is quantised; None: not at all.

    Args:
        kind: "none" or "4bit", see the recipe.
        compute_dtype: Name of the format of its products.

    Raises:
        RecipeError: bitsandbytes is not installed.
    """
    if kind == "none":
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise RecipeError("quantization 4bit needs bitsandbytes; run `pip install bitsandbytes`, or set it to none.")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, compute_dtype),
        llm_int8_skip_modules=CCExpertForConditionalGeneration.full_precision_modules,
    )


def add_adapters(
    model: CCExpertForConditionalGeneration, recipe: CCExpertRecipe, start: Start | None = None
) -> PeftModel:
    """Put fresh adapters into a frozen model; they change nothing until they are trained.

    Args:
        model: The model.
        recipe: The settings.
        start: Where it comes from: parts that this lacks are saved with the adapters, also where they do not learn.

    Raises:
        RecipeError: No layer of the language model has one of the names.
    """
    assert recipe.lora_rank is not None
    wanted = "|".join(map(re.escape, recipe.lora_target_modules))
    pattern = rf"language_model\..*\.({wanted})"
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    found = {match[1] for match in (re.fullmatch(pattern, name) for name in names) if match is not None}
    absent = [name for name in recipe.lora_target_modules if name not in found]
    if absent:
        raise RecipeError(
            f"lora_target_modules {absent}: the language model has no such layers; name others, such as q_proj."
        )
    learning = [name for name in recipe.learning_parts if name != "language_model"]
    new = [] if start is None else [name for name in start.new_parts if name not in learning]
    config = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=2 * recipe.lora_rank if recipe.lora_alpha is None else recipe.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=recipe.lora_dropout,
        target_modules=pattern,
        modules_to_save=[name for name in (*learning, *new) if getattr(model, name) is not None] or None,
        revision=None if start is None else start.commit,
    )
    adapted = get_peft_model(model, config)
    assert isinstance(adapted, PeftModel)
    for name in new:
        getattr(adapted.get_base_model(), name).requires_grad_(False)
    base = str(model.config.name_or_path)
    adapted.peft_config["default"].base_model_name_or_path = str(Path(base).resolve()) if Path(base).is_dir() else base
    return adapted


def save_adapters(model: Any, folder: Path, state: dict[str, torch.Tensor], base: AdapterBase) -> None:
    """Write adapters, module and projector, the model's configuration, and which model they belong to.

    Args:
        model: What `add_adapters` gave, a `PeftModel`.
        folder: Is made if need be.
        state: The weights, named as in `model.state_dict()`.
        base: What the adapters were trained on.
    """
    model.save_pretrained(str(folder), state_dict=state, save_embedding_layers=False)
    whole: Any = model.get_base_model()
    config = copy.deepcopy(whole.config)
    if hasattr(config, "quantization_config"):  # of the model in memory, not of the one that the adapters belong to
        del config.quantization_config
    config.save_pretrained(folder)
    whole.generation_config.save_pretrained(folder)
    base.write(folder)


def load_adapters(
    folder: str | Path, base: str | None = None, *, trainable: bool = False
) -> tuple[PeftModel, CCExpertProcessor]:
    """Load the adapted model, as it was trained, and its processor.

    Args:
        folder: What `save_adapters` wrote, with the processor.
        base: Where the model lies that they were trained on, if not where it was then.
        trainable: Whether the adapters can be trained on.

    Raises:
        InputError: There are no adapters, they are damaged, or their model is not there or another.
        RecipeError: Their model or its processor cannot be read.
    """
    return _load(Path(folder).expanduser(), base, trainable=trainable)


def merge_adapters(
    folder: str | Path, output: str | Path, base: str | None = None, *, overwrite: bool = False
) -> Path:
    """Write a whole model, as `from_pretrained` reads it, whose answers are those of the adapted one.

    Args:
        folder: See `load_adapters`.
        output: Folder to write.
        base: See `load_adapters`.
        overwrite: Whether a model that was merged there before is replaced; see `files.check_replaceable`.

    Raises:
        RsccError: See `load_adapters`; or `output` is not to be replaced, or is what is read.
    """
    folder, output = Path(folder).expanduser(), Path(output).expanduser()
    if output.resolve() == folder.resolve():
        raise InputError(f"{output} holds the adapters; name another folder for the merged model.")
    record = AdapterBase.read(folder)
    named = [record.path] if record is not None and record.commit is None else []
    refuse_input_as_output(output, [folder, *named, *([] if base is None else [Path(base).expanduser()])])
    with new_folder(output, overwrite=overwrite, kind=MERGED) as work:
        model, processor = _load(folder, base, dequantize=True)
        merged: Any = model.merge_and_unload(safe_merge=True)  # raises where the sum is not finite
        merged.save_pretrained(work)
        processor.save_pretrained(work)
        summary = folder / TrainingSummary.NAME
        if summary.is_file():
            (work / summary.name).write_text(summary.read_text(encoding="utf-8"), encoding="utf-8")
    return output


def _load(
    folder: Path, base: str | None, *, trainable: bool = False, dequantize: bool = False
) -> tuple[PeftModel, CCExpertProcessor]:
    settings = _check_files(folder)
    record = AdapterBase.read(folder)
    if record is not None:
        path, commit = find_base(record, folder, base)
        kind, quantized = record.kind, quantization(record.quantization, record.compute_dtype)
    elif base is None:
        raise InputError(
            f"{folder / AdapterBase.NAME} is missing, which says what the adapters were trained on "
            f"({settings.base_model_name_or_path}?); name that model (--base)."
        )
    else:
        logger.warning(
            "%s is missing: nobody can tell whether %s is what the adapters belong to", AdapterBase.NAME, base
        )
        path, quantized = str(Path(base).expanduser()), None
        commit = resolve_commit(path, settings.revision)
        kind = read_config(path, commit).model_type
    with reading(f"adapters {folder}"):
        config: Any = CCExpertConfig.from_pretrained(folder)
        processor = CCExpertProcessor.from_pretrained(folder)
    check_processor(processor, Start(str(folder), None, "ccexpert", config))
    start = Start(path, commit, kind, config)
    model: Any = load_model(start, config.text.vocab_size, quantized)
    if dequantize and quantized is not None:  # adapters that are merged into NF4 itself would be rounded once more
        weights = model.dequantize().state_dict()
        model = load_model(start, config.text.vocab_size)
        model.load_state_dict(weights)
    with reading(f"adapters {folder}"):
        model.generation_config = GenerationConfig.from_pretrained(folder)
        adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
        _check_complete(adapted, folder)
    return adapted, processor


def _check_files(folder: Path) -> PeftConfig:
    """Check that a folder holds adapters that can be loaded, and nothing against them; give their settings."""
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder} holds no adapters ({CONFIG} is missing); name a run with lora_rank.")
    if (folder / "model.safetensors").is_file() or (folder / "model.safetensors.index.json").is_file():
        raise InputError(f"{folder} holds a whole model and adapters ({CONFIG}), one left by an older run; remove it.")
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder} holds no {WEIGHTS}: the adapters are incomplete; train them again.")
    with reading(f"adapters {folder}"):
        settings = PeftConfig.from_pretrained(str(folder))
        if not isinstance(settings, LoraConfig):
            raise InputError(f"its {CONFIG} is of {settings.peft_type} and not of LoRA")
        known = {field.name for field in dataclasses.fields(settings)}
        for name, value in json.loads((folder / CONFIG).read_text(encoding="utf-8")).items():
            if value and name not in known:  # peft would go on without it, with a warning
                raise InputError(
                    f"its {CONFIG} has {name}, which peft {peft.__version__} does not know, so upgrade it"
                )
    return settings


def _check_complete(adapted: PeftModel, folder: Path) -> None:
    """Refuse a file that lacks something, which peft would leave at random, with a warning."""
    wanted = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    with safe_open(folder / WEIGHTS, framework="pt") as weights:
        found = set(weights.keys())
    if wanted != found:
        what = "lacks" if wanted - found else "has too much:"
        raise InputError(f"its {WEIGHTS} {what} {sorted(wanted ^ found)[0]}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a mistake ends it with one sentence."""
    parser = argparse.ArgumentParser(description="Merges LoRA adapters into a whole CCExpert.")
    parser.add_argument("adapters", help="folder that training with lora_rank wrote")
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--base", help="the model that they were trained on, if it lies elsewhere now")
    parser.add_argument("--overwrite", action="store_true", help="replace a model that was merged there before")
    given = parser.parse_args(arguments)
    try:
        merge_adapters(given.adapters, given.out, given.base, overwrite=given.overwrite)
    except (RsccError, OSError) as error:
        sys.exit(f"adapters.py: {sentence_of(error)}")
