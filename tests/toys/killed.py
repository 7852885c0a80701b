"""Training in a process that kills itself; the functions are run by `multiprocessing`."""

import faulthandler
import os
import signal
from pathlib import Path

import torch

from rscc_hf.training.systems.mmodalcc.task import train_mmodalcc
from toys.pairs import toy_pairs_recipe


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run(data: str, output_dir: str, changes: dict, kill: str, number: int) -> None:
    """Trains until it is killed: after `number` steps of this process, or while its `number`-th checkpoint is written.

    Args:
        data: The pairs.
        output_dir: Of the run.
        changes: Of the recipe.
        kill: "step", "optimizer" (half of that file is written), "rename" (just before the folder gets its name),
            "prune" (just after), or "" for not at all.
        number: See above, from 1.
    """
    faulthandler.enable()  # for `watched.join`
    torch.set_num_threads(1)
    counts = {"step": 0, "write": 0}

    def on_step(step: int, total: int | None, loss: float) -> None:
        counts["step"] += 1
        if kill == "step" and counts["step"] == number:
            die()

    save, rename = torch.save, Path.rename

    def half_save(content, path):
        save(content, path)
        counts["write"] += 1
        if kill == "optimizer" and counts["write"] == number:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            die()

    def deadly_rename(self, target):
        if kill == "rename" and counts["write"] == number:
            die()
        result = rename(self, target)
        if kill == "prune" and counts["write"] == number:
            die()
        return result

    torch.save, Path.rename = half_save, deadly_rename
    train_mmodalcc(toy_pairs_recipe(data, output_dir, **changes), on_step=on_step)
