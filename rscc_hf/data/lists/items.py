"""One pair of a list or folder, and many of them: what every reader of pairs gives."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from rscc_hf.data.captions import has_words
from rscc_hf.files import some
from rscc_hf.pair import Pair
from rscc_hf.processing.change_pair_web import is_address
from rscc_hf.text import count

IMAGES = ("before", "after")
MAPS = ("semantic_before", "semantic_after")


@dataclass(frozen=True, kw_only=True)
class ListedPair(Pair):
    """A pair of a list or folder; a pair of a data set has no names but its id.

    Attributes:
        names: What the list calls `before` and `after` (in a folder: relative to it), for output files.
    """

    names: tuple[str, str]


@dataclass(frozen=True)
class PairList:
    """Pairs in order, and what of their source is in none of them.

    Attributes:
        pairs: The pairs, at least one, whose ids are unique; those of a data set are read from the disk as they are
            asked for. An image is a path, an address, or the undecoded image of a data set.
        unmatched: Images and maps of a folder without a partner, relative to it.
        notes: What else of the source was not read or not used, or looks wrong; a sentence each.
        sources: Files and folders that the pairs were read from and that nothing may be written over.
    """

    pairs: Sequence[Pair]
    unmatched: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    sources: tuple[Path, ...] = ()

    @property
    def pair_ids(self) -> list[str]:
        """Names of the pairs in order; no image is read."""
        if isinstance(self.pairs, DatasetPairs):
            return list(self.pairs.dataset["pair_id"])
        return [str(pair.id) for pair in self.pairs]

    def files(self, *, with_maps: bool = True) -> list[tuple[str, Path]]:
        """Return the files that the list names, each with the name of its pair; none for a data set."""
        if isinstance(self.pairs, DatasetPairs):
            return []
        files = ((str(pair.id), path) for pair in self.pairs for path in images_of(pair, with_maps).values())
        return [(pair_id, path) for pair_id, path in files if isinstance(path, Path)]

    def missing_files(self, *, with_maps: bool = True) -> list[tuple[str, Path]]:
        """Return those of `files` that do not exist; without maps where they are not asked for."""
        return [(pair_id, path) for pair_id, path in self.files(with_maps=with_maps) if not path.is_file()]

    def addresses(self, *, with_maps: bool = True) -> list[tuple[str, str]]:
        """Return the addresses that the list names, each with the name of its pair; none for a data set."""
        if isinstance(self.pairs, DatasetPairs):
            return []
        images = ((str(pair.id), image) for pair in self.pairs for image in images_of(pair, with_maps).values())
        return [(pair_id, image) for pair_id, image in images if is_address(image)]

    def has_maps(self) -> bool:
        """Tell whether any pair has a semantic map; no image of a data set is read."""
        if isinstance(self.pairs, DatasetPairs):
            return self.pairs.has_maps()
        return any(pair.maps is not None for pair in self.pairs)

    def half_maps(self) -> list[tuple[str, str]]:
        """Return pairs of a list or folder with the map of one date only, each with what it lacks."""
        if isinstance(self.pairs, DatasetPairs):
            return []
        halves = (
            (pair, name)
            for pair in self.pairs
            for name, one in zip(MAPS, pair.maps or (), strict=False)
            if one is None
        )
        return [(str(pair.id), name) for pair, name in halves]


class DatasetPairs(Sequence[Pair]):
    """The pairs of a data set in the schema of `rscc_hf.data.schema`, images undecoded; a row is read when asked for.

    Args:
        dataset: A `datasets.Dataset`.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def has_maps(self) -> bool:
        """Tell whether any row has a semantic map."""
        table = self.dataset.data
        return any(name in table.column_names and table.column(name).null_count < len(table) for name in MAPS)

    @overload
    def __getitem__(self, index: int) -> Pair: ...

    @overload
    def __getitem__(self, index: slice) -> list[Pair]: ...

    def __getitem__(self, index: int | slice) -> Pair | list[Pair]:
        if isinstance(index, slice):
            return [self[row] for row in range(len(self))[index]]
        row = self.dataset[index]
        return Pair(
            row["pair_id"],
            row["image_before"],
            row["image_after"],
            maps=(row.get("semantic_before"), row.get("semantic_after")),
            references=usable_references(row["captions"]),
            changed=row["changed"],
        )


def images_of(pair: Pair, with_maps: bool = True) -> dict[str, Any]:
    """Return the images of a pair, and its maps unless they are not asked for, by the names of `IMAGES` and `MAPS`."""
    maps = (pair.maps or (None, None)) if with_maps else ()
    return dict(zip((*IMAGES, *MAPS), (pair.before, pair.after, *maps), strict=False))


def usable_references(captions: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the captions of a data set's pair that have a letter or digit, as references must; None: none has."""
    return tuple(text for text in captions or () if has_words(text)) or None


def without_references(said: Iterable[tuple[str, Sequence[str] | None]]) -> list[str]:
    """Return a sentence about pairs without references among others that have some; none where no pair has any.

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


def same_files(pairs: Sequence[Pair]) -> list[str]:
    """Return sentences about pairs that have one file for both dates, or the files of another pair."""
    alone: list[str] = []
    first: dict[tuple[str, str], str] = {}
    repeated: list[str] = []
    for pair in pairs:
        if not isinstance(pair.before, Path | str) or not isinstance(pair.after, Path | str):
            continue
        files = (os.path.normpath(pair.before), os.path.normpath(pair.after))
        if files[0] == files[1]:
            alone.append(str(pair.id))
        if files in first:
            repeated.append(f"{pair.id} as {first[files]}")
        first.setdefault(files, str(pair.id))
    notes = []
    if alone:
        notes.append(f"{count(len(alone), 'pair')} with one file as before and after ({some(alone)}).")
    if repeated:
        notes.append(f"{count(len(repeated), 'pair')} with the files of another pair ({some(repeated)}).")
    return notes
