"""Runs that end early, keep their last model, or never improve; and what lies in their folders."""

import json
from dataclasses import dataclass
from pathlib import Path

from rscc_hf.files import digest_file
from toys.task import ToyRecipe, ToyTask, toy_recipe


class Stop(Exception):
    """Stands for the death of a process."""


def stop_at(step):
    def on_step(done, total, loss):
        if done == step:
            raise Stop

    return on_step


@dataclass
class KeepingRecipe(ToyRecipe):
    """Keeps the last weights, as CCExpert's recipes do."""

    @property
    def keeps_last(self):
        return True


def keeping(*args, **changes):
    return KeepingRecipe(**toy_recipe(*args, **changes).__dict__)


class Steady(ToyTask):
    """Validation never improves after the first one."""

    def validate(self, accelerator):
        return {"bleu_4": 1.0}


def contents(folder: Path) -> dict[str, str]:
    """Digests of all files, by their names."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): digest_file(path) for path in files}


def log_of(folder: Path) -> list[dict]:
    lines = (folder / "training_log.jsonl").read_text().splitlines()
    return [{**json.loads(line), "seconds": 0} for line in lines]
