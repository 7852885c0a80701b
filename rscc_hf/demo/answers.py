"""What the demo's model says about the test split, and how right it is.

Every condition is captioned through `ChangeCaptioner`, the way a user would, and scored by the package's one scorer.
Beside the n-gram scores stands the content: a caption that calls a lake a building scores well and is wrong, so on
changed pairs the stated kind of change, object, place and count are compared with the generator's own record.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from datasets import Dataset

from rscc_hf.data.lists.items import DatasetPairs
from rscc_hf.evaluation import ChangeCaptionScorer
from rscc_hf.inference.captioner import ChangeCaptioner
from rscc_hf.synthetic.caption_facts import judge
from rscc_hf.synthetic.dataset import plain_sentence

#: What is looked up in the record, in the order of the table.
CONTENT = ("kind", "object", "place", "count")


@dataclass(frozen=True)
class Condition:
    """What the model gets: `maps` is the semantic coverage, None for no maps."""

    key: str
    name: str
    maps: str | None


CONDITIONS = (
    Condition("maps", "RGB and maps", "full"),
    Condition("rgb", "RGB alone", None),
    Condition("changed_maps", "RGB, maps of changes", "changed"),
)


#: The stages of CCExpert that are scored, the last first, as on the page.
SCORED = (
    ("stage3", "stage III"),
    ("stage2", "stage II"),
    ("stage1", "stage I"),
    ("stage0", "stage 0 (module off)"),
)


@dataclass(frozen=True)
class Row:
    """One row of the demo's table; every number is in per cent or a score times 100."""

    name: str
    scores: dict[str, float]
    accuracy: dict[str, float | None] = field(default_factory=dict)
    content: dict[str, float | None] = field(default_factory=dict)
    ours: bool = False


def captions_of_split(
    captioner: ChangeCaptioner,
    pairs: Dataset,
    *,
    with_maps: bool,
    batch_size: int = 60,
    on_progress: Callable[[int, int], None] | None = None,
    **generate_kwargs: Any,
) -> list[str]:
    """Caption every pair of `pairs` (columns of the schema), with or without its semantic maps."""
    asked = (pair if with_maps else replace(pair, maps=None) for pair in DatasetPairs(pairs))
    captions: list[str] = []
    for caption in captioner.caption(asked, batch_size=batch_size, **generate_kwargs):
        captions.append(str(caption.text))
        if on_progress is not None:
            on_progress(len(captions), len(pairs))
    return captions


def content_shares(predictions: Sequence[str], records: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Return the per cent of captions that state the right kind, object, place and count.

    Args:
        predictions: Captions of changed pairs.
        records: The generator's record of each pair, in the same order.

    Returns:
        A share for each of `CONTENT`, and `invented`, the share that states an event the pair does not have. The count
        is judged only where the record has one; `None` where nothing was judged.
    """
    verdicts = [judge(caption, record) for caption, record in zip(predictions, records, strict=True)]
    shares: dict[str, float | None] = {}
    for key in (*CONTENT, "invented"):
        judged = [verdict[key] for verdict in verdicts if verdict[key] is not None]
        shares[key] = 100.0 * sum(map(bool, judged)) / len(judged) if judged else None
    return shares


def score_row(
    name: str, predictions: Sequence[str], pairs: Dataset, scorer: ChangeCaptionScorer, *, ours: bool = False
) -> Row:
    """Score one list of captions of `pairs` against its references and its records."""
    changed = list(pairs["changed"])
    result = scorer.score(list(predictions), list(pairs["captions"]), changed=changed, baseline=False).to_dict()
    records = [json.loads(record) for record in pairs["record"]]
    content = content_shares(
        [caption for caption, is_changed in zip(predictions, changed, strict=True) if is_changed],
        [record for record, is_changed in zip(records, changed, strict=True) if is_changed],
    )
    return Row(name, result["all"], result["accuracy"], content, ours)


def reference_rows(pairs: Dataset, scorer: ChangeCaptionScorer) -> list[Row]:
    """Return the three yardsticks: the best constant caption, each reference against the other four, the oracle."""
    references = list(pairs["captions"])
    constant = [scorer.best_constant(references)] * len(pairs)
    oracle = [plain_sentence(json.loads(record)) for record in pairs["record"]]
    return [
        score_row("best constant caption", constant, pairs, scorer),
        Row("one reference in five", scorer.leave_one_out(references)),
        score_row("oracle", oracle, pairs, scorer),
    ]
