"""What goes into captioning and what comes out: a pair and its caption."""

from __future__ import annotations

from dataclasses import dataclass

from rscc_hf.processing.change_pair import Pair

__all__ = ["Caption", "Pair"]


@dataclass(frozen=True)
class Caption:
    """The answer for one pair: its text, or the reason why there is none.

    Attributes:
        text: What was written; None where the pair could not be used.
        changed: Whether the text says that something changed, by `rscc_hf.data.captions.is_no_change`; None where
            there is no text.
        notes: What was done to the images so that they fit (for instance that one date was resized to the other).
        error: Why the pair could not be used, one sentence; None where there is a text.
    """

    text: str | None
    changed: bool | None = None
    notes: tuple[str, ...] = ()
    error: str | None = None

    @property
    def caption(self) -> str | None:
        """The text, by its name in version 0.1."""
        return self.text
