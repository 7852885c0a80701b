"""What a checkpoint's folder says about itself: the facts that its card is rendered from.

Read from what `save_pretrained`, training, the converters and `rscc card --results` leave; what is not there is None,
and nothing is guessed.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rscc_hf.data.catalog import KnownData, known_data
from rscc_hf.errors import InputError
from rscc_hf.formats.recipes import read_settings
from rscc_hf.formats.records import Conversion, Evaluation
from rscc_hf.formats.training import LogLine, TrainingSummary, read_log
from rscc_hf.hub.cards.rendering import hub_id, last_part
from rscc_hf.hub.cards.results import read_evaluations
from rscc_hf.hub.cards.systems import SYSTEMS, System
from rscc_hf.processing.change_pair_writer import use_of_maps
from rscc_hf.text import json_object

# Largest header of a safetensors file, as the format's own readers limit it.
_LARGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class Weights:
    """What the safetensors files hold.

    Attributes:
        parameters: Numbers that were learned: statistics of batch normalisation do not count.
        dtypes: How many numbers there are of each format, the most frequent first ("F32", "BF16", ...).
        bytes: Size of the files.
    """

    parameters: int
    dtypes: dict[str, int]
    bytes: int


@dataclass(frozen=True)
class Training:
    """What a run of this package left beside the weights.

    Attributes:
        recipe: Every key as it was used; empty where there is no recipe.
        trained_on: The sources of the training pairs, as its summary says.
        data: What it was given as training data.
        split: Its split.
        revision: Of data on the Hub, where one was asked for.
        is_local: Of `train_data`, `init_from` and the other keys that name a folder or an id on the Hub: which it was
            when it was read. A key of which the run recorded nothing is not there.
        synthesized: Whether its synthetic pairs have the records of `rscc data synthesize`; None: it is not told.
        steps: Optimiser steps of the whole run, if it was logged.
        seconds: Wall time of them as logged, validation included.
        best: The logged validation whose weights were kept.
    """

    recipe: dict[str, Any]
    trained_on: str | None
    data: str | None
    split: str | None
    revision: str | None
    is_local: dict[str, bool]
    synthesized: bool | None
    steps: int | None
    seconds: float | None
    best: LogLine | None

    def hub_id(self, key: str) -> str | None:
        """Return what a key of the recipe names, where the run recorded that it was read from the Hub."""
        name = self.data if key == "train_data" else self.recipe.get(key)
        return hub_id(name, self.is_local.get(key))

    def known(self, source: str) -> KnownData | None:
        """Return what is known of a source; nothing of synthetic pairs that somebody else made."""
        data = known_data(source)
        return None if data is not None and data.key == "synthetic" and self.synthesized is False else data

    @property
    def sources(self) -> list[str]:
        """Names of the data that it was trained on: the pairs' own sources, and the data set's where it has an id."""
        names = [part.strip() for part in (self.trained_on or "").split(",")]
        if self.hub_id("train_data") is not None or not any(names):
            names.append(self.data or "")
        return list(dict.fromkeys(name for name in names if name))


@dataclass(frozen=True)
class ModelFacts:
    """All that a model card is rendered from.

    Attributes:
        config, processor, generation: The settings as saved; `processor` is empty where none is there.
        system: The published system; None for a model of another kind.
        weights: None where there are no safetensors files.
        training: None where no run of this package left anything.
        conversion: What a converter left.
        evaluations: Scores of these very weights.
        stale_evaluations: How many evaluations there are of other weights.
        adapters: Whether the folder holds adapters only.
    """

    folder: Path
    config: dict[str, Any]
    processor: dict[str, Any]
    generation: dict[str, Any]
    system: System | None
    weights: Weights | None
    training: Training | None
    conversion: Conversion | None
    evaluations: list[Evaluation]
    stale_evaluations: int

    @property
    def model_type(self) -> str:
        """`model_type` of the configuration."""
        return str(self.config.get("model_type", ""))

    @property
    def maps(self) -> str:
        """Whether semantic maps are taken: "none", "optional" or "required"."""
        return use_of_maps(self.config.get("modalities"), self.config.get("semantics_optional"))

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width that images are resized to."""
        size = self.processor.get("image_processor", self.processor).get("size") or {}
        if "height" in size and "width" in size:
            return int(size["height"]), int(size["width"])
        return None

    @property
    def seen(self) -> list[KnownData]:
        """The known data sets among those the weights have seen, as far as is recorded."""
        found: Sequence[KnownData | None] = ()
        if self.training is not None:
            found = [self.training.known(name) for name in self.training.sources]
        elif self.conversion is not None and self.system is not None and self.is_release:
            found = [known_data(name) for name in self.system.release_data]
        return list(dict.fromkeys(data for data in found if data is not None))

    @property
    def seen_unknown(self) -> list[str]:
        """Names of the other data that the weights have seen, without paths."""
        if self.training is None:
            return []
        own = self.training.hub_id("train_data")
        names = [name for name in self.training.sources if self.training.known(name) is None]
        if len(self.training.sources) > 1:
            names = [name for name in names if name != own]  # its pairs' sources say it better
        return list(dict.fromkeys(name if name == own else last_part(name) for name in names))

    @property
    def is_release(self) -> bool:
        """Whether a converter made it from a checkpoint in the format of the authors' release."""
        return self.conversion is not None and "onevision" not in (self.conversion.converter or "")


def read_model_facts(folder: Path) -> ModelFacts:
    """Read a checkpoint's folder.

    Raises:
        ValueError: It is no checkpoint, or a file in it is damaged.
    """
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds no config.json; give the folder that save_pretrained wrote.")
    config = read_json(folder / "config.json")
    processor = read_json(folder / "processor_config.json") or read_json(folder / "preprocessor_config.json")
    evaluations, stale = read_evaluations(folder)
    return ModelFacts(
        folder=folder,
        config=config,
        processor=processor,
        generation=read_json(folder / "generation_config.json"),
        system=SYSTEMS.get(str(config.get("model_type"))),
        weights=_read_weights(folder),
        training=_read_training(folder),
        conversion=Conversion.read(folder),
        evaluations=evaluations,
        stale_evaluations=stale,
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; an empty one where there is no such file.

    Raises:
        ValueError: It is no JSON object.
    """
    if not path.is_file():
        return {}
    return json_object(path.read_bytes(), str(path), "write it again")


def safetensors_header(path: Path) -> dict[str, Any]:
    """Read names, formats and shapes of the tensors of a safetensors file, which is not read any further.

    Raises:
        ValueError: It is no such file, or is cut off.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, _LARGEST_HEADER):
            raise InputError(f"{path} is no safetensors file; save the model again.")
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (UnicodeDecodeError, json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
            raise InputError(f"{path} is no safetensors file; save the model again.") from error
    if max(ends, default=0) != size - 8 - length:
        raise InputError(f"{path} is cut off or too long; save the model again.")
    return header


def _read_weights(folder: Path) -> Weights | None:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return None
    numbers: Counter[str] = Counter()
    parameters = 0
    for path in files:
        for name, entry in safetensors_header(path).items():
            if name == "__metadata__":
                continue
            count = math.prod(entry["shape"])
            numbers[entry["dtype"]] += count
            if name.rpartition(".")[2] not in ("running_mean", "running_var", "num_batches_tracked"):
                parameters += count
    return Weights(parameters, dict(numbers.most_common()), sum(path.stat().st_size for path in files))


def _read_training(folder: Path) -> Training | None:
    recipe, log = read_settings(folder), read_log(folder)
    path = folder / TrainingSummary.NAME
    if not recipe and not path.is_file():
        return None
    summary = TrainingSummary.read(path) if path.is_file() else TrainingSummary()
    seconds = [line.seconds for line in log if line.seconds is not None]
    return Training(
        recipe=recipe,
        trained_on=summary.trained_on,
        data=summary.data or recipe.get("train_data"),
        split=summary.split or recipe.get("train_split"),
        revision=summary.data_revision,
        is_local=summary.is_local,
        synthesized=summary.synthesized,
        steps=max((line.step for line in log), default=None),
        seconds=sum(seconds) if seconds else None,
        best=next((line for line in reversed(log) if line.improved), None),
    )
