"""Images of a data set's rows as they are stored: a file's bytes or its path, opened without going to the web."""

import re
from collections.abc import Callable
from typing import Any

import PIL.Image
from datasets import Image, IterableDataset

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
    """Return what a processor reads: an image file that only `datasets` can open (on the Hub) is opened here.

    Other addresses are for the processor to refuse.
    """
    if isinstance(value, dict) and value.get("bytes") is None:
        schemes = set(re.findall(r"([\w+.-]*)://", str(value.get("path"))))
        if schemes and schemes <= _OF_DATASETS:
            return Image().decode_example(value)
    return value


def open_stored(value: Any, error: Callable[[str], ValueError]) -> PIL.Image.Image:
    """Open an image that is stored in a row and that no processor reads, a mask for instance.

    Args:
        value: The image, undecoded.
        error: Makes the error of a reason, which follows the image's address.

    Raises:
        ValueError: Of `error`: it is at an address on the web.
    """
    value = source_of(value)
    if isinstance(value, PIL.Image.Image):
        return value
    if value.get("bytes") is None:
        path = str(value.get("path"))
        read_address(path, False, lambda reason: error(f"{shown_address(path)} {reason}"))
    return Image().decode_example(value)
