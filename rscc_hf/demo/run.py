"""The demo of either system by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rscc_hf.demo.common import DemoResult
from rscc_hf.demo.run_ccexpert import run_ccexpert
from rscc_hf.demo.run_mmodalcc import run_mmodalcc
from rscc_hf.errors import InputError

DEMOS = {"mmodalcc": run_mmodalcc, "ccexpert": run_ccexpert}


def run_demo(model: str, out: Path, **options: Any) -> DemoResult:
    """Run a demo.

    Args:
        model: One of `DEMOS`.
        out: Its folder.
        **options: See `run_mmodalcc` and `run_ccexpert`.

    Raises:
        ValueError: See there; or there is no such demo.
    """
    if model not in DEMOS:
        raise InputError(f"There is no demo of {model!r}; choose one of {', '.join(DEMOS)}.")
    return DEMOS[model](out, **options)
