"""Reading a batch of pairs, images and semantic maps, into one array each; `change_pair_images.py` reads one image."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from .change_pair_images import ImageSource, PairError, resize_channels, same_aspect, white_to_black
from .change_pair_values import compare

DATES = ("before", "after")
_FEWEST_COLOURS = 32  # a grey map whose values stay below is one of class numbers


class PairPixels(NamedTuple):
    """A batch of pairs as it was read, of the model's size.

    Attributes:
        images: (batch, 2, C, H, W) uint8, before and after; float32 where floats pass as they are.
        maps: The same for semantic maps, zeros for a pair without; None where none were given.
        present: (batch,) bool, which pairs have maps.
        notes: `{"pair": ..., "index": ..., "message": ...}` of images of different sizes, of several pages, or with
            values that use little of the range they were read with.
    """

    images: torch.Tensor
    maps: torch.Tensor | None
    present: torch.Tensor
    notes: Sequence[dict[str, Any]] = ()


class PairReader:
    """Reads the pairs of one call, and keeps what is worth noting about them.

    Args:
        settings: All of the call: with `do_resize` to `size`, else as large as they are; with `do_rescale` floats are
            read as 0..1, else they pass untouched.
        allow_web: Whether images are fetched from https addresses; see `change_pair_web`.

    Raises:
        ValueError: `size` is no height and width.
    """

    def __init__(self, settings: dict[str, Any], allow_web: bool = False):
        size = settings["size"]
        if size is None or not (size.height and size.width):
            raise ValueError('size must be {"height": ..., "width": ...}; give both.')
        self.size: tuple[int, int] | None = (size.height, size.width) if settings["do_resize"] else None
        self.keep_float = not settings["do_rescale"]
        self.settings = settings
        self.allow_web = allow_web
        self.notes: list[dict[str, Any]] = []
        self._index = 0  # of the pair that is read

    def read_batch(self, images: Any, semantic_maps: Any, pair_ids: Sequence[str] | None) -> PairPixels:
        """Read images and maps, all of them or none; see `PairImageProcessor.read_pairs`."""
        if pair_ids is not None and not isinstance(pair_ids, str):
            # numpy's strings would be shown as such in sentences
            pair_ids = [str(name) if isinstance(name, str) else name for name in pair_ids]
        pixel_values = self._ready(images, semantic=False)
        semantic_values = self._ready(semantic_maps, semantic=True)
        if pixel_values is not None and (semantic_maps is None or semantic_values is not None):
            count, maps_given = len(pixel_values), semantic_values is not None
            self._check_counts(count, None if semantic_values is None else len(semantic_values), pair_ids)
            if semantic_values is not None and pixel_values.shape[-2:] != semantic_values.shape[-2:]:
                raise ValueError(
                    f"semantic_maps are {tuple(semantic_values.shape)} for images {tuple(pixel_values.shape)}; give "
                    "maps of their size."
                )
            return PairPixels(pixel_values, semantic_values, torch.full((count,), maps_given), self.notes)

        pairs = _as_pairs(images, "images")
        maps = None if semantic_maps is None else _as_pairs(semantic_maps, "semantic_maps", len(pairs))
        self._check_counts(len(pairs), None if maps is None else len(maps), pair_ids)
        names: list[str | int] = list(range(len(pairs))) if pair_ids is None else list(pair_ids)
        done, done_maps, present = [], [], []
        for index, (name, pair, pair_maps) in enumerate(zip(names, pairs, maps or [None] * len(pairs), strict=True)):
            self._index = index
            pair_images, original = self._read_pair(pair, name, semantic=False, original=None)
            done.append(pair_images)
            has_maps = pair_maps is not None and not _both_missing(pair_maps)
            present.append(has_maps)
            done_maps.append(
                self._read_pair(pair_maps, name, semantic=True, original=original)[0] if has_maps else None
            )
        pixel_values = _stack(done, names)
        if maps is None:
            return PairPixels(pixel_values, None, torch.tensor(present), self.notes)
        shape = (2, self.settings["semantic_num_channels"], *pixel_values.shape[-2:])
        dtype = next((given.dtype for given in done_maps if given is not None), np.dtype(np.uint8))
        filled = [np.zeros(shape, dtype=dtype) if given is None else given for given in done_maps]
        return PairPixels(pixel_values, _stack(filled, names), torch.tensor(present), self.notes)

    def _ready(self, batch: Any, semantic: bool) -> torch.Tensor | None:
        """Return the batch as a tensor where it needs no reading and no resizing: the fast path."""
        if not isinstance(batch, torch.Tensor | np.ndarray) or batch.ndim != 5 or batch.shape[0] == 0:
            return None
        channels = self.settings["semantic_num_channels" if semantic else "num_channels"]
        size = tuple(batch.shape[3:]) if self.size is None else self.size
        if tuple(batch.shape[1:]) != (2, channels, *size) or 0 in size:
            return None
        if size[0] * size[1] > self.settings["max_image_pixels"] or np.ma.isMaskedArray(batch):
            return None  # what is wrong with it is said of the image that it is wrong with
        if isinstance(batch, torch.Tensor):
            values = batch
        else:
            if batch.dtype != np.uint8:
                return None
            array = np.ascontiguousarray(batch)
            values = torch.from_numpy(array if array.flags.writeable else array.copy())
        if values.dtype != torch.uint8 or values.layout != torch.strided:
            return None
        if semantic and channels == 3:
            if _has_class_numbers(values):
                return None
            if self.settings["white_to_void"]:
                white = (values == 255).all(dim=2, keepdim=True)
                values = values.masked_fill(white, 0)
        return values

    def _check_counts(self, pairs: int, maps: int | None, pair_ids: Sequence[str] | None) -> None:
        if pairs == 0:
            raise ValueError("images is empty; give at least one pair [before, after].")
        if maps is not None and maps != pairs:
            raise ValueError(f"semantic_maps has {maps} pairs for {pairs} pairs of images; use None where maps lack.")
        if pair_ids is not None and (isinstance(pair_ids, str) or len(pair_ids) != pairs):
            given = "one string" if isinstance(pair_ids, str) else f"{len(pair_ids)} ids"
            raise ValueError(f"pair_ids has {given} for {pairs} pairs; give a list with one for each.")

    def _read_pair(
        self, pair: Any, name: str | int, semantic: bool, original: tuple[int, int] | None
    ) -> tuple[np.ndarray, tuple[int, int]]:
        """Read one pair: (2, C, H, W), and the (height, width) of its image before, or `original` where given."""
        what = "semantic map" if semantic else "image"
        if pair is None:
            raise PairError.of(name, "both images are missing; give before and after")
        if not _is_sequence(pair):
            raise PairError.of(name, f"it is one {type(pair).__name__}; give [before, after]")
        if len(pair) != 2:
            raise PairError.of(name, f"{len(pair)} {what}s are given where before and after are expected; give both")

        settings = self.settings
        sources = [
            ImageSource(value, name, f"{what} {date}", self.allow_web) for value, date in zip(pair, DATES, strict=True)
        ]
        read = [
            source.read(
                num_channels=settings["semantic_num_channels" if semantic else "num_channels"],
                max_pixels=settings["max_image_pixels"],
                keep_float=self.keep_float,
                value_range=settings["value_range"],
                uint16_max=settings["uint16_max"],
                semantic=semantic,
            )
            for source in sources
        ]
        told = [note for source in sources for note in source.notes]
        if not semantic:
            told.append(compare(read[0], read[1], settings["value_range"]) or "")
        for note in told:
            self._note(name, note)
        arrays = [one.array for one in read]
        if semantic:
            arrays = [self._clean_map(array, source) for array, source in zip(arrays, sources, strict=True)]

        reference = self._compare_sizes(sources, arrays, original)
        if self.size is not None:
            resample = settings["semantic_resample" if semantic else "resample"]
            arrays = [resize_channels(array, *self.size, int(resample)) for array in arrays]
        if arrays[0].dtype != arrays[1].dtype:
            raise sources[1].error(
                "has floating-point values where the other date has integers, or the reverse; convert both alike"
            )
        return np.stack(arrays), reference

    def _clean_map(self, array: np.ndarray, source: ImageSource) -> np.ndarray:
        if array.dtype != np.uint8 or array.shape[0] != 3:
            return array
        grey = (array[0] == array[1]).all() and (array[0] == array[2]).all()
        if grey and 0 < array.max() < _FEWEST_COLOURS:
            raise source.error(f"looks like class numbers (up to {array.max()}); give the map in its colours")
        return white_to_black(array) if self.settings["white_to_void"] else array

    def _compare_sizes(
        self, sources: list[ImageSource], arrays: list[np.ndarray], original: tuple[int, int] | None
    ) -> tuple[int, int]:
        """Compare the dates with `original`, else with the image before, and return that (height, width)."""
        reference = original or (arrays[0].shape[1], arrays[0].shape[2])
        reference_name = "its image before" if original else f"{sources[0].file}"
        for source, array in zip(sources, arrays, strict=True):
            given = (array.shape[1], array.shape[2])
            if given == reference:
                continue
            sizes = f"is {given[1]}x{given[0]} where {reference_name} is {reference[1]}x{reference[0]}"
            if not same_aspect(given, reference, self.settings["size_tolerance"]):
                raise source.error(
                    f"{sizes}: the aspect ratios differ, so the two cannot show the same place; give images of one "
                    "place, or raise size_tolerance"
                )
            if self.size is None:
                raise source.error(f"{sizes}, and do_resize is off; turn it on")
            self._note(source.pair, f"{source.role} {source.file} {sizes}: resized")
        return reference

    def _note(self, name: str | int, message: str) -> None:
        if message:
            self.notes.append({"pair": name, "index": self._index, "message": message})


def _as_pairs(batch: Any, name: str, expected: int | None = None) -> list[Any]:
    """Return the pairs of a batch, also of one that is a single pair `[before, after]`.

    Args:
        batch: What was given as `images` or `semantic_maps`.
        name: Which of the two, for errors.
        expected: Number of pairs of images, to tell `[None, None]` for one pair from two pairs without maps.
    """
    if isinstance(batch, np.ndarray) and batch.dtype.kind in "OUT":  # of paths or images
        batch = batch.tolist()
    if isinstance(batch, torch.Tensor | np.ndarray):
        if batch.ndim == 5:
            return list(batch)
        if batch.ndim == 4 and batch.shape[0] == 2:
            return [batch]
        raise ValueError(f"{name} has shape {tuple(batch.shape)}; give (batch, 2, C, H, W) or (2, C, H, W).")
    if _is_collection(batch):
        batch = list(batch)
    if not isinstance(batch, list | tuple):
        raise ValueError(f"{name} is a {type(batch).__name__}; give a list of pairs [[before, after], ...].")
    batch = [_as_pair(item) for item in batch]
    if all(item is None or _is_sequence(item) for item in batch):
        single = len(batch) == 2 and expected == 1 and _both_missing(batch)
        return [batch] if single else batch
    if len(batch) == 2 and not any(_is_sequence(item) for item in batch):
        return [batch]
    raise ValueError(
        f"{name} is no batch; it must be a list of pairs [[before, after], ...] or one pair [before, after]."
    )


def _is_collection(value: Any) -> bool:
    """Tell whether it is another kind of list, in an order: a generator, a column of a table; no table, no image."""
    single = (str, bytes, bytearray, memoryview, os.PathLike, Mapping, set, frozenset, np.generic, np.ndarray)
    if isinstance(value, (*single, list, tuple, Image.Image, torch.Tensor)) or not isinstance(value, Iterable):
        return False
    return not hasattr(value, "read") and not hasattr(value, "columns") and getattr(value, "ndim", 1) == 1


def _as_pair(item: Any) -> Any:
    """Return a pair of a list as a list, where it came as an array of paths or images or as another kind of list."""
    if isinstance(item, np.ndarray) and item.ndim == 1 and item.dtype.kind in "OUT":
        return item.tolist()
    return list(item) if _is_collection(item) else item


def _has_class_numbers(maps: torch.Tensor) -> bool:
    """Tell whether one of these maps, (batch, 2, 3, H, W) uint8, is grey and of numbers below 32; see `_clean_map`."""
    brightest = maps.amax(dim=(2, 3, 4))  # (batch, 2)
    doubtful = maps[(brightest > 0) & (brightest < _FEWEST_COLOURS)]  # (doubtful, 3, H, W)
    if not len(doubtful):
        return False
    return bool((doubtful == doubtful[:, :1]).flatten(1).all(dim=1).any())


def _is_sequence(item: Any) -> bool:
    return isinstance(item, list | tuple) or (isinstance(item, torch.Tensor | np.ndarray) and item.ndim == 4)


def _both_missing(pair: Any) -> bool:
    return isinstance(pair, list | tuple) and len(pair) == 2 and pair[0] is None and pair[1] is None


def _stack(arrays: list[np.ndarray], names: list[Any]) -> torch.Tensor:
    for array, name in zip(arrays, names, strict=True):
        if array.shape != arrays[0].shape or array.dtype != arrays[0].dtype:
            raise PairError.of(
                name,
                f"it is {array.dtype} of shape {array.shape} where the first pair of the batch is {arrays[0].dtype} "
                f"of shape {arrays[0].shape}; turn do_resize on or convert the images",
            )
    return torch.from_numpy(np.stack(arrays))
