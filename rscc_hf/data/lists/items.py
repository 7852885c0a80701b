"""One pair of a list or folder, and many of them: what every reader of pairs gives."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from rscc_hf.data.captions import has_words
from rscc_hf.files import some
from rscc_hf.text import count

IMAGES = ("before", "after")
MAPS = ("semantic_before", "semantic_after")


@dataclass(frozen=True)
class PairItem:
    """One pair of a list: its images and what else the list says about it.

    Attributes:
        pair_id: Its name, unique in the list.
        before: The earlier image: a path, or the undecoded image of a data set.
        after: The later image.
        semantic_before: Semantic map of the earlier image, if there is one.
        semantic_after: Semantic map of the later image, if there is one.
        names: `before` and `after` as the list has them (in a folder: relative to it), for output files.
        references: Reference captions, if the list has them.
        changed: Whether the pair changed, if the list says so.
    """

    pair_id: str
    before: Path | Mapping[str, Any]
    after: Path | Mapping[str, Any]
    semantic_before: Path | Mapping[str, Any] | None
    semantic_after: Path | Mapping[str, Any] | None
    names: tuple[str, str]
    references: tuple[str, ...] | None = None
    changed: bool | None = None


@dataclass(frozen=True)
class PairList:
    """Pairs in order, and what of their source is in none of them.

    Attributes:
        pairs: The pairs, at least one; those of a data set are read from the disk as they are asked for.
        unmatched: Images and maps of a folder without a partner, relative to it.
        notes: What else of the source was not read or not used, or looks wrong; a sentence each.
        sources: Files and folders that the pairs were read from and that nothing may be written over.
    """

    pairs: Sequence[PairItem]
    unmatched: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    sources: tuple[Path, ...] = ()

    @property
    def pair_ids(self) -> list[str]:
        """The names of the pairs in order; no image is read."""
        if isinstance(self.pairs, DatasetPairs):
            return list(self.pairs.dataset["pair_id"])
        return [pair.pair_id for pair in self.pairs]

    def names_of(self, index: int) -> tuple[str, str] | None:
        """What the list calls the images of a pair; None for a data set, whose ids are its names."""
        return None if isinstance(self.pairs, DatasetPairs) else self.pairs[index].names

    def files(self, *, with_maps: bool = True) -> list[tuple[str, Path]]:
        """Files that the list names, each with the name of its pair; none for a data set."""
        if isinstance(self.pairs, DatasetPairs):
            return []
        names = (*IMAGES, *MAPS) if with_maps else IMAGES
        files = ((pair.pair_id, getattr(pair, name)) for pair in self.pairs for name in names)
        return [(pair_id, path) for pair_id, path in files if isinstance(path, Path)]

    def missing_files(self, *, with_maps: bool = True) -> list[tuple[str, Path]]:
        """Those of `files` that do not exist; without maps where they are not asked for."""
        return [(pair_id, path) for pair_id, path in self.files(with_maps=with_maps) if not path.is_file()]

    def has_maps(self) -> bool:
        """Whether any pair has a semantic map; no image of a data set is read."""
        if isinstance(self.pairs, DatasetPairs):
            return self.pairs.has_maps()
        return any(getattr(pair, name) is not None for pair in self.pairs for name in MAPS)

    def half_maps(self) -> list[tuple[str, str]]:
        """Pairs of a list or folder with the map of one date only, each with what it lacks."""
        if isinstance(self.pairs, DatasetPairs):
            return []
        found = []
        for pair in self.pairs:
            missing = [name for name in MAPS if getattr(pair, name) is None]
            if len(missing) == 1:
                found.append((pair.pair_id, missing[0]))
        return found


class DatasetPairs(Sequence[PairItem]):
    """The pairs of a data set in the schema of `rscc_hf.data.schema`, images undecoded; a row is read when asked for.

    Args:
        dataset: A `datasets.Dataset`.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def has_maps(self) -> bool:
        """Whether any row has a semantic map."""
        table = self.dataset.data
        return any(name in table.column_names and table.column(name).null_count < len(table) for name in MAPS)

    @overload
    def __getitem__(self, index: int) -> PairItem: ...

    @overload
    def __getitem__(self, index: slice) -> list[PairItem]: ...

    def __getitem__(self, index: int | slice) -> PairItem | list[PairItem]:
        if isinstance(index, slice):
            return [self[row] for row in range(len(self))[index]]
        row = self.dataset[index]
        before, after = row["image_before"], row["image_after"]
        return PairItem(
            pair_id=row["pair_id"],
            before=before,
            after=after,
            semantic_before=row.get("semantic_before"),
            semantic_after=row.get("semantic_after"),
            names=((before or {}).get("path") or "", (after or {}).get("path") or ""),
            references=usable_references(row["captions"]),
            changed=row["changed"],
        )


def usable_references(captions: Sequence[str] | None) -> tuple[str, ...] | None:
    """The captions of a data set's pair that can be references: those with a letter or digit; None: there are none."""
    return tuple(text for text in captions or () if has_words(text)) or None


def without_references(said: Iterable[tuple[str, Sequence[str] | None]]) -> list[str]:
    """A sentence about pairs without references among others that have some; none where no pair has any.

    Args:
        said: Name and references of every pair.
    """
    lacking, total = [], 0
    for pair_id, references in said:
        total += 1
        if not references:
            lacking.append(pair_id)
    if len(lacking) in (0, total):
        return []
    have = "has" if len(lacking) == 1 else "have"
    return [
        f"{len(lacking)} of {total} pairs {have} no references ({some(lacking)}); `rscc evaluate` refuses a file of "
        "captions where some lack them."
    ]


def same_files(pairs: Sequence[PairItem]) -> list[str]:
    """Sentences about pairs that have one file for both dates, or the files of another pair."""
    alone: list[str] = []
    first: dict[tuple[str, str], str] = {}
    repeated: list[str] = []
    for pair in pairs:
        if not isinstance(pair.before, Path) or not isinstance(pair.after, Path):
            continue
        files = (os.path.normpath(pair.before), os.path.normpath(pair.after))
        if files[0] == files[1]:
            alone.append(pair.pair_id)
        if files in first:
            repeated.append(f"{pair.pair_id} as {first[files]}")
        first.setdefault(files, pair.pair_id)
    notes = []
    if alone:
        notes.append(f"{count(len(alone), 'pair')} with one file as before and after ({some(alone)}).")
    if repeated:
        notes.append(f"{count(len(repeated), 'pair')} with the files of another pair ({some(repeated)}).")
    return notes
