"""Uncompressed TIFF files with the tags that Pillow does not write."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

SUBFILE, PHOTOMETRIC, PLANES = 254, 262, 284
REDUCED, MASK = 1, 4  # of SUBFILE


def write_tiff(path: Path, pages: Sequence[tuple[np.ndarray, dict[int, int]]], order: str = "<") -> Path:
    """Writes pages of (H, W) or (H, W, C) numbers, each with tags of its own, one strip a page (or one a plane).

    Args:
        path: The file.
        pages: Arrays, and tags that replace the usual ones.
        order: "<" or ">": of the bytes.
    """
    content = bytearray({"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8))
    for number, (given, tags) in enumerate(pages):
        array = np.atleast_3d(given)
        height, width, bands = array.shape
        array = array.astype(array.dtype.newbyteorder(order))
        planes = [array[..., band] for band in range(bands)] if tags.get(PLANES) == 2 else [array]
        usual: dict[int, Any] = {
            **{SUBFILE: 0, 256: width, 257: height, 258: [array.itemsize * 8] * bands, 259: 1},
            **{PHOTOMETRIC: 2 if bands > 2 else 1, 277: bands, 278: height, PLANES: 1},
            **{273: [0] * len(planes), 279: [plane.nbytes for plane in planes]},
            339: [{"u": 1, "i": 2, "f": 3}[array.dtype.kind]] * bands,
        }
        if bands > 3:
            usual[338] = [0] * (bands - 3)
        entries = {tag: value if isinstance(value, list) else [value] for tag, value in (usual | tags).items()}
        outside = len(content) + 2 + 12 * len(entries) + 4  # where what does not fit into an entry goes
        long = {tag: 4 * len(values) for tag, values in entries.items() if len(values) > 1}
        at = outside + sum(long.values())
        entries[273] = [at + sum(plane.nbytes for plane in planes[:place]) for place in range(len(planes))]
        head, tail = struct.pack(f"{order}H", len(entries)), b""
        for tag, values in sorted(entries.items()):
            packed = struct.pack(f"{order}{len(values)}I", *values)
            head += struct.pack(f"{order}HHI", tag, 4, len(values))
            head += struct.pack(f"{order}I", outside + len(tail)) if tag in long else packed
            tail += packed if tag in long else b""
        body = b"".join(plane.tobytes() for plane in planes)
        body += b"\0" * (len(body) % 2)
        following = at + len(body) if number < len(pages) - 1 else 0
        content += head + struct.pack(f"{order}I", following) + tail + body
    path.write_bytes(content)
    return path
