"""Model, processor and data of a run of MModalCC."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset, IterableDataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rscc_hf.data.loading import captions_of, load_pairs, split_names
from rscc_hf.data.schema import MAPS
from rscc_hf.data.vocabulary import build_word_tokenizer
from rscc_hf.errors import RecipeError, input_errors
from rscc_hf.modeling.modeling_mmodalcc import MModalCCForConditionalGeneration, load_backbone_weights
from rscc_hf.processing.change_pair_reader import PairPixels
from rscc_hf.processing.image_processing_mmodalcc import MModalCCImageProcessor
from rscc_hf.processing.processing_mmodalcc import MModalCCProcessor
from rscc_hf.reading import reading
from rscc_hf.training.engine.batches import Batch
from rscc_hf.training.engine.loop import OnEvaluation, OnStep, TrainingResult, train
from rscc_hf.training.engine.task import Part
from rscc_hf.training.systems.mmodalcc.recipe import MModalCCRecipe
from rscc_hf.training.systems.pairs.pixels import PixelReader, Pixels, PixelSource
from rscc_hf.training.systems.pairs.samples import BatchMaker, CaptionFilter, ChosenSamples, FlattenedSamples
from rscc_hf.training.systems.pairs.task import PairTask, learning


def train_mmodalcc(
    recipe: MModalCCRecipe, *, on_step: OnStep | None = None, on_evaluation: OnEvaluation | None = None
) -> TrainingResult[MModalCCRecipe]:
    """Train MModalCC, or go on with a run.

    Args:
        recipe: The settings; `output_dir` gets a folder that `from_pretrained` reads, with the best weights.
        on_step: Called after each optimiser step with the steps done, the steps in all and the loss.
        on_evaluation: Called with the scores of each validation.

    Raises:
        RsccError: One sentence that names the key of the recipe (`RecipeError`), the pair or the file (`InputError`)
            or the checkpoint to continue (`CheckpointError`), and the remedy.
        TrainingError: The loss is no longer finite.
    """
    return train(recipe, MModalCCTask, on_step=on_step, on_evaluation=on_evaluation)


class MModalCCTask(PairTask):
    """Model, processor and data that a recipe describes."""

    recipe: MModalCCRecipe
    model: MModalCCForConditionalGeneration

    def __init__(self, recipe: MModalCCRecipe, accelerator: Accelerator):
        super().__init__(recipe, accelerator)
        self.recipe = recipe
        with accelerator.main_process_first():  # the others find what `datasets` has prepared
            self.prepare_words()
        self.model = self.build_model()
        self.load_backbones()
        self.prepare_data(accelerator)

    def prepare_words(self) -> None:
        """Make what turns pairs into micro-batches and drops captions: tokenizer, processor, and what they serve.

        Raises:
            RecipeError: The tokenizer cannot be read, or the recipe contradicts itself.
        """
        recipe = self.recipe
        self.tokenizer = self._tokenizer()
        self.processor = MModalCCProcessor(self._image_processor(), self.tokenizer)
        self.maker = BatchMaker(
            self.processor, recipe.augmentation, recipe.semantic_dropout, recipe.seed, recipe.coverage
        )
        self.caption_filter = CaptionFilter(self.tokenizer, recipe.max_caption_length)

    def parameters_by_part(self) -> dict[str, list[torch.nn.Parameter]]:
        """Return the paper's parts: both ResNets, the feature enhancement, the decoder with the output projection."""
        model = self.model
        backbones = [parameter for backbone in model.backbones().values() for parameter in backbone.parameters()]
        enhancement = list(model.encoder.enhancement.parameters())
        known = {id(parameter) for parameter in [*backbones, *enhancement]}
        decoder = [parameter for parameter in model.parameters() if id(parameter) not in known]
        return {"encoder": backbones, "enhancement": enhancement, "decoder": decoder}

    def parts(self) -> list[Part]:
        """Return what of the paper's parts learns."""
        recipe = self.recipe
        learns = {name: learning(group) for name, group in self.parameters_by_part().items()}
        clamp = recipe.gradient_clamp
        parts = [
            Part("encoder", learns["encoder"], _rate(recipe.encoder_learning_rate, recipe), clamp=clamp),
            Part("enhancement", learns["enhancement"], _rate(recipe.enhancement_learning_rate, recipe)),
            Part("decoder", learns["decoder"], _rate(recipe.decoder_learning_rate, recipe), clamp=clamp, decays=True),
        ]
        return [part for part in parts if part.parameters]

    def loss(self, model: torch.nn.Module, batch: Batch, targets: int) -> torch.Tensor:
        """See `Task`. Label smoothing is the recipe's, not the model's."""
        if self.recipe.label_smoothing == 0:
            return super().loss(model, batch, targets)
        logits = model(**batch).logits
        total = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1),
            batch["labels"].flatten(),
            reduction="sum",
            label_smoothing=self.recipe.label_smoothing,
        )
        return total / targets

    def save(self, folder: Path) -> None:
        """Write model, processor, and `training_summary.json`: what kind of images the model has seen."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        self.write_summary(folder)

    def sources(self) -> dict[str, tuple[str | None, str | None]]:
        """See `PairTask`."""
        keys = ("backbone_weights_rgb", "backbone_weights_semantic")
        return {key: (getattr(self.recipe, key), None) for key in keys}

    @property
    def load_options(self) -> dict[str, Any]:
        """See `PairTask`."""
        return {"semantic_coverage": self.recipe.semantic_coverage}

    @property
    def captions_per_sample(self) -> int:
        """See `PairTask`."""
        return self.recipe.captions_per_sample

    def reader(self, dataset: Dataset | IterableDataset, where: str, training: bool) -> PixelReader:
        """See `PairTask`.

        Raises:
            RecipeError: The model needs maps, and the data set has no column of them.
        """
        recipe = self.recipe
        maps = recipe.modalities != "rgb"
        missing = [name for name in MAPS if name not in (dataset.column_names or MAPS)]
        if maps and missing and not recipe.semantics_optional:
            raise RecipeError(
                f"{where} has no column {missing[0]}; set modalities to rgb, or semantics_optional to true."
            )
        masks = training and bool(recipe.coverage)
        return PixelReader(self.processor.image_processor, maps, recipe.semantics_optional, where, masks)

    def choose_samples(self, pixels: PixelSource, captions: list[list[str]]) -> Any:
        """See `PairTask`."""
        recipe = self.recipe
        if recipe.captions == "flatten":
            return FlattenedSamples(pixels, captions, self.maker, recipe.captions_per_pair)
        return ChosenSamples(pixels, captions, self.maker, recipe.captions_per_sample)

    def asker(self) -> Callable[[Pixels], Batch]:
        """See `PairTask`."""
        return partial(_ask, self.processor.image_processor)

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        recipe = self.recipe
        if recipe.tokenizer is None:
            return build_word_tokenizer(self._vocabulary_captions(), recipe.vocabulary_min_frequency)
        remedy = "name a folder or an id on the Hub; `rscc data vocabulary` makes one"
        with reading(f"tokenizer {recipe.tokenizer}", remedy):
            tokenizer = AutoTokenizer.from_pretrained(recipe.tokenizer)
        for name in ("pad_token", "bos_token", "eos_token"):
            if getattr(tokenizer, name) is None:
                raise RecipeError(f"tokenizer {recipe.tokenizer} has no {name}; `rscc data vocabulary` makes one.")
        return tokenizer

    def _vocabulary_captions(self) -> Iterable[str]:
        recipe = self.recipe
        assert recipe.train_data is not None
        revision = self.data_revision_of(recipe.train_data)
        splits = recipe.vocabulary_splits
        for split in split_names(recipe.train_data, revision=revision) if splits == ["all"] else splits:
            yield from captions_of(load_pairs(recipe.train_data, split, streaming=recipe.streaming, revision=revision))

    def _image_processor(self) -> MModalCCImageProcessor:
        recipe = self.recipe
        if recipe.normalize_images and recipe.num_channels != 3:
            raise RecipeError(
                f"normalize_images uses ImageNet's three channels and num_channels is {recipe.num_channels}; set "
                "normalize_images to false."
            )
        processor: Any = MModalCCImageProcessor  # its settings are keywords that no signature lists
        with input_errors(RecipeError):
            return processor(
                size={"height": recipe.image_size, "width": recipe.image_size},
                do_normalize=recipe.normalize_images,
                semantic_resample={"nearest": 0, "bilinear": 2}[recipe.semantic_resample],
                num_channels=recipe.num_channels,
                semantic_num_channels=recipe.semantic_num_channels,
                value_range=recipe.value_range,
            )

    def build_model(self) -> MModalCCForConditionalGeneration:
        """Return a new model, with what the recipe freezes frozen."""
        recipe, tokenizer = self.recipe, self.tokenizer
        config = recipe.model_config(
            len(tokenizer), tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id
        )
        model = MModalCCForConditionalGeneration(config)
        with input_errors(RecipeError, f"attn_implementation {recipe.attn_implementation}"):
            model.set_attn_implementation(recipe.attn_implementation)
        frozen = [stage for stage in recipe.frozen_stages if stage != "none"]
        if frozen:
            with input_errors(RecipeError, "frozen_stages"):
                model.freeze_backbone(frozen, freeze_statistics=recipe.freeze_statistics)
        if recipe.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return model

    def load_backbones(self) -> None:
        """Give the ResNets the weights that they start from, if any.

        Raises:
            RecipeError: They cannot be read.
        """
        for stream in ("rgb", "semantic"):
            key = f"backbone_weights_{stream}"
            where = getattr(self.recipe, key)
            with reading(f"{key} {where}", "name a ResNet, as a folder or an id on the Hub that can be reached"):
                load_backbone_weights(self.model, **{stream: where})


def _ask(processor: MModalCCImageProcessor, pixels: Pixels) -> Batch:
    return processor.normalize_pairs(PairPixels(pixels.images, pixels.maps, pixels.present))


def _rate(own: float | None, recipe: MModalCCRecipe) -> float:
    return recipe.learning_rate if own is None else own
