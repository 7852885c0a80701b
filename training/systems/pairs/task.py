"""A task on pairs of images: everything that does not depend on the model."""

import logging
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset, IterableDataset

from rscc_hf.data.digest import data_digest
from rscc_hf.data.images import undecoded
from rscc_hf.data.loading import load_pairs, stream_digest
from rscc_hf.data.schema import UNKNOWN_SOURCE
from rscc_hf.errors import RecipeError
from rscc_hf.formats.training import TrainingSummary
from rscc_hf.processing.change_pair_writer import CaptionWriter
from rscc_hf.training.engine.backend import Backend
from rscc_hf.training.engine.batches import Batch, BatchSource, IndexedBatches, IndexedSamples
from rscc_hf.training.engine.identity import sources_identity, tokenizer_digest
from rscc_hf.training.engine.stream import StreamBatches
from rscc_hf.training.engine.task import Task
from rscc_hf.training.systems.pairs import first_look
from rscc_hf.training.systems.pairs.pixels import FromDisk, InMemory, PixelReader, PixelSource
from rscc_hf.training.systems.pairs.recipe import PairRecipe
from rscc_hf.training.systems.pairs.samples import CaptionFilter, FewerUnchanged, SampleMaker, StreamedSamples
from rscc_hf.training.systems.pairs.validation import ValidationPairs, Validator, spread

logger = logging.getLogger(__name__)


class PairTask(Task):
    """Loads the pairs of a recipe, makes its batches and validates by generation.

    A subclass sets `model`, `processor`, `maker` and `caption_filter` in its own constructor and then calls
    `prepare_data`.

    Args:
        recipe: The settings.
        accelerator: Of the run.
    """

    processor: Any
    maker: SampleMaker
    caption_filter: CaptionFilter
    needs_captions = True
    """Whether a pair, or a caption, that cannot be used is left out."""

    def __init__(self, recipe: PairRecipe, accelerator: Accelerator):
        self.recipe = recipe
        self.validator: Validator | None = None
        self.samples: IndexedSamples | None = None
        self.is_local = _is_local(recipe)
        with accelerator.main_process_first():  # the others find what `datasets` has prepared
            self.training = self._load(recipe.train_data, recipe.train_split, recipe.streaming, "train_data")

    def prepare_data(self, accelerator: Accelerator) -> None:
        """Make samples and validator, after a first look at all pairs.

        Raises:
            InputError: A pair cannot be used; see `rscc_hf.training.systems.pairs.first_look`.
        """
        recipe = self.recipe
        train_data = str(recipe.train_data)
        validation = self.load_validation(accelerator.main_process_first())
        if recipe.cache == "none":  # else all are read at once
            first_look.check_images(
                self.training, self.reader(self.training, train_data, True), train_data, accelerator
            )
        self.samples = None if isinstance(self.training, IterableDataset) else self._samples(self.training)
        if validation is not None:
            if recipe.cache == "none":
                reader = self.reader(validation, self._validation_data, False)
                first_look.check_readable(validation, reader, self._validation_data, accelerator)
            self.validator = self._validator(validation)

    def load_validation(self, loading: AbstractContextManager[Any] | None = None) -> Dataset | None:
        """Load the pairs that are asked in validation; None: there is no validation.

        Args:
            loading: Held while they are loaded.

        Raises:
            InputError: The split is not there, or a pair cannot be scored.
        """
        recipe = self.recipe
        if recipe.eval_unit == "never":
            return None
        where = recipe.validation_data or recipe.train_data
        with loading or nullcontext():
            validation = self._load(where, recipe.validation_split, False, "validation_data")
        one_file = Path(str(where)).expanduser().is_file()  # which is whatever split is asked for
        if where == recipe.train_data and (one_file or recipe.validation_split == recipe.train_split):
            logger.warning(
                "The validation pairs are the training pairs (%s); set validation_data or validation_split.", where
            )
        validation = validation.select(spread(len(validation), recipe.max_validation_pairs))
        first_look.check_references(
            validation["pair_id"], validation["captions"], validation["changed"], self._validation_data
        )
        return validation

    @property
    def _validation_data(self) -> str:
        return str(self.recipe.validation_data or self.recipe.train_data)

    @abstractmethod
    def reader(self, dataset: Dataset | IterableDataset, where: str, training: bool) -> PixelReader:
        """Return what reads the rows of a data set called `where`, for training or for validation."""

    @abstractmethod
    def choose_samples(self, pixels: PixelSource, captions: list[list[str]]) -> Any:
        """Return the samples of the pairs with these usable captions; `samples` says the pair of each."""

    @abstractmethod
    def asker(self) -> Callable[[Any], Batch]:
        """Return what makes of pixels what `generate` takes to caption them; may be pickled, see `prepared`."""

    def parameters_by_part(self) -> dict[str, list[torch.nn.Parameter]]:
        """Return all parameters of each part, frozen ones too where the system tells their part."""
        return {part.name: part.parameters for part in self.parts()}

    @property
    def load_options(self) -> dict[str, Any]:
        """For `load_pairs`, beyond what every recipe says."""
        return {}

    @property
    def captions_per_sample(self) -> int:
        """Captions of a streamed sample."""
        return 1

    @property
    def generate_options(self) -> dict[str, Any]:
        """For `generate` in validation."""
        return {"num_beams": self.recipe.num_beams, "do_sample": False}

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
        reader = self.reader(self.training, str(recipe.train_data), True)
        streamed = StreamedSamples(reader, self.caption_filter, self.maker, self.captions_per_sample)
        return StreamBatches(
            self.training,
            streamed.batch,
            usable=streamed.usable,
            shuffle_buffer=recipe.stream_shuffle_buffer,
            **common,
        )

    def validate(self, backend: Backend) -> dict[str, float]:
        """See `Task`."""
        assert self.validator is not None  # the loop asks only where the recipe evaluates
        return self.validator(backend)

    def identity(self) -> dict[str, str]:
        """See `Task`: of the data, the words, and the models that the recipe starts from."""
        tokenizer = tokenizer_digest(self.processor.tokenizer)
        return {**self.data_digests(), "tokenizer": tokenizer, **sources_identity(self.sources())}

    def sources(self) -> dict[str, tuple[str | None, str | None]]:
        """Return folder or id on the Hub, and revision, of each model to start from, by the key of the recipe."""
        return {}

    def data_digests(self) -> dict[str, str]:
        """Return the digests of `train_data` and, where the recipe evaluates, of `validation_data`.

        For telling whether a run that goes on has the pairs it began with; see `rscc_hf.data.digest`. Maps count as
        they are in the data, whatever `semantic_coverage` makes of them.
        """
        recipe = self.recipe
        digests = {}
        if recipe.streaming:
            revision = self.data_revision_of(str(recipe.train_data))
            digests["train_data"] = stream_digest(str(recipe.train_data), recipe.train_split, revision=revision)
        else:
            digests["train_data"] = self._digest(recipe.train_data, recipe.train_split)
        if recipe.eval_unit != "never":
            where = recipe.validation_data or recipe.train_data
            digests["validation_data"] = self._digest(where, recipe.validation_split)
        return digests

    def _digest(self, where: str | None, split: str) -> str:
        return data_digest(load_pairs(str(where), split, revision=self.data_revision_of(str(where))))

    def data_revision_of(self, where: str) -> str | None:
        """Return `data_revision` for what is on the Hub; None for what lies on this machine."""
        return None if Path(where).expanduser().exists() else self.recipe.data_revision

    def close(self) -> None:
        """See `Task`."""
        if self.validator is not None:
            self.validator.close()

    def write_summary(self, folder: Path) -> None:
        """Write into the folder of the model what kind of images it has seen, and what was read from the Hub."""
        recipe, trained_on = self.recipe, self._trained_on()
        known = "synthetic" in trained_on.split(", ") and not isinstance(self.training, IterableDataset)
        from_hub = {key for key, is_local in self.is_local.items() if not is_local}
        TrainingSummary(
            trained_on=trained_on,
            data=recipe.train_data,
            split=recipe.train_split,
            synthesized=_has_records(self.training) if known else None,
            is_local=self.is_local,
            data_revision=recipe.data_revision if "train_data" in from_hub else None,
            init_revision=getattr(recipe, "init_revision", None) if "init_from" in from_hub else None,
        ).write(folder)

    def _load(self, where: str | None, split: str, streaming: bool, key: str) -> Any:
        if where is None:
            raise RecipeError(f"{key} is not given; name a folder or Hub id of pairs.")
        revision = self.data_revision_of(where)
        return load_pairs(where, split, streaming=streaming, revision=revision, **self.load_options)

    def _pixels(self, dataset: Dataset, where: str, training: bool) -> PixelSource:
        pixels = FromDisk(undecoded(dataset), self.reader(dataset, where, training))
        return InMemory(pixels) if self.recipe.cache == "memory" else pixels

    def _samples(self, dataset: Dataset) -> IndexedSamples:
        recipe = self.recipe
        given = dataset["captions"]
        captions = [self.caption_filter(texts) for texts in given]
        there, kept = (sum(len(texts or ()) for texts in column) for column in (given, captions))
        if kept < there and self.needs_captions:
            logger.warning(
                "%d of %d training captions are left out: blank, longer than max_caption_length (%d), or with marks "
                "of the prompt",
                there - kept, there, self.caption_filter.max_length,
            )  # fmt: skip
        unusable = sum(not texts for texts in captions)
        if unusable and self.needs_captions:
            logger.warning("%d of %d training pairs have no usable caption: left out", unusable, len(captions))
        if recipe.unchanged_share < 1:
            first_look.check_changed(dataset["pair_id"], dataset["changed"], str(recipe.train_data))
        samples = self.choose_samples(self._pixels(dataset, str(recipe.train_data), True), captions)
        if recipe.unchanged_share == 1:
            return samples
        changed = dataset["changed"]
        return FewerUnchanged(
            samples, [changed[pair] for pair, _ in samples.samples], recipe.unchanged_share, recipe.seed
        )

    def validation_pairs(self, dataset: Dataset) -> ValidationPairs:
        """Return what is asked about these pairs, and what should be answered.

        Raises:
            InputError: There are no pairs, or one is there twice.
        """
        questions = Questions(self.asker(), self._pixels(dataset, self._validation_data, False))
        return ValidationPairs(dataset["pair_id"], dataset["captions"], dataset["changed"], questions)

    def _validator(self, dataset: Dataset) -> Validator:
        recipe = self.recipe
        return Validator(
            self.validation_pairs(dataset),
            CaptionWriter(self.model, self.processor),
            batch_size=recipe.validation_batch_size,
            meteor=recipe.metric_for_best == "s_m",
            num_workers=recipe.num_workers,
            **self.generate_options,
        )

    def _trained_on(self) -> str:
        """Return the sources of the training pairs, the most frequent first; of a stream the data set's name.

        Null and blank ones are "unknown".
        """
        if isinstance(self.training, IterableDataset):
            return str(self.recipe.train_data)
        sources = Counter(source or UNKNOWN_SOURCE for source in self.training["source"])
        return ", ".join(source for source, _ in sources.most_common())


@dataclass(frozen=True)
class Questions:
    """What is asked about pairs, by index.

    Attributes:
        ask: See `PairTask.asker`.
        pixels: Of all pairs.
    """

    ask: Callable[[Any], Batch]
    pixels: PixelSource

    def __call__(self, indices: Sequence[int]) -> Batch:
        """Return the inputs of `generate` for these pairs."""
        return self.ask(self.pixels.get(indices))


def _has_records(pairs: Dataset) -> bool:
    """Return whether pairs that are called synthetic have the records that `rscc data synthesize` writes."""
    if "record" not in pairs.column_names:
        return False
    return all(
        record for source, record in zip(pairs["source"], pairs["record"], strict=True) if source == "synthetic"
    )


def _is_local(recipe: PairRecipe) -> dict[str, bool]:
    """Return whether what a recipe names is on this machine, for each key that takes a folder or an id on the Hub."""
    keys = ("train_data", "init_from", "backbone_weights_rgb", "backbone_weights_semantic")
    named = {key: getattr(recipe, key, None) for key in keys}
    return {key: Path(where).expanduser().exists() for key, where in named.items() if where is not None}


def learning(parameters: Any) -> list[torch.nn.Parameter]:
    """Return those that need a gradient."""
    return [parameter for parameter in parameters if parameter.requires_grad]
