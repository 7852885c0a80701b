"""What `rscc data synthesize` leaves in a data set: a README.md with seed and options, and names of pairs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

SOURCE = "synthetic"
"""What the column `source` of its pairs says."""

MARK = "made by `rscc data synthesize`"
"""What the README.md of such a data set says, by which it is known."""

_PAIR_ID = re.compile(rf"{SOURCE}_\d+_\d{{6,}}")
_TOLD = re.compile(
    r"Pairs: (?P<sizes>[^.\n]*)\. Seed: (?P<seed>\d+)\. Options:\s+```json\n(?P<options>.*?)\n```", re.DOTALL
)


def name_pair(seed: int, index: int) -> str:
    """Return the id of a pair."""
    return f"{SOURCE}_{seed}_{index:06d}"


def is_drawn(pair_id: Any, source: Any, record: Any) -> bool:
    """Tell whether a row is named and recorded as `rscc data synthesize` does it: to be called so is not enough."""
    if source != SOURCE or not isinstance(record, str) or not _PAIR_ID.fullmatch(str(pair_id)):
        return False
    try:
        content = json.loads(record)
    except json.JSONDecodeError:
        return False
    return isinstance(content, dict) and isinstance(content.get("events"), list)


@dataclass(frozen=True)
class Synthesis:
    """How a data set was drawn.

    Attributes:
        sizes: Pairs of each split, by its name.
        seed: Of the draws.
        options: The values of `rscc_hf.synthetic.dataset.SceneOptions`, as JSON types.
    """

    sizes: dict[str, int]
    seed: int
    options: dict[str, Any]

    def options_text(self) -> str:
        """Return the options as JSON for people."""
        return json.dumps(self.options, indent=2)

    def text(self) -> str:
        """Return the README.md."""
        files = "\n".join(f"  - split: {name}\n    path: data/{name}-*.parquet" for name in self.sizes)
        return (
            "---\nlicense: apache-2.0\ntask_categories:\n- image-to-text\nlanguage:\n- en\ntags:\n- remote-sensing\n"
            "- change-captioning\n- synthetic\npretty_name: Synthetic change captioning scenes\nconfigs:\n"
            f"- config_name: default\n  data_files:\n{files}\n---\n\n"
            "# Synthetic change captioning scenes\n\n"
            f"Procedural pairs of aerial views of one place, before and after, {MARK}. Nothing "
            "in them is a photograph.\n\n"
            "Columns: `pair_id`, `image_before`, `image_after`, `semantic_before`, `semantic_after` (SECOND's palette,"
            " the whole scene), `change_mask` (0 or 255), `captions` (five), `changed`, `source`, `record` (JSON: "
            "what happened, where, how many).\n\n"
            f"Pairs: {', '.join(f'{name} {size}' for name, size in self.sizes.items())}. Seed: {self.seed}. "
            f"Options:\n\n```json\n{self.options_text()}\n```\n"
        )

    @classmethod
    def parse(cls, card: str) -> Synthesis | None:
        """Read a README.md; None: it does not tell all of it."""
        told = _TOLD.search(card) if MARK in card else None
        if told is None:
            return None
        try:
            options = json.loads(told["options"])
            sizes = {name: int(size) for name, _, size in (one.rpartition(" ") for one in told["sizes"].split(", "))}
        except ValueError:
            return None
        return cls(sizes, int(told["seed"]), options) if isinstance(options, dict) else None
