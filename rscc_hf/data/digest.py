"""Digests of data sets: whether the pairs of a run that goes on are those it began with."""

import hashlib
import json
from pathlib import Path
from typing import Any

from datasets import Dataset, Image

from rscc_hf.data.rows import image_contents
from rscc_hf.data.schema import FEATURES

_IMAGES = tuple(name for name, feature in FEATURES.items() if isinstance(feature, Image))
_TEXTS = ("pair_id", "captions", "changed")
_ROWS = 256  # looked at at a time
_BLOCK = 4096
_BLOCKS = 16


def data_digest(dataset: Dataset) -> str:
    """Return the digest of what a model learns from: ids, captions, `changed`, images and maps, in the rows' order.

    It depends on the contents alone: not on the folder, the shards, the kind of files or further columns. Images are
    not decoded. One of more than 64 KiB counts by its length and 16 blocks of 4 KiB that are spread over it, its
    beginning and its end among them (where PNG keeps the checksum of all pixels), so that ten thousand pairs take
    seconds. An image that is a file beside the data set counts by that file's bytes in the same way.

    Args:
        dataset: As `load_pairs` gives it, with maps as they are (`semantic_coverage="full"`).

    Returns:
        32 hex digits.
    """
    total = hashlib.blake2b(digest_size=16)
    names = [name for name in (*_TEXTS, *_IMAGES) if name in dataset.column_names]
    arrow: Any = dataset.select_columns(names).with_format("arrow")
    for table in arrow.iter(batch_size=_ROWS):
        texts = table.select([name for name in _TEXTS if name in names]).to_pylist()
        columns = [image_contents(table.column(name)) for name in _IMAGES if name in names]
        for row, images in zip(texts, zip(*columns, strict=True), strict=True):
            total.update(json.dumps([row.get(name) for name in _TEXTS]).encode())
            for image in images:
                _update(total, image)
    return total.hexdigest()


def files_digest(files: list[Path]) -> str:
    """Return the digest of a stream's files in their order: by all bytes, or, of large ones, by samples as of images.

    A file of more than 64 MiB counts by its length, its last MiB (where parquet says where what is, with the least and
    greatest values of columns) and 4 KiB of every MiB.

    Args:
        files: The shards; their names and folders do not count.

    Raises:
        OSError: A file cannot be read.
    """
    total = hashlib.blake2b(digest_size=16)
    mebibyte = 1 << 20
    for path in files:
        size = path.stat().st_size
        total.update(f"{size};".encode())
        with path.open("rb") as file:
            if size <= 64 * mebibyte:
                while block := file.read(mebibyte):
                    total.update(block)
                continue
            for start in range(0, size, mebibyte):
                file.seek(start)
                total.update(file.read(_BLOCK))
            file.seek(size - mebibyte)
            total.update(file.read(mebibyte))
    return total.hexdigest()


def names_digest(names: list[str]) -> str:
    """Return the digest of addresses that hold their commit, as those of a Hub data set's files do."""
    return hashlib.blake2b(json.dumps(names).encode(), digest_size=16).hexdigest()


def _update(total: Any, image: Any) -> None:
    if image is None:
        total.update(b"none;")
    elif isinstance(image, str):
        path = Path(image)
        if not path.is_file():  # on the Hub, or missing, which reading it will tell
            total.update(f"at {image};".encode())
            return
        size = path.stat().st_size
        total.update(f"{size};".encode())
        with path.open("rb") as file:
            for start, length in _places(size):
                file.seek(start)
                total.update(file.read(length))
    else:
        total.update(f"{len(image)};".encode())
        for start, length in _places(len(image)):
            total.update(image[start : start + length])


def _places(size: int) -> list[tuple[int, int]]:
    """Return which parts (start, length) of so many bytes count."""
    if size <= _BLOCK * _BLOCKS:
        return [(0, size)]
    return [((size - _BLOCK) * number // (_BLOCKS - 1), _BLOCK) for number in range(_BLOCKS)]
