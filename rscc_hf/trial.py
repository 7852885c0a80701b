"""A checkpoint tried as a stranger would use it: in a new process, without rscc_hf."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from rscc_hf.errors import InputError
from rscc_hf.precision import quick_dtype

_TRIAL = Path(__file__).with_name("trial_script.py")


def run_a_pair(folder: Path) -> str | None:
    """Load a checkpoint in a new process in which rscc_hf cannot be imported, and caption a made-up pair.

    The process runs the code that lies in the folder: call it on folders that this package wrote.

    Args:
        folder: The checkpoint.

    Returns:
        The caption; `None` where the folder holds no processor, so that the model was only loaded.

    Raises:
        ValueError: It does not load, a weight is missing or unexpected, or the pair cannot be captioned.
    """
    with tempfile.TemporaryDirectory(prefix="rscc-trial-") as modules:
        environment = {**os.environ, "HF_MODULES_CACHE": modules, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-P", str(_TRIAL), str(folder.resolve()), _dtype_to_try(folder)],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            cwd=modules,
        )
    if done.returncode < 0:
        raise InputError(
            f"the new checkpoint was stopped by signal {-done.returncode} while it ran a pair; see to memory for it."
        )
    lines = [line.strip() for line in (done.stdout if done.returncode == 0 else done.stderr).splitlines()]
    last = next((line for line in reversed(lines) if line), "no reason was given")
    if done.returncode:
        raise InputError(f"the new checkpoint does not work when it is loaded again: {last}")
    return json.loads(last)["caption"]


def _dtype_to_try(folder: Path) -> str:
    """Choose `auto`, or `float32` where bfloat16 is emulated: the same weights, and numbers of the same range."""
    try:
        saved = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("dtype")
    except (OSError, ValueError):
        return "auto"  # the trial will say what is wrong with it
    if saved != "bfloat16":
        return "auto"
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    dtype, _ = quick_dtype(torch.bfloat16, lambda: size, torch.device("cpu"))
    return "float32" if dtype == torch.float32 else "auto"
