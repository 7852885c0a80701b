"""Trains MModalCC on pairs of images and their semantic maps.

    accelerate launch training/mmodalcc.py --config training/recipes/mmodalcc_second_cc.yaml --train_data DATA
    accelerate launch --num_processes 4 training/mmodalcc.py --config training/recipes/mmodalcc_second_cc.yaml \
        --train_data DATA --per_device_batch_size 7 --learning_rate 5e-6

`--help` lists every key. The same in a program: `train_mmodalcc(MModalCCRecipe(train_data=..., ...))`.
"""

import json
import logging
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset, IterableDataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rscc_hf.data.loading import captions_of, load_pairs, split_names
from rscc_hf.data.vocabulary import build_word_tokenizer
from rscc_hf.modeling.modeling_mmodalcc import MModalCCForConditionalGeneration, load_backbone_weights
from rscc_hf.processing.image_processing_mmodalcc import MModalCCImageProcessor
from rscc_hf.processing.processing_mmodalcc import MModalCCProcessor
from rscc_hf.training.batches import Batch, BatchSource, IndexedBatches, IndexedSamples
from rscc_hf.training.loop import OnEvaluation, OnStep, TrainingResult, train
from rscc_hf.training.mmodalcc_recipe import MModalCCRecipe
from rscc_hf.training.pair_images import MAPS, FromDisk, InMemory, PixelReader, PixelSource, undecoded
from rscc_hf.training.recipe import RecipeError, parse_recipe
from rscc_hf.training.samples import (
    BatchMaker,
    CaptionFilter,
    ChosenSamples,
    FewerUnchanged,
    FlattenedSamples,
    StreamedSamples,
)
from rscc_hf.training.stream import StreamBatches
from rscc_hf.training.task import Part, Task
from rscc_hf.training.validation import ValidationPairs, Validator, spread

__all__ = ["MModalCCRecipe", "MModalCCTask", "train_mmodalcc"]

logger = logging.getLogger(__name__)


def train_mmodalcc(
    recipe: MModalCCRecipe, *, on_step: OnStep | None = None, on_evaluation: OnEvaluation | None = None
) -> TrainingResult[MModalCCRecipe]:
    """Trains MModalCC, or goes on with a run.

    Args:
        recipe: The settings; `output_dir` gets a folder that `from_pretrained` reads, with the best weights.
        on_step: Called after each optimiser step with the steps done, the steps in all and the loss.
        on_evaluation: Called with the scores of each validation.

    Raises:
        ValueError: One sentence that names the key of the recipe, the pair or the file, and the remedy.
        TrainingError: The loss is no longer finite.
    """
    return train(recipe, MModalCCTask, on_step=on_step, on_evaluation=on_evaluation)


class MModalCCTask(Task):
    """Model, processor and data that a recipe describes."""

    model: MModalCCForConditionalGeneration

    def __init__(self, recipe: MModalCCRecipe, accelerator: Accelerator):
        self.recipe = recipe
        self.validator: Validator | None = None
        with accelerator.main_process_first():  # the others find what `datasets` has prepared
            self.training = self._load(recipe.train_data, recipe.train_split, recipe.streaming, "train_data")
            self.tokenizer = self._tokenizer()
        self.processor = MModalCCProcessor(self._image_processor(), self.tokenizer)
        self.model = self._model()
        self.maker = BatchMaker(
            self.processor, recipe.augmentation, recipe.semantic_dropout, recipe.seed, recipe.coverage
        )
        self.captions = CaptionFilter(self.tokenizer, recipe.max_caption_length)
        self.samples = None if isinstance(self.training, IterableDataset) else self._samples(self.training)
        if recipe.eval_unit != "never":
            with accelerator.main_process_first():
                where = recipe.validation_data or recipe.train_data
                validation = self._load(where, recipe.validation_split, False, "validation_data")
            self.validator = self._validator(validation)

    def parts(self) -> list[Part]:
        """The paper's parts: both ResNets, the feature enhancement, the decoder with the output projection."""
        recipe, model = self.recipe, self.model
        backbones = [parameter for backbone in model.backbones().values() for parameter in backbone.parameters()]
        enhancement = list(model.encoder.enhancement.parameters())
        known = {id(parameter) for parameter in [*backbones, *enhancement]}
        decoder = [parameter for parameter in model.parameters() if id(parameter) not in known]
        clamp = recipe.gradient_clamp
        parts = [
            Part("encoder", backbones, _rate(recipe.encoder_learning_rate, recipe), clamp=clamp),
            Part("enhancement", enhancement, _rate(recipe.enhancement_learning_rate, recipe)),
            Part("decoder", decoder, _rate(recipe.decoder_learning_rate, recipe), clamp=clamp, decays=True),
        ]
        for part in parts:
            part.parameters = [parameter for parameter in part.parameters if parameter.requires_grad]
        return [part for part in parts if part.parameters]

    def batches(self, process: int, processes: int, accumulation_steps: int) -> BatchSource:
        """See `Task`."""
        recipe = self.recipe
        common: dict[str, Any] = {
            "seed": recipe.seed,
            "per_device_batch_size": recipe.per_device_batch_size,
            "accumulation_steps": accumulation_steps,
            "process": process,
            "processes": processes,
            "num_workers": recipe.num_workers,
        }
        if self.samples is not None:
            return IndexedBatches(self.samples, **common)
        assert isinstance(self.training, IterableDataset)
        reader = self._reader(self.training, str(recipe.train_data), bool(recipe.coverage))
        streamed = StreamedSamples(reader, self.captions, self.maker, recipe.captions_per_sample)
        return StreamBatches(
            self.training,
            streamed.batch,
            usable=streamed.usable,
            shuffle_buffer=recipe.stream_shuffle_buffer,
            **common,
        )

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

    def validate(self, accelerator: Accelerator) -> dict[str, float]:
        """See `Task`."""
        assert self.validator is not None  # the loop asks only where the recipe evaluates
        return self.validator(self.model, accelerator)

    def save(self, folder: Path) -> None:
        """Model, processor, and `training_summary.json`: what kind of images the model has seen."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        summary = {"trained_on": self._trained_on(), "data": self.recipe.train_data, "split": self.recipe.train_split}
        (folder / "training_summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")

    def close(self) -> None:
        """See `Task`."""
        if self.validator is not None:
            self.validator.close()

    def _load(self, where: str | None, split: str, streaming: bool, key: str) -> Any:
        if where is None:
            raise RecipeError(f"{key} is not given: name a folder or Hub id of pairs.")
        local = Path(where).expanduser().exists()
        return load_pairs(
            where,
            split,
            streaming=streaming,
            semantic_coverage=self.recipe.semantic_coverage,
            revision=None if local else self.recipe.data_revision,
        )

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        recipe = self.recipe
        if recipe.tokenizer is None:
            return build_word_tokenizer(self._vocabulary_captions(), recipe.vocabulary_min_frequency)
        tokenizer = AutoTokenizer.from_pretrained(recipe.tokenizer)
        for name in ("pad_token", "bos_token", "eos_token"):
            if getattr(tokenizer, name) is None:
                raise RecipeError(f"tokenizer {recipe.tokenizer} has no {name}: `rscc data vocabulary` makes one.")
        return tokenizer

    def _vocabulary_captions(self) -> Iterable[str]:
        recipe = self.recipe
        assert recipe.train_data is not None
        revision = None if Path(recipe.train_data).expanduser().exists() else recipe.data_revision
        splits = recipe.vocabulary_splits
        for split in split_names(recipe.train_data, revision=revision) if splits == ["all"] else splits:
            yield from captions_of(load_pairs(recipe.train_data, split, streaming=recipe.streaming, revision=revision))

    def _image_processor(self) -> MModalCCImageProcessor:
        recipe = self.recipe
        if recipe.normalize_images and recipe.num_channels != 3:
            raise RecipeError(
                f"normalize_images uses ImageNet's three channels and num_channels is {recipe.num_channels}: set "
                "normalize_images to false."
            )
        processor: Any = MModalCCImageProcessor  # its settings are keywords that no signature lists
        return processor(
            size={"height": recipe.image_size, "width": recipe.image_size},
            do_normalize=recipe.normalize_images,
            semantic_resample={"nearest": 0, "bilinear": 2}[recipe.semantic_resample],
            num_channels=recipe.num_channels,
            semantic_num_channels=recipe.semantic_num_channels,
        )

    def _model(self) -> MModalCCForConditionalGeneration:
        recipe, tokenizer = self.recipe, self.tokenizer
        config = recipe.model_config(
            len(tokenizer), tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id
        )
        model = MModalCCForConditionalGeneration(config)
        model.set_attn_implementation(recipe.attn_implementation)
        load_backbone_weights(model, rgb=recipe.backbone_weights_rgb, semantic=recipe.backbone_weights_semantic)
        frozen = [stage for stage in recipe.frozen_stages if stage != "none"]
        if frozen:
            model.freeze_backbone(frozen, freeze_statistics=recipe.freeze_statistics)
        if recipe.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return model

    def _reader(self, dataset: Dataset | IterableDataset, where: str, masks: bool) -> PixelReader:
        recipe = self.recipe
        maps = recipe.modalities != "rgb"
        missing = [name for name in MAPS if name not in (dataset.column_names or MAPS)]
        if maps and missing and not recipe.semantics_optional:
            raise RecipeError(
                f"{where} has no column {missing[0]}: set modalities to rgb, or semantics_optional to true."
            )
        image_processor = self.processor.image_processor
        return PixelReader(image_processor, maps, recipe.semantics_optional, where, masks)

    def _pixels(self, dataset: Dataset, where: str, masks: bool = False) -> PixelSource:
        pixels = FromDisk(undecoded(dataset), self._reader(dataset, where, masks))
        return InMemory(pixels) if self.recipe.cache == "memory" else pixels

    def _samples(self, dataset: Dataset) -> IndexedSamples:
        recipe = self.recipe
        captions = [self.captions(texts) for texts in dataset["captions"]]
        unusable = sum(not texts for texts in captions)
        if unusable:
            logger.warning("%d of %d training pairs have no usable caption: left out", unusable, len(captions))
        pixels = self._pixels(dataset, str(recipe.train_data), masks=bool(recipe.coverage))
        samples: FlattenedSamples | ChosenSamples
        if recipe.captions == "flatten":
            samples = FlattenedSamples(pixels, captions, self.maker, recipe.captions_per_pair)
        else:
            samples = ChosenSamples(pixels, captions, self.maker, recipe.captions_per_sample)
        if recipe.unchanged_share == 1:
            return samples
        changed = dataset["changed"]
        return FewerUnchanged(
            samples, [changed[pair] for pair, _ in samples.samples], recipe.unchanged_share, recipe.seed
        )

    def _validator(self, dataset: Dataset) -> Validator:
        recipe = self.recipe
        where = str(recipe.validation_data or recipe.train_data)
        chosen = dataset.select(spread(len(dataset), recipe.max_validation_pairs))
        pixels = self._pixels(chosen, where)

        def batch(indices: Any) -> Batch:
            images, maps, present, _ = pixels.get(indices)
            inputs = dict(self.processor(images, semantic_maps=maps, return_tensors="pt", white_to_void=False))
            if maps is not None:
                inputs["semantic_present"] = present
            return inputs

        return Validator(
            ValidationPairs(chosen["pair_id"], chosen["captions"], chosen["changed"], batch),
            lambda ids: self.processor.batch_decode(ids, skip_special_tokens=True),
            batch_size=recipe.validation_batch_size,
            meteor=recipe.metric_for_best == "s_m",
            num_workers=recipe.num_workers,
            num_beams=recipe.num_beams,
            do_sample=False,
        )

    def _trained_on(self) -> str:
        """The sources of the training pairs, the most frequent first; of a stream the data set's name."""
        if isinstance(self.training, IterableDataset):
            return str(self.recipe.train_data)
        return ", ".join(source for source, _ in Counter(self.training["source"]).most_common())


def _rate(own: float | None, recipe: MModalCCRecipe) -> float:
    return recipe.learning_rate if own is None else own


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; a mistake in the recipe or the data ends it with one sentence."""
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    for name in ("httpx", "datasets", "filelock"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        recipe = parse_recipe(MModalCCRecipe, arguments)
        result = train_mmodalcc(recipe)
    except ValueError as error:
        sys.exit(f"mmodalcc.py: {error}")
    state = result.state
    best = "" if state.best is None else f"; best {recipe.metric_for_best} {state.best:.2f} at step {state.best_step}"
    logger.info("%s: %d steps, %d epochs%s", result.output_dir, state.step, state.epoch, best)


if __name__ == "__main__":
    main()
