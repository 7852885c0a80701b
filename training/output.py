"""The folder of a run: the loadable model at its top, checkpoints, recipe, log and tracker below it.

OUT/                     best model and processor, loads with from_pretrained; recipe.yaml
OUT/training_log.jsonl   a line every `logging_steps` steps and for each evaluation
OUT/last/                the last model, where the recipe keeps it and it is not the best
OUT/checkpoints/         step-XXXXXXXX, for `resume`
OUT/tracker/             what the tracker writes
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from rscc_hf.files import write_text
from rscc_hf.training import checkpoints
from rscc_hf.training.recipe import LoopRecipe, RecipeError, recipe_to_yaml, trajectory_difference
from rscc_hf.training.task import Task

LOG = "training_log.jsonl"
LAST = "last"
_PARTIAL = ".partial-model"


class RunFolder:
    """Writes in the main process only; every process may call every method."""

    def __init__(self, recipe: LoopRecipe, accelerator: Accelerator):
        self.recipe, self.accelerator = recipe, accelerator
        self.path = Path(recipe.output_dir)
        self.checkpoints = self.path / "checkpoints"
        self._log: Any = None

    def open(self) -> Path | None:
        """Makes the folder ready and finds the checkpoint to continue; None: a new run.

        Raises:
            RecipeError: The folder holds a run that the recipe would neither continue nor delete, or continue with
                a key that would have led to other weights.
            CheckpointError: The checkpoint that `resume` names is incomplete.
        """
        recipe, main = self.recipe, self.accelerator.is_main_process
        if main and self.checkpoints.is_dir():
            checkpoints.recover(self.checkpoints)
            if recipe.resume == "never" and recipe.overwrite:
                shutil.rmtree(self.checkpoints)
                (self.path / LOG).unlink(missing_ok=True)
        self.accelerator.wait_for_everyone()
        checkpoint = self._checkpoint_to_continue()
        if checkpoint is not None:
            self._check_recipe(checkpoint)
        self.accelerator.wait_for_everyone()
        if main:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.path / checkpoints.RECIPE, recipe_to_yaml(recipe))
            if checkpoint is None:
                (self.path / LOG).unlink(missing_ok=True)
        if recipe.tracker != "none":
            settings = {name: _flat(value) for name, value in asdict(recipe).items()}
            self.accelerator.init_trackers("tracker", config=settings)
        return checkpoint

    def _checkpoint_to_continue(self) -> Path | None:
        resume = self.recipe.resume
        newest = checkpoints.newest_complete(self.checkpoints)
        if resume == "auto":
            return newest
        if resume == "never":
            if newest is not None:
                raise RecipeError(
                    f"{self.path} already holds a run ({newest.name}): continue it with resume=auto, choose another "
                    "output_dir, or delete it with overwrite=true."
                )
            return None
        checkpoints.read_state(Path(resume))
        return Path(resume)

    def _check_recipe(self, checkpoint: Path) -> None:
        old = checkpoints.read_state(checkpoint)["recipe"]
        key = trajectory_difference(old, self.recipe)
        if key is not None:
            new = getattr(self.recipe, key, None)
            raise RecipeError(
                f"{key} is {new!r} in the recipe and was {old.get(key)!r} in {checkpoint}: "
                "continue with the same value, or start a new run in another output_dir."
            )

    def save_model(self, task: Task, weights: dict[str, torch.Tensor] | None = None) -> None:
        """Puts the model at the top of the folder, file by file; a file is replaced at once or not at all.

        Args:
            task: Writes the model.
            weights: Of the whole model, where the processes share it out among them.
        """
        if self.accelerator.is_main_process:
            self._write(task, weights, self.path)
        self.accelerator.wait_for_everyone()

    def save_last(self, task: Task, weights: dict[str, torch.Tensor] | None = None) -> None:
        """As `save_model`, below the folder: the weights that a next stage starts from."""
        if self.accelerator.is_main_process:
            self._write(task, weights, self.path / LAST)
        self.accelerator.wait_for_everyone()

    def drop_last(self) -> None:
        """Removes the last model of an earlier end of the run, now that the best is the last."""
        if self.accelerator.is_main_process and (self.path / LAST).is_dir():
            shutil.rmtree(self.path / LAST)
        self.accelerator.wait_for_everyone()

    def _write(self, task: Task, weights: dict[str, torch.Tensor] | None, folder: Path) -> None:
        partial = self.path / _PARTIAL
        if partial.exists():
            shutil.rmtree(partial)
        if weights is None:
            task.save(partial)
        else:
            task.save_weights(partial, weights)
        files = [path for path in sorted(partial.rglob("*")) if path.is_file()]
        for path in files:
            checkpoints.flush(path)
        for path in files:
            target = folder / path.relative_to(partial)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
        shutil.rmtree(partial)
        checkpoints.flush(folder)

    def log(self, entry: dict[str, Any]) -> None:
        """Appends a line to the log and hands its numbers to the tracker."""
        if not self.accelerator.is_main_process:
            return
        if self._log is None:
            self._log = (self.path / LOG).open("a", encoding="utf-8")
        self._log.write(json.dumps(entry) + "\n")
        self._log.flush()
        numbers: dict[str, float] = {}
        for name, value in entry.items():
            if isinstance(value, dict):
                numbers |= {f"{name}/{inner}": number for inner, number in value.items()}
            elif name not in ("step", "improved"):
                numbers[name if "/" in name else f"training/{name}"] = value
        self.accelerator.log(numbers, step=entry["step"])

    def rewind(self, step: int) -> None:
        """Drops the log's lines after a step, which the continued run will write again."""
        path = self.path / LOG
        if not self.accelerator.is_main_process or not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # the last line of a killed process
            if entry["step"] <= step:
                kept.append(line + "\n")
        write_text(path, "".join(kept))

    def close(self) -> None:
        """Closes the log."""
        if self._log is not None:
            self._log.close()
            self._log = None


def _flat(value: Any) -> Any:
    """What TensorBoard takes as a setting."""
    return value if isinstance(value, int | float | str | bool) else str(value)
