"""Images of a data set's rows as they are stored: a file's bytes or its path, opened without going to the web."""

import io
import re
from collections.abc import Callable
from typing import Any

import fsspec
import numpy as np
import PIL.Image
from datasets import Image, IterableDataset

from rscc_hf.processing.change_pair_files import open_page, pixels_of
from rscc_hf.processing.change_pair_web import read_address, shown_address

# What begins the addresses that `datasets` makes of files on the Hub and in archives.
_OF_DATASETS = {"hf", "zip", "tar", "gzip", "bz2", "lz4", "xz", "zstd"}


def undecoded(dataset: Any) -> Any:
    """Return the data set with images left as files (`{"bytes": ..., "path": ...}`), so that errors can name them."""
    if isinstance(dataset, IterableDataset):
        return dataset.decode(False) if dataset.features else dataset
    for name, feature in dataset.features.items():
        if isinstance(feature, Image):
            dataset = dataset.cast_column(name, Image(decode=False))
    return dataset


def source_of(value: Any) -> Any:
    """Return what a processor reads: of a file that only `datasets` can open (on the Hub) the bytes.

    Other addresses are for the processor to refuse.
    """
    if isinstance(value, dict) and value.get("bytes") is None:
        path = str(value.get("path"))
        schemes = set(re.findall(r"([\w+.-]*)://", path))
        if schemes and schemes <= _OF_DATASETS:
            with fsspec.open(path, "rb") as file:
                return {"bytes": file.read(), "path": path}
    return value


def open_stored(value: Any, error: Callable[[str], ValueError]) -> PIL.Image.Image:
    """Open an image that is stored in a row and that no processor reads, a mask for instance, as a processor would.

    Args:
        value: The image, undecoded; one that Pillow has opened already is taken as it is.
        error: Makes the error of a reason, which follows the image's address or the name of its file.

    Returns:
        The image, whole and turned upright.

    Raises:
        ValueError: Of `error`: it is at an address on the web, damaged, or no image that is read here.
    """
    if isinstance(value, PIL.Image.Image):
        return value
    value = source_of(value)
    content, path = value.get("bytes"), value.get("path")
    subject = f"{shown_address(path)} " if path else ""

    def named(reason: str) -> ValueError:
        return error(f"{subject}{reason}")

    if content is None and path is not None:
        read_address(path, False, named)
    image, _ = open_page(path if content is None else io.BytesIO(content), named)
    with image:
        array = pixels_of(image, 3, named).array
    if array.dtype == np.uint16 and array.ndim == 3:  # as Pillow reads colours of 16 bits
        array = (array >> 8).astype(np.uint8)
    try:
        return PIL.Image.fromarray(array)
    except TypeError:
        raise named(f"has values of type {array.dtype}; save it with 8 bits") from None
