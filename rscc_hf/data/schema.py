"""The schema of a pair: every data set of the project becomes rows with these columns."""

from collections.abc import Iterable

from datasets import Features, Image, List, Value

FEATURES = Features(
    {
        "pair_id": Value("string"),
        "image_before": Image(),
        "image_after": Image(),
        "semantic_before": Image(),
        "semantic_after": Image(),
        "change_mask": Image(),
        "captions": List(Value("string")),
        "changed": Value("bool"),
        "source": Value("string"),
    }
)
"""All columns of the schema. Optional ones may be missing from a data set, or be None in a row."""

OPTIONAL: tuple[str, ...] = ("semantic_before", "semantic_after", "change_mask")
"""Columns that a data set may leave out: colour maps in SECOND's palette, and a mask (0 unchanged, 255 changed)."""

REQUIRED: tuple[str, ...] = tuple(name for name in FEATURES if name not in OPTIONAL)
"""Columns that every data set has."""


def check_columns(columns: Iterable[str], where: str) -> None:
    """Check that a data set has the columns of the schema; further columns are allowed.

    Args:
        columns: The column names of the data set.
        where: What to call the data set in an error: a path or a Hub id.

    Raises:
        ValueError: A required column is missing, or one of the two semantic maps without the other.
    """
    present = set(columns)
    missing = [name for name in REQUIRED if name not in present]
    if missing:
        raise ValueError(
            f"{where}: the column{'s' if len(missing) > 1 else ''} {', '.join(missing)} "
            f"{'are' if len(missing) > 1 else 'is'} missing; a pair needs {', '.join(REQUIRED)}."
        )
    maps = {"semantic_before", "semantic_after"}
    if len(maps & present) == 1:
        (there,) = maps & present
        (absent,) = maps - present
        raise ValueError(f"{where}: the column {there} is there but {absent} is not; give both maps or neither.")
