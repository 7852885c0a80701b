"""What the parquet files of a data set say about it: counted, not declared."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from rscc_hf.data.captions import normalise
from rscc_hf.data.catalog import KnownData, known_data
from rscc_hf.data.images import open_stored
from rscc_hf.data.schema import IMAGES, UNKNOWN_SOURCE
from rscc_hf.errors import InputError
from rscc_hf.formats.synthesis import MARK, SOURCE, Synthesis, is_drawn

logger = logging.getLogger(__name__)

_BATCH = 2000  # rows of text read at a time


@dataclass
class SplitFacts:
    """One split.

    Attributes:
        pairs, changed, captions: Numbers of pairs, of changed ones, and of captions.
        unmarked: Pairs that do not say whether they changed.
        bytes: Of its files.
        files: Their names, relative to the data set.
    """

    files: list[str]
    pairs: int = 0
    changed: int = 0
    unmarked: int = 0
    captions: int = 0
    bytes: int = 0

    @property
    def unchanged(self) -> int:
        """Pairs in which nothing changed."""
        return self.pairs - self.changed - self.unmarked


@dataclass
class DatasetFacts:
    """All that a data set's card is rendered from.

    Attributes:
        splits: By name, in their order.
        columns: Name and type of each column.
        sources: How many pairs there are of each source.
        image_size: Width and height of the first pair's image.
        words: Different words in all captions, normalised.
        synthesized: Pairs that `rscc data synthesize` drew, as their records tell: that the source is called so is not
            enough.
        seed: Of synthetic scenes, where their card tells.
        options: Of synthetic scenes, as JSON.
    """

    splits: dict[str, SplitFacts]
    columns: dict[str, str] = field(default_factory=dict)
    sources: Counter[str] = field(default_factory=Counter)
    image_size: tuple[int, int] | None = None
    words: int = 0
    synthesized: int = 0
    seed: int | None = None
    options: str | None = None

    @property
    def pairs(self) -> int:
        """Pairs of all splits."""
        return sum(split.pairs for split in self.splits.values())

    @property
    def known(self) -> list[KnownData]:
        """The known data sets among its sources."""
        found = [self.known_source(source) for source in self.sources]
        return list(dict.fromkeys(data for data in found if data is not None))

    @property
    def is_synthesized(self) -> bool:
        """Tell whether `rscc data synthesize` drew every pair."""
        return 0 < self.pairs == self.synthesized

    def known_source(self, source: str) -> KnownData | None:
        """Return what is known of a source; nothing of synthetic pairs that somebody else made."""
        data = known_data(source)
        if data is not None and data.key == SOURCE and self.synthesized != self.sources[SOURCE]:
            return None
        return data


def read_dataset_facts(files: Mapping[str, Mapping[str, Path]], earlier_card: str | None = None) -> DatasetFacts:
    """Count what there is; no image but the first is decoded.

    Args:
        files: The parquet files of each split: path by name in the repository.
        earlier_card: Of `rscc data synthesize`, which tells seed and options.

    Raises:
        ValueError: A file cannot be read, or has not the columns of a pair.
    """
    facts = DatasetFacts({split: SplitFacts(sorted(named)) for split, named in files.items()})
    words: set[str] = set()
    for split, named in files.items():
        for name in sorted(named):
            _count(named[name], name, facts.splits[split], facts, words)
    facts.words = len(words)
    if facts.is_synthesized and earlier_card is not None and MARK in earlier_card:
        made = Synthesis.parse(earlier_card)
        if made is None:
            logger.warning("The README.md does not tell seed and options as it was written; the new card has neither.")
        else:
            facts.seed, facts.options = made.seed, made.options_text()
    return facts


def _count(path: Path, name: str, split: SplitFacts, facts: DatasetFacts, words: set[str]) -> None:
    try:
        file = pq.ParquetFile(path)
        if not facts.columns:
            facts.columns = {column.name: _kind(column.type) for column in file.schema_arrow}
            facts.image_size = _first_size(file)
        split.bytes += path.stat().st_size
        columns = ["captions", "changed", "source", "pair_id"]
        columns += ["record"] if "record" in file.schema_arrow.names else []
        for batch in file.iter_batches(batch_size=_BATCH, columns=columns):
            split.pairs += batch.num_rows
            split.changed += sum(bool(value) for value in batch.column("changed").to_pylist())
            split.unmarked += batch.column("changed").null_count
            facts.sources.update(value or UNKNOWN_SOURCE for value in batch.column("source").to_pylist())
            if "record" in columns:
                rows = batch.select(["pair_id", "source", "record"]).to_pylist()
                facts.synthesized += sum(is_drawn(**row) for row in rows)
            for captions in batch.column("captions").to_pylist():
                split.captions += len(captions or ())
                for caption in captions or ():
                    words.update(normalise(caption).split())
    except (OSError, ValueError, KeyError) as error:  # ArrowInvalid is a ValueError
        raise InputError(
            f"{name} cannot be read ({' '.join(str(error).split())}); write the data set again."
        ) from error


def _kind(kind: Any) -> str:
    text = str(kind)
    if text.startswith("struct<bytes"):
        return "image"
    if text.startswith(("list<", "large_list<")):
        return "list of strings" if "string" in text else "list"
    return {"bool": "true or false", "large_string": "string"}.get(text, text)


def _first_size(file: pq.ParquetFile) -> tuple[int, int] | None:
    if IMAGES[0] not in file.schema_arrow.names:
        return None
    for batch in file.iter_batches(batch_size=1, columns=[IMAGES[0]]):
        image = batch.column(0).to_pylist()[0] or {}
        if not isinstance(image, dict) or not image.get("bytes"):
            return None
        try:
            return open_stored(image, InputError).size
        except InputError:
            return None
    return None
