"""What a captioner is called with, in one form: lists of any kind as lists, one image as one image."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from rscc_hf.data.lists.items import IMAGES, MAPS
from rscc_hf.errors import InputError, input_errors
from rscc_hf.pair import Pair
from rscc_hf.processing.change_pair_values import checked_range

NAMES = (*IMAGES, *MAPS)


def listed(value: Any, name: str) -> Sequence[Any] | None:
    """Return the values of an argument that is a list of any kind: a column, an array of paths, a generator.

    Args:
        value: Of the argument. An array with four dimensions is a list of images, one with two or three is an image.
        name: Of the argument.

    Returns:
        Something with a length and places (lazy where `value` is, as a column of `datasets`); None: it is one image.

    Raises:
        ValueError: It is several columns, has no order, or is an array of something else.
    """
    if (
        value is None
        or isinstance(value, str | bytes | bytearray | memoryview | os.PathLike)
        or hasattr(value, "read")
    ):
        return None
    if hasattr(value, "columns") or hasattr(value, "column_names"):
        raise InputError(f"{name} is a {type(value).__name__}; give one of its columns.")
    if isinstance(value, Mapping) or isinstance(getattr(value, "size", None), tuple):  # a file, an image of Pillow's
        return None
    if hasattr(value, "to_pylist"):  # a column of Arrow
        return value.to_pylist()
    if isinstance(value, set | frozenset):
        raise InputError(f"{name} is a {type(value).__name__}, which has no order; give a list.")
    dimensions = getattr(value, "ndim", None)
    if dimensions is not None and not isinstance(value, list):
        return _of_array(value, name, dimensions)
    if isinstance(value, Sequence):
        return value
    return list(value) if isinstance(value, Iterable) else None


def _of_array(value: Any, name: str, dimensions: int) -> Sequence[Any] | None:
    if dimensions in (0, 2, 3):
        return None
    if dimensions == 1 and not isinstance(value, np.ndarray | torch.Tensor):
        return list(value)  # a column of pandas: what `[]` means there is its index's affair
    kind = value.dtype.kind if isinstance(value, np.ndarray) else ""
    if dimensions == 1 and kind == "S":
        raise InputError(f"{name} is an array of bytes, which has lost the zeros at their ends; give a list.")
    if dimensions == 1 and kind in ("O", "U", "T"):
        return value.tolist()
    if dimensions == 4:
        return value
    if dimensions == 1 and not len(value):
        return []
    raise InputError(
        f"{name} has shape {tuple(value.shape)}; give an image (H, W), (H, W, C) or (C, H, W), images with one more "
        "dimension in front, or a list."
    )


def present(value: Any) -> Any:
    """Return a value of a list, None for what a table has where there is none (NaN, pandas' NA and NaT)."""
    missing = (isinstance(value, float) and value != value) or type(value).__name__ in ("NAType", "NaTType")
    return None if missing else value


def pairs_of(given: Mapping[str, Sequence[Any] | None], pair_ids: Any, text: Any) -> Iterator[Pair]:
    """Return the pairs of lists of images; a lazy list is read pair by pair.

    Args:
        given: The lists by name, all of `NAMES`; those of maps may be None.
        pair_ids: A name for each pair; None: their places.
        text: One question for all, or one for each.

    Raises:
        ValueError: Lists are missing or of unequal length, or a name or question is none.
    """
    lists = {name: values for name, values in given.items() if values is not None}
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise InputError(f"lists of unequal length: {told}; give one of each for every pair.")
    missing = [name for name in NAMES[2:] if name not in lists]
    if len(missing) == 1:
        raise InputError(f"{missing[0]} is missing; give the semantic maps of both dates or of none.")
    count = len(lists["before"])
    names = names_of(pair_ids, count)
    if pair_ids is not None and names is None:
        raise InputError("before is a list, so pair_ids must be a list too; give one for each pair.")
    questions = one_question_each(text, count)

    def pairs() -> Iterator[Pair]:
        for row in range(count):
            before, after, *maps = (present(lists[name][row]) if name in lists else None for name in NAMES)
            name = row if names is None else names[row]
            yield Pair(name, before, after, maps=(maps[0], maps[1]), question=questions[row])

    return pairs()


def one_question_each(text: Any, count: int) -> Sequence[str | None]:
    """Return the question of each of `count` pairs.

    Raises:
        ValueError: Another number of questions than pairs, or something that is no question.
    """
    if text is None or isinstance(text, str):
        return [text] * count
    several = listed(text, "text")
    if several is None:
        raise InputError(
            f"text is a {type(text).__name__}; give one question for all pairs or a list with one for each."
        )
    if len(several) != count:
        raise InputError(
            f"text has {len(several)} questions for {count} pairs; give one string for all pairs, or one for each."
        )
    questions = [present(question) for question in several]
    for place, question in enumerate(questions):
        if question is not None and not isinstance(question, str):
            raise InputError(f"text has a {type(question).__name__} at place {place}; give a string, or None.")
    return questions


def names_of(pair_ids: Any, count: int) -> Sequence[str] | None:
    """Return the names of `count` pairs.

    Raises:
        ValueError: It is no list, of another length, or lacks some.
    """
    several = listed(pair_ids, "pair_ids")
    if several is None:
        return None
    names = [present(name) for name in several]
    for place, name in enumerate(names):
        if name is None:
            raise InputError(f"pair_ids has no name at place {place}; give one for each pair, or none at all.")
    if len(names) != count:
        raise InputError(f"lists of unequal length: {count} before, {len(names)} pair_ids; give one for every pair.")
    return [str(name) for name in names]


def check_generation(model: Any, given: Mapping[str, Any]) -> None:
    """Check settings of decoding before anything is written; what else is for `model.generate` it says itself.

    Raises:
        ValueError: Of a value.
    """
    defaults = getattr(model, "generation_config", None)  # a model of somebody else's need not have one
    if defaults is not None:
        with input_errors():
            copy.deepcopy(defaults).update(**given)


def range_settings(processor: Any, value_range: Any, name: str) -> dict[str, Any]:
    """Return settings of a processor's images for one call.

    Args:
        processor: The checkpoint's.
        value_range: See `ChangeCaptioner`; None: nothing is set.
        name: Of the checkpoint, for errors.

    Raises:
        ValueError: It is no range, or the checkpoint's image processor is one without.
    """
    if value_range is None:
        return {}
    known = getattr(getattr(processor, "image_processor", None), "valid_kwargs", None)
    if "value_range" not in getattr(known, "__annotations__", ()):
        raise InputError(f"{name} has an image processor without value_range; scale the images to 8 bits.")
    with input_errors():
        return {"value_range": checked_range(value_range)}
