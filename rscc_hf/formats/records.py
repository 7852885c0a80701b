"""Where a checkpoint comes from and how good it is: `conversion.json`, `adapter_base.json`, `results.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from rscc_hf.files import write_text
from rscc_hf.formats.fields import filled
from rscc_hf.text import json_line, json_object


@dataclass(frozen=True)
class Source:
    """A file that was converted.

    Attributes:
        name: Its name, without folders of this machine.
        sha256: SHA-256 of its bytes, hexadecimal.
        bytes: Its size.
    """

    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Conversion:
    """What a converter says of the weights it wrote.

    Attributes:
        converter: The command.
        format: What was converted, in words.
        dtypes: How many weights there are of each format.
        weights: How many weights there are.
        dropped: Official names that were not carried on.
        new_weights: Which weights are new and random, in words.
        seed: Of these.
        tokenizer: Whether there was one.
        prompt: What the model is asked.
        base_model: The id on the Hub that was converted.
        revision: Its commit.
        versions: Of this package and the libraries that wrote.
        sources: The files that were read.
    """

    NAME: ClassVar[str] = "conversion.json"

    converter: str | None = None
    format: str | None = None
    dtypes: dict[str, int] | None = None
    weights: int | None = None
    dropped: list[str] = field(default_factory=list)
    new_weights: str | None = None
    seed: int | None = None
    tokenizer: bool | None = None
    prompt: str | None = None
    base_model: str | None = None
    revision: str | None = None
    versions: dict[str, str | None] = field(default_factory=dict)
    sources: list[Source] = field(default_factory=list)

    @classmethod
    def write(cls, folder: Path, told: Mapping[str, Any], sources: Sequence[Source]) -> None:
        """Write what is told, in its order and with its nulls, and the sources.

        Args:
            folder: Of the checkpoint.
            told: Values by the names of this class.
            sources: The files that were read.
        """
        if unknown := told.keys() - cls.__dataclass_fields__.keys():
            raise TypeError(f"Conversion has no {sorted(unknown)}")
        row = {**told, "sources": [asdict(source) for source in sources]}
        write_text(folder / cls.NAME, json.dumps(row, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Conversion | None:
        """Read it; None where there is none. What a later version may say beside is passed over.

        Raises:
            InputError: It is damaged.
        """
        path, remedy = folder / cls.NAME, "convert the weights again"
        if not path.is_file():
            return None
        row = json_object(path.read_bytes(), str(path), remedy)
        if not row:
            return None
        absent = [name for name in ("dropped", "versions", "sources") if row.get(name, 0) is None]
        found = filled(cls, {name: value for name, value in row.items() if name not in absent}, str(path), remedy)
        sources = [filled(Source, dict(one), f"{path}, sources", remedy) for one in found.sources]  # type: ignore[call-overload]
        return cls(**{**vars(found), "sources": sources})


@dataclass(frozen=True)
class AdapterBase:
    """The model that adapters belong to, weight for weight.

    Attributes:
        path: Absolute folder, or Hub id.
        relative: The folder as seen from that of the run, for trees that are moved; None: none, or a Hub id.
        commit: Of a Hub id.
        kind: `model_type` of the checkpoint.
        weights: Digest of them, see `rscc_hf.training.systems.ccexpert.adapter_base.weights_digest`.
        quantization: "none" or "4bit", see the recipe.
        compute_dtype: With "4bit": the format of its products.
    """

    NAME: ClassVar[str] = "adapter_base.json"

    path: str
    relative: str | None
    commit: str | None
    kind: str
    weights: str
    quantization: str
    compute_dtype: str

    def write(self, folder: Path) -> None:
        """Write it beside the adapters."""
        write_text(folder / self.NAME, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> AdapterBase | None:
        """Read it from beside adapters; None where there is none.

        Raises:
            InputError: It is damaged.
        """
        path, remedy = folder / cls.NAME, "put back the file that training wrote"
        if not path.is_file():
            return None
        where = f"{path} is damaged: it"
        return filled(cls, json_object(path.read_bytes(), where, remedy), where, remedy, exact=True)


@dataclass(frozen=True)
class Evaluation:
    """Scores on one split of one data set: a line of `results.jsonl` beside the weights.

    Attributes:
        dataset: Name of the data set, for people.
        split: Its split.
        report: What `rscc evaluate --json` wrote: see `rscc_hf.evaluation.report.Report`.
        fingerprint: Of the checkpoint that wrote the captions; see `rscc_hf.checkpoint.fingerprint_of`.
        dataset_id: Its id on the Hub, where it has one.
        maps: Whether the model was given semantic maps; None: not known, or it takes none.
        settings: What else the captions depend on (`num_beams`, ...), as `rscc caption` wrote it.
    """

    NAME: ClassVar[str] = "results.jsonl"

    dataset: str
    split: str
    report: dict[str, Any]
    fingerprint: str
    dataset_id: str | None = None
    maps: bool | None = None
    settings: dict[str, Any] | None = None

    def text(self) -> str:
        """Return the line with its end."""
        return json_line(asdict(self))

    @classmethod
    def parse(cls, line: str, where: str) -> Evaluation:
        """Read a line.

        Raises:
            InputError: It is no evaluation.
        """
        return filled(cls, json_object(line, where, "remove it"), where, "remove it", exact=True)
