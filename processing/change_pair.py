"""A pair of images and all that belongs to it: what is captioned, whichever way it came."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Pair:
    """One place at two dates.

    An image is a path, bytes, an undecoded image of `datasets`, a PIL image, a numpy array or a torch tensor.

    Attributes:
        id: Its name, or its place among the pairs of a call; errors and notes name it.
        before: The earlier image.
        after: The later image.
        maps: Its semantic maps `(before, after)`; None: it has none, as does a pair with two that are None. Where one
            is None the map of that date is missing, which is an error once the pair is asked about.
        question: What is asked about it, where the model takes questions; None: what the checkpoint asks.
        references: Reference captions, where some are known.
        changed: Whether something changed, where that is known.
        place: Where it lies, where that is known.
    """

    id: str | int
    before: Any
    after: Any
    maps: tuple[Any, Any] | None = None
    question: str | None = None
    references: Sequence[str] | None = None
    changed: bool | None = None
    place: Any = None

    def __post_init__(self) -> None:
        if self.maps is not None and all(one is None for one in self.maps):
            object.__setattr__(self, "maps", None)
