"""The task of CCExpert's three stages; `stage1.py`, `stage2.py` and `stage3.py` are its scripts."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from rscc_hf.errors import RecipeError
from rscc_hf.formats.records import AdapterBase
from rscc_hf.training.aids.change_mask import change_mask_loss
from rscc_hf.training.engine.batches import Batch
from rscc_hf.training.engine.identity import digest
from rscc_hf.training.engine.loop import OnEvaluation, OnStep, TrainingResult, train
from rscc_hf.training.engine.task import Part
from rscc_hf.training.systems.ccexpert import adapters
from rscc_hf.training.systems.ccexpert.adapter_base import compute_dtype, describe_base
from rscc_hf.training.systems.ccexpert.parts import HEAD, part_of, prepare_to_learn
from rscc_hf.training.systems.ccexpert.recipe import PARTS, CCExpertRecipe
from rscc_hf.training.systems.ccexpert.samples import (
    PromptedBatchMaker,
    PromptedCaptionFilter,
    prompted_samples,
    segment_mask,
)
from rscc_hf.training.systems.ccexpert.start import find_start, load_start
from rscc_hf.training.systems.pairs.pixels import PixelReader, Pixels, PixelSource
from rscc_hf.training.systems.pairs.task import PairTask, learning

logger = logging.getLogger(__name__)

__all__ = ["CCExpertRecipe", "CCExpertTask", "train_ccexpert"]

_CAPTION = "two houses appear"  # any would do


def train_ccexpert(
    recipe: CCExpertRecipe, *, on_step: OnStep | None = None, on_evaluation: OnEvaluation | None = None
) -> TrainingResult[CCExpertRecipe]:
    """Train a stage of CCExpert, or go on with a run.

    Args:
        recipe: The settings. `output_dir` gets a folder that `from_pretrained` reads, with the best weights, and where
            the last ones are others, these in `output_dir/last`.
        on_step: Called after each optimiser step with the steps done, the steps in all and the loss.
        on_evaluation: Called with the scores of each validation.

    Raises:
        RsccError: One sentence that names the key of the recipe (`RecipeError`), the pair or the file (`InputError`)
            or the checkpoint to continue (`CheckpointError`), and the remedy.
        TrainingError: The loss is no longer finite.
    """
    return train(recipe, CCExpertTask, on_step=on_step, on_evaluation=on_evaluation)


class CCExpertTask(PairTask):
    """Model, processor and data that a recipe describes."""

    recipe: CCExpertRecipe
    maker: PromptedBatchMaker

    def __init__(self, recipe: CCExpertRecipe, accelerator: Accelerator):
        super().__init__(recipe, accelerator)
        self.recipe = recipe
        start = find_start(recipe)
        for note in recipe.idle():
            logger.info(note)
        quantized = adapters.quantization(recipe.quantization, compute_dtype(recipe))
        model, self.processor = load_start(recipe, quantized)
        self.base: AdapterBase | None = None
        if recipe.lora_rank is not None and accelerator.is_main_process:  # which writes the model
            self.base = describe_base(start, recipe)
        self.model = prepare_to_learn(model, recipe, start)
        self.prepare_words()
        self.prepare_data(accelerator)

    def prepare_words(self) -> None:
        """Make what turns pairs into prompts, and drops captions, of the processor.

        Raises:
            RecipeError: The processor and the recipe contradict each other.
        """
        recipe = self.recipe
        if recipe.captions == "together" and self.processor.label_policy == "release":
            raise RecipeError("label_policy of init_from is release; set it to assistant for captions together.")
        self.maker = PromptedBatchMaker(
            self.processor, recipe.seed, recipe.augmentation, recipe.max_length, recipe.changed_pixels_share
        )
        self.caption_filter = PromptedCaptionFilter(self.processor.tokenizer, recipe.max_caption_length)

    def parameters_by_part(self) -> dict[str, list[torch.nn.Parameter]]:
        """Return the four parts as far as there are any, and the head of the change-mask loss."""
        groups: dict[str, list[torch.nn.Parameter]] = {name: [] for name in (*PARTS, HEAD)}
        for name, parameter in self.model.named_parameters():
            groups[part_of(name)].append(parameter)
        return {name: group for name, group in groups.items() if group}

    def parts(self) -> list[Part]:
        """Return what of the parts learns, each with its learning rate."""
        rates = {**self.recipe.learning_rates, HEAD: self.recipe.learning_rate}
        parts = [Part(name, learning(group), rates[name]) for name, group in self.parameters_by_part().items()]
        return [part for part in parts if part.parameters]

    def loss(self, model: torch.nn.Module, batch: Batch, targets: int) -> torch.Tensor:
        """See `Task`; with `change_mask_loss` that of the change features is added."""
        weight = self.recipe.change_mask_loss
        inputs = {name: value for name, value in batch.items() if name not in ("change_masks", "segments")}
        if "segments" in batch:
            inputs["attention_mask"] = segment_mask(batch["segments"], self.model.dtype)
        output = model(**inputs, output_change_features=weight > 0, num_items_in_batch=targets)
        if not weight:
            return output.loss
        words = (batch["labels"] != -100).sum(dim=1)
        return output.loss + weight * change_mask_loss(output.change_features, batch["change_masks"], words, targets)

    def save(self, folder: Path) -> None:
        """Write model (or, with LoRA, adapters), processor, and `training_summary.json`."""
        self.save_weights(folder, self.model.state_dict())

    def save_weights(self, folder: Path, weights: dict[str, torch.Tensor]) -> None:
        """See `Task`."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value for name, value in weights.items() if part_of(name) != HEAD}
        if self.base is None:
            self.model.save_pretrained(folder, state_dict=state)
        else:
            adapters.save_adapters(self.model, folder, state, self.base)
        self.processor.save_pretrained(folder)
        self.write_summary(folder)

    def identity(self) -> dict[str, str]:
        """See `PairTask`: also of the prompt as it is written and, with LoRA, of all weights below the adapters.

        (Without LoRA samples of the weights will do: a checkpoint holds all of them.)
        """
        identity = {**super().identity(), "prompt_ids": prompt_digest(self.processor)}
        if self.base is not None:
            identity["init_from_weights"] = self.base.weights
        return identity

    def saved_bytes(self) -> int:
        """See `Task`; with LoRA only of what learns."""
        if self.recipe.lora_rank is None:
            return super().saved_bytes()
        return sum(parameter.nbytes for parameter in learning(self.model.parameters()))

    def sources(self) -> dict[str, tuple[str | None, str | None]]:
        """See `PairTask`."""
        return {"init_from": find_start(self.recipe)[:2]}

    def reader(self, dataset: Any, where: str, training: bool) -> PixelReader:
        """See `PairTask`."""
        masks = training and (self.recipe.change_mask_loss > 0 or self.recipe.changed_pixels_share > 0)
        return PixelReader(self.processor.image_processor, False, True, where, masks)

    def choose_samples(self, pixels: PixelSource, captions: list[list[str]]) -> Any:
        """See `PairTask`."""
        recipe = self.recipe
        return prompted_samples(recipe.captions, pixels, captions, self.maker, recipe.captions_per_pair)

    def asker(self) -> Callable[[Pixels], Batch]:
        """See `PairTask`."""
        return self.maker.ask

    @property
    def generate_options(self) -> dict[str, Any]:
        """See `PairTask`."""
        return {**super().generate_options, "max_new_tokens": self.recipe.max_new_tokens}


def prompt_digest(processor: Any) -> str:
    """Return the digest of a conversation as a CCExpert's processor writes it, and of what of it is learnt."""
    rows = processor(captions=[_CAPTION], padding=False, return_tensors=None)
    return digest([[int(number) for number in rows[name][0]] for name in ("input_ids", "labels")])
