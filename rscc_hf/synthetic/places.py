"""Where a change lies: the place names of records, computed from a mask."""

import numpy as np

from rscc_hf.errors import InputError
from rscc_hf.synthetic.layout import third

PLACES: tuple[str, ...] = (
    "top left",
    "top",
    "top right",
    "left",
    "center",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
    "across",
)
"""Nine cells of the frame by rows, then "across": from side to side and from top to bottom."""

_ACROSS = 0.75  # of the width and of the height


def describe_mask(mask: np.ndarray) -> tuple[str, list[int], list[float], float]:
    """Describe where the set pixels of a mask lie.

    Args:
        mask: bool of shape (height, width), with at least one pixel set.

    Returns:
        The place (one of `PLACES`); the bounding box `[left, top, right, bottom]` in pixels, right and bottom
        excluded; the centroid `[x, y]` in 0..1; and the share of the frame that is set.

    Raises:
        ValueError: No pixel is set.
    """
    if not mask.any():
        raise InputError("The mask is empty, so that it has no place; pass the mask of an event.")
    height, width = mask.shape
    columns, rows = mask.sum(0, dtype=np.int64), mask.sum(1, dtype=np.int64)
    total = int(columns.sum())
    x = float((columns * (np.arange(width) + 0.5)).sum() / total / width)
    y = float((rows * (np.arange(height) + 0.5)).sum() / total / height)
    filled_x, filled_y = np.flatnonzero(columns), np.flatnonzero(rows)
    box = [int(filled_x[0]), int(filled_y[0]), int(filled_x[-1]) + 1, int(filled_y[-1]) + 1]
    if box[2] - box[0] >= _ACROSS * width and box[3] - box[1] >= _ACROSS * height:
        place = "across"
    else:
        place = PLACES[third(y) * 3 + third(x)]
    return place, box, [round(x, 4), round(y, 4)], round(total / mask.size, 5)
