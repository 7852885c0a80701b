"""A report as `rscc evaluate --json` writes it, without the half minute that METEOR takes to start."""

import json
from pathlib import Path

from rscc_hf.evaluation.report import Report

SCORES = {
    "bleu_1": 81.234567, "bleu_2": 72.5, "bleu_3": 64.25, "bleu_4": 57.125,
    "meteor": 38.0625, "rouge_l": 70.03125, "cider_d": 123.456789, "s_m": 72.168867,
}  # fmt: skip


def toy_report(protocol: str = "words", bootstrap: bool = False, baseline: bool = True, shift: float = 0.0) -> Report:
    """Scores of 7 changed and 3 unchanged pairs; `shift` is added to each of them."""
    scores = {name: value + shift for name, value in SCORES.items()}
    lower = {name: value - 10 for name, value in scores.items()}
    intervals = {"all": {name: [value - 1, value + 1] for name, value in scores.items()}}
    return Report(
        all=scores,
        changed=lower,
        unchanged=None,
        baseline={"caption": "the scene is | the same", **lower} if baseline else None,
        accuracy={"changed": 91.5, "unchanged": None},
        protocol=protocol,
        n=10,
        n_changed=7,
        n_unchanged=3,
        duplicates_dropped=0,
        versions={"rscc_hf": "0.1.0"},
        bootstrap={"samples": 5, "seed": 0, "level": 0.95, **intervals} if bootstrap else None,
    )


def write_toy_report(path: Path, **options: object) -> Path:
    path.write_text(json.dumps(toy_report(**options).to_dict()))
    return path
