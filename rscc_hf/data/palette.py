"""The colours of semantic maps: SECOND's palette, as SECOND-CC and the synthetic scenes use it.

Source: SECOND (Yang et al. 2021) and SECOND-CC (arXiv 2501.10075). SECOND labels only what changed: everything else is
white, in some copies black. SECOND-CC-AUG brightened maps together with the images, so that each colour also occurs
with 80 added and saturated.
"""

import numpy as np

from rscc_hf.errors import InputError

VOID: tuple[int, int, int] = (255, 255, 255)
"""The colour of pixels without a label: "no change" in SECOND."""

CLASSES: dict[str, tuple[int, int, int]] = {
    "void": VOID,
    "ground": (128, 128, 128),
    "low vegetation": (0, 128, 0),
    "tree": (0, 255, 0),
    "water": (0, 0, 255),
    "building": (128, 0, 0),
    "playground": (255, 0, 0),
}
"""Class name to colour; the position is the class number. "ground" is ground without plants: roads, bare land."""

CLASS_NAMES: tuple[str, ...] = tuple(CLASSES)

BRIGHTENING = 80
"""What SECOND-CC-AUG's augmenter adds to every channel of images and maps."""


def brightened(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the colour as SECOND-CC-AUG's brightness step leaves it (80 added, saturated at 255)."""
    red, green, blue = (min(255, channel + BRIGHTENING) for channel in colour)
    return red, green, blue


BRIGHTENED: dict[str, tuple[int, int, int]] = {name: brightened(colour) for name, colour in CLASSES.items()}
"""Class name to its brightened colour. White stays white."""

_BLACK = (0, 0, 0)  # the void of some copies


def _code(colour: tuple[int, int, int]) -> int:
    return (colour[0] << 16) | (colour[1] << 8) | colour[2]


def _table() -> tuple[np.ndarray, np.ndarray]:
    codes = {_code(_BLACK): 0, _code(brightened(_BLACK)): 0}
    for number, name in enumerate(CLASS_NAMES):
        codes[_code(CLASSES[name])] = number
        codes[_code(BRIGHTENED[name])] = number
    order = sorted(codes)
    return np.array(order, dtype=np.int32), np.array([codes[code] for code in order], dtype=np.uint8)


_CODES, _CODE_CLASSES = _table()
_COLOURS = np.array([CLASSES[name] for name in CLASS_NAMES], dtype=np.uint8)


def colours_to_classes(array: np.ndarray, where: str = "semantic map") -> np.ndarray:
    """Translate a colour map into class numbers (positions in `CLASS_NAMES`).

    Args:
        array: The map, uint8 of shape (height, width, 3).
        where: What to call the map in an error: a file name.

    Returns:
        uint8 of shape (height, width); 0 is void (white or black), brightened colours mean the same classes.

    Raises:
        ValueError: The shape is wrong, or a colour is not one of the palette; the sentence names `where`.
    """
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise InputError(
            f"{where}: a semantic map must be 8-bit RGB of shape (height, width, 3), not {array.dtype} {array.shape}; "
            "convert it to RGB first."
        )
    wide = array.astype(np.int32)
    codes = (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]
    positions = np.minimum(np.searchsorted(_CODES, codes), len(_CODES) - 1)
    wrong = _CODES[positions] != codes
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        colour = tuple(int(channel) for channel in array[row, column])
        raise InputError(
            f"{where}: the colour {colour} at row {row}, column {column} is not in SECOND's palette; save the map "
            "without smoothing or lossy compression, or translate its colours."
        )
    return _CODE_CLASSES[positions]


def classes_to_colours(classes: np.ndarray) -> np.ndarray:
    """Translate class numbers of any shape into palette colours, uint8 of shape `classes.shape + (3,)`.

    Raises:
        ValueError: A number is outside 0..6.
    """
    if classes.size and (classes.min() < 0 or classes.max() >= len(CLASS_NAMES)):
        raise InputError(f"Class numbers must be between 0 and {len(CLASS_NAMES) - 1}; check the map's classes.")
    return _COLOURS[classes]


def restrict_to_changes(semantic_map_array: np.ndarray, change_mask_array: np.ndarray) -> np.ndarray:
    """Make every pixel outside the change mask white, as SECOND's own maps are.

    Such maps give away whether anything changed at all: say so beside every score that used them.

    Args:
        semantic_map_array: uint8 of shape (height, width, 3).
        change_mask_array: Shape (height, width); any value but 0 means "changed".

    Returns:
        A new array of the shape of `semantic_map_array`.

    Raises:
        ValueError: The two sizes differ.
    """
    if semantic_map_array.shape[:2] != change_mask_array.shape or semantic_map_array.ndim != 3:
        raise InputError(
            f"The semantic map {semantic_map_array.shape} and the change mask {change_mask_array.shape} must have the "
            "same height and width; pass the mask of the same pair as (height, width)."
        )
    return np.where(change_mask_array[..., None] != 0, semantic_map_array, np.uint8(255))
