"""Semantic maps of changed pixels only, for some of the samples. No part of the papers; off by default."""

from typing import NamedTuple


class Coverage(NamedTuple):
    """When maps show changed pixels only (as SECOND's do) although the data has whole ones.

    Where something changed is easy to see on such maps. A model from nothing learns on them to say where, and then
    finds it far sooner on whole maps, where it must compare the dates cell by cell.

    Attributes:
        epochs: In this many epochs at the start every map is such.
        share: Afterwards this share of the samples.
    """

    epochs: int = 0
    share: float = 0.0

    def __bool__(self) -> bool:
        return self.epochs > 0 or self.share > 0
