"""Images and maps of pairs, decoded and resized to uint8, read row by row or once for all and kept in memory."""

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np
import PIL.Image
import torch
from datasets import Dataset

from rscc_hf.data.images import open_stored, source_of
from rscc_hf.data.schema import IMAGES, MAPS, MASK
from rscc_hf.errors import InputError, input_errors
from rscc_hf.processing.image_processing_pairs import PairImageProcessor

logger = logging.getLogger(__name__)

_CHUNK = 32


class Pixels(NamedTuple):
    """Pairs, ready but for augmentation and normalisation.

    Attributes:
        images: (pairs, 2, C, H, W) uint8.
        maps: The same for semantic maps, zeros where there are none; None where the model reads none.
        present: (pairs,) bool, which pairs have maps.
        changes: (pairs, 1, 1, H, W) bool, the change masks; None where they are not asked for.
    """

    images: torch.Tensor
    maps: torch.Tensor | None
    present: torch.Tensor
    changes: torch.Tensor | None = None

    def of(self, make: Callable[[torch.Tensor], torch.Tensor]) -> "Pixels":
        """Return what `make` makes of every tensor that is there."""
        maps, changes = (None if part is None else make(part) for part in (self.maps, self.changes))
        return Pixels(make(self.images), maps, make(self.present), changes)


class PixelReader:
    """Turns rows of the schema into `Pixels`.

    Args:
        processor: Reads; its normalisation is left for later.
        maps: Whether the model reads semantic maps (CCExpert reads none).
        optional: Whether pairs may lack them.
        where: The data set's name, for errors.
        masks: Whether change masks are read as well.
    """

    def __init__(
        self,
        processor: PairImageProcessor,
        maps: bool,
        optional: bool,
        where: str,
        masks: bool = False,
    ):
        self.processor, self.maps, self.optional, self.where = processor, maps, optional, where
        self.masks, self._noted = masks, False

    def read(self, rows: Sequence[dict[str, Any]]) -> Pixels:
        """Read rows.

        Raises:
            InputError: An image or a map cannot be used, or a pair has no maps although the model cannot do without;
                it names the pair and the file.
        """
        maps = [self._maps_of(row) for row in rows] if self.maps else None
        pairs = [[source_of(row[name]) for name in IMAGES] for row in rows]
        with input_errors():
            read = self.processor.read_pairs(pairs, maps, [str(row["pair_id"]) for row in rows])
        if read.notes and not self._noted:
            self._noted = True
            note = "%s: pair %r: %s; further notes of this data set are not shown"
            logger.warning(note, self.where, read.notes[0]["pair"], read.notes[0]["message"])
        size = read.images.shape[-2:]
        changes = torch.stack([self._changes_of(row, size) for row in rows]) if self.masks else None
        return Pixels(read.images, read.maps, read.present, changes)

    def _changes_of(self, row: dict[str, Any], size: Sequence[int]) -> torch.Tensor:
        """Return the change mask of a row, (1, 1, H, W) bool, by nearest neighbour as classes are resized."""
        value = row.get(MASK)
        if value is None:
            raise InputError(f"{self.where}: pair {row['pair_id']!r} has no {MASK}, which the recipe needs; give one.")
        about = f"{self.where}: pair {row['pair_id']!r}: {MASK}"
        mask = open_stored(value, lambda reason: InputError(f"{about} {reason}.")).convert("L")
        brightest = np.asarray(mask).max(initial=0)
        if 0 < brightest <= 127:
            raise InputError(
                f"{self.where}: pair {row['pair_id']!r} has a {MASK} of values up to {brightest}, which would all say "
                "unchanged; give 255 where something changed."
            )
        resized = mask.resize((size[1], size[0]), PIL.Image.Resampling.NEAREST)
        return torch.from_numpy(np.asarray(resized) > 127)[None, None]

    def _maps_of(self, row: dict[str, Any]) -> list[Any] | None:
        maps = [row.get(name) for name in MAPS]
        missing = [name for name, value in zip(MAPS, maps, strict=True) if value is None]
        if len(missing) == 2 and self.optional:
            return None
        if missing:
            raise InputError(
                f"{self.where}: pair {row['pair_id']!r} has no {missing[0]}; give maps, set semantics_optional to "
                "true (for pairs that lack both), or set modalities to rgb."
            )
        return [source_of(value) for value in maps]


class PixelSource(Protocol):
    """Pixels of a data set by index."""

    def __len__(self) -> int: ...

    def get(self, indices: Sequence[int]) -> Pixels:
        """Return the pixels of these rows; the caller must not change them in place."""
        ...


class FromDisk:
    """Reads from the data set each time."""

    def __init__(self, dataset: Dataset, reader: PixelReader):
        names = [name for name in ("pair_id", *IMAGES, *MAPS, MASK) if name in dataset.column_names]
        self.dataset, self.reader = dataset.select_columns(names), reader

    def __len__(self) -> int:
        return len(self.dataset)

    def get(self, indices: Sequence[int]) -> Pixels:
        """See `PixelSource`."""
        return self.reader.read([self.dataset[int(index)] for index in indices])


class InMemory:
    """Reads everything at once, by threads, and keeps it: pairs x 2 x channels x H x W bytes for images and for maps.

    Every training process keeps its own copy; worker processes share it.
    """

    def __init__(self, source: FromDisk):
        starts = range(0, len(source), _CHUNK)
        first: Pixels | None = None

        def read(start: int) -> tuple[int, Pixels]:
            return start, source.get(range(start, min(start + _CHUNK, len(source))))

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for start, pixels in pool.map(read, starts):
                if first is None:
                    first = pixels.of(lambda part: _room(part, len(source)))
                for room, part in zip(first, pixels, strict=True):
                    if room is not None and part is not None:
                        room[start : start + len(part)] = part
        if first is None:
            raise InputError("The split is empty and there are no pairs to keep in memory; name another one.")
        self.pixels = first

    def __len__(self) -> int:
        return len(self.pixels.images)

    def get(self, indices: Sequence[int]) -> Pixels:
        """See `PixelSource`."""
        chosen = torch.from_numpy(np.asarray(indices, dtype=np.int64))
        return self.pixels.of(lambda part: part[chosen])


def _room(part: torch.Tensor, rows: int) -> torch.Tensor:
    return torch.empty((rows, *part.shape[1:]), dtype=part.dtype)
