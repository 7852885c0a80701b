"""The folder of a run: the loadable model at its top, checkpoints, recipe, log and tracker below it.

OUT/                     best model and processor, loads with from_pretrained; recipe.yaml
OUT/training_log.jsonl   a line every `logging_steps` steps and for each evaluation
OUT/last/                the last model, where the recipe keeps it and it is not the best
OUT/checkpoints/         step-XXXXXXXX, for `resume`
OUT/tracker/             what the tracker writes
OUT/.training_run        which files of OUT the run wrote

A folder belongs to one run: a lock beside it keeps a second one out, and nothing in it is changed before the recipe,
the data and the checkpoint have been found to be right (`open` looks, `begin` changes).

Here is what happens when. `run_files.py` knows the names of the files and which of them a run wrote, `checkpoints.py`
what lies in `checkpoints/`, `resuming.py` whether a run may go on from one of these.
"""

import json
import logging
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError

from rscc_hf.errors import RecipeError, TrainingError
from rscc_hf.files import digest_file, refuse_input_as_output, write_text
from rscc_hf.formats.training import LogLine
from rscc_hf.locks import exclusive
from rscc_hf.training.engine import checkpoints, run_files
from rscc_hf.training.engine.recipe import LoopRecipe, recipe_to_yaml
from rscc_hf.training.engine.resuming import check_recipe
from rscc_hf.training.engine.run_files import CHECKPOINTS, LAST, TRACKER
from rscc_hf.training.engine.tracker import start_tracker, tracked
from rscc_hf.training.engine.workers import portable

logger = logging.getLogger(__name__)

T = TypeVar("T")

_DIGESTS = ".digests.json"


class RunFolder:
    """Writes in the main process only; every process may call, and must call together, every method."""

    def __init__(self, recipe: LoopRecipe, accelerator: Accelerator):
        self.recipe, self.accelerator = recipe, accelerator
        self.path = Path(recipe.output_dir)
        self.checkpoints = self.path / CHECKPOINTS
        self.record = run_files.Record()
        self._digest = checkpoints.Digests()
        self._best_lost = False  # what lies at the top is not the best model that the checkpoint knows of
        self._old_events: list[str] = []  # the tracker's files before this run's
        self._log: Any = None
        self._held = ExitStack()
        self._made = self._begun = False

    def in_main(self, function: Callable[[], T]) -> T:
        """Call `function` in the main process, and return what it gives, or raise its error, in every process."""
        outcome: list[Any] = [None, None]
        if self.accelerator.is_main_process:
            try:
                outcome = [function(), None]
            except (ValueError, OSError) as error:
                outcome = [None, error]
        if self.accelerator.num_processes > 1:
            outcome[1] = None if outcome[1] is None else portable(outcome[1])
            broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def open(self) -> Path | None:
        """Take hold of the folder, and find the checkpoint to continue; None: a new run. Changes nothing.

        Raises:
            RecipeError: The folder cannot be made or written, is read by the recipe, holds what is the user's where
                the run will write, or a run that the recipe would neither continue nor delete, or one that it would
                continue with a key that led to other weights.
            CheckpointError: The checkpoint to continue is incomplete or damaged.
            InputError: Another run holds the folder.
        """
        return self.in_main(self._open)

    def _open(self) -> Path | None:
        self._refuse_inputs()
        if self.path.exists() and not self.path.is_dir():
            raise RecipeError(f"output_dir {self.path} is a file; name a folder.")
        try:
            self._held.enter_context(exclusive(self.path, "output_dir"))
            self._made = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            reason = error.strerror or error
            raise RecipeError(f"output_dir {self.path} cannot be written ({reason}); name another folder.") from error
        self.record = run_files.read_record(self.path)
        run_files.check_places(self.path, self.record, self.recipe)
        if self.checkpoints.is_dir():
            checkpoints.recover(self.checkpoints)
        self._old_events = run_files.tracker_files(self.path)
        self._finish_model()
        checkpoint = self._checkpoint_to_continue()
        if checkpoint is not None:
            check_recipe(checkpoint, self.recipe)
        return checkpoint

    def _refuse_inputs(self) -> None:
        """Raise where a run would write over what it reads."""
        recipe = self.recipe
        named = {name: getattr(recipe, name) for name in sorted(recipe.path_keys - {"output_dir", "resume"})}
        there = {name: Path(where) for name, where in named.items() if where is not None and Path(where).exists()}
        for name, where in there.items():
            if where.resolve() == self.path.resolve():
                raise RecipeError(
                    f"output_dir {self.path} is {name}, which training would change; name another folder."
                )
        for name in (LAST, self.checkpoints.name, TRACKER):
            refuse_input_as_output(self.path / name, there.values(), inside=True)

    def _checkpoint_to_continue(self) -> Path | None:
        resume, path = self.recipe.resume, self.path
        steps = checkpoints.steps_in(self.checkpoints)
        has_model = run_files.is_there(path, self.record.model) or run_files.is_there(path / LAST, self.record.last)
        held = f"checkpoint {list(steps.values())[-1].name}" if steps else "model" if has_model else None
        run_files.refuse_foreign(path, self.record, self.recipe)
        if resume == "never":
            if held is not None and not self.recipe.overwrite:
                raise RecipeError(
                    f"{path} already holds a run (its {held}); continue it with resume=auto, choose another "
                    "output_dir, or delete it with overwrite=true."
                )
            return None
        if resume == "auto":
            newest = checkpoints.newest_complete(self.checkpoints, self._digest)
            if newest is None and held is not None:
                which = "its checkpoints are all incomplete or damaged" if steps else "it kept no checkpoint"
                raise RecipeError(
                    f"{path} already holds a run that cannot be continued ({which}); choose another output_dir, or "
                    "delete it with resume=never and overwrite=true."
                )
            return newest
        chosen = Path(resume)
        checkpoints.verify(chosen)
        own = self._is_beside_own(chosen)
        if not own and held is not None and (steps or self.record.start != str(chosen.resolve())):
            raise RecipeError(
                f"{path} already holds a run (its {held}), and {chosen} is of another; continue the one there with "
                "resume=auto, or choose another output_dir."
            )
        return chosen

    def _is_beside_own(self, checkpoint: Path) -> bool:
        """Return whether it lies among the folder's checkpoints, as one of these or as a copy that the user made."""
        return checkpoint.resolve().parent == self.checkpoints.resolve()

    def is_own(self, checkpoint: Path, step: int) -> bool:
        """Return whether it is the folder's checkpoint of that step, and no copy."""
        return self._is_beside_own(checkpoint) and checkpoint.resolve().name == checkpoints.name_of(step)

    def begin(self, checkpoint: Path | None, state: dict[str, Any] | None, ended: bool) -> None:
        """Make the folder ready to be written, now that all was found to be right; start the tracker.

        Args:
            checkpoint: What the run goes on from; None: a new run.
            state: Of that checkpoint.
            ended: Whether the run stands where it ended, so that nothing will be trained.

        Raises:
            RecipeError: The tracker cannot be started.
        """
        if self.recipe.tracker != "none" and not ended:
            start = partial(start_tracker, self.recipe, self.accelerator, self.path, self._old_events)
            self.in_main(start)
            if not self.accelerator.is_main_process:
                start()  # it only notes that there is one
        self.in_main(lambda: self._begin(checkpoint, state, ended))  # last: nothing is deleted for a run that fails

    def _begin(self, checkpoint: Path | None, state: dict[str, Any] | None, ended: bool) -> None:
        self._begun = True
        if checkpoint is None or state is None:
            if self.recipe.overwrite:
                run_files.remove_run(self.path, self._old_events)
            run_files.remove_last(self.path, self.record)
            run_files.remove_traces(self.path, self._old_events)
            self.record = run_files.Record()
        elif not ended:
            if self._is_beside_own(checkpoint):
                dropped = checkpoints.drop_after(self.checkpoints, state["step"])
                if dropped:
                    logger.warning("deleted, as the run goes on from %s: %s", checkpoint.name, ", ".join(dropped))
                (self.checkpoints / checkpoints.name_of(state["step"]) / checkpoints.ENDING).unlink(missing_ok=True)
            else:
                self.record.start = str(checkpoint.resolve())
            run_files.remove_last(self.path, self.record)
            self.record.last = {}
            self._rewind(checkpoint, state)
            self._bring_best(checkpoint, state)
        self.record.write(self.path)
        run_files.write_recipe(self.path, self.recipe)

    def _rewind(self, checkpoint: Path, state: dict[str, Any]) -> None:
        """Leave of the log what the checkpoint knows; what comes after it will be written again."""
        log = (self.path if self._is_beside_own(checkpoint) else checkpoint.resolve().parents[1]) / LogLine.NAME
        write_text(self.path / LogLine.NAME, run_files.known_lines(log, state))

    def _bring_best(self, checkpoint: Path, state: dict[str, Any]) -> None:
        """Put the best model of the checkpoint at the top, where another one, or none, may lie by now."""
        files = checkpoints.best_files(checkpoint, state)
        digests = {name: digest for name, (_, digest) in files.items()}
        if not files:  # nothing was evaluated yet, or an older version wrote the checkpoint
            model = self.record.model
            self.record.model = {name: digest or digest_file(self.path / name) for name, digest in model.items()}
            return
        damaged = checkpoints.damaged_best(checkpoint, state, self._digest)
        if damaged is not None:
            logger.warning("%s: %s is missing or not what was written.", checkpoint, damaged)
            self._best_lost = True
            return
        if digests == self.record.model and run_files.is_whole(self.path, digests):
            return
        for name, (source, _) in files.items():
            checkpoints.place_file(source, self.path / name)
        self._note_model(digests)

    def owns_end(self, checkpoint: Path) -> bool:
        """Return whether what the run left at its end, with this checkpoint the newest, still lies in the folder."""
        newest = next(reversed(checkpoints.steps_in(self.checkpoints)), None)
        whole = run_files.is_whole(self.path, self.record.model)
        whole = whole and (not self.record.last or run_files.is_whole(self.path / LAST, self.record.last))
        return whole and newest is not None and self.is_own(checkpoint, newest)

    def end(self, state: dict[str, Any]) -> None:
        """Note with the newest checkpoint in which state the run ended, after all else was written."""
        newest = self.checkpoints / checkpoints.name_of(state["step"])
        self.in_main(lambda: checkpoints.write_ending(newest, state))

    def save_checkpoint(
        self,
        step: int,
        write_weights: Callable[[Path], None],
        states: dict[str, Any],
        state: dict[str, Any],
        *,
        with_best: bool,
    ) -> None:
        """Write a checkpoint and delete old ones.

        Args:
            step: Optimiser steps done.
            write_weights: See `write_checkpoint`.
            states: States of the optimiser, see `write_checkpoint`.
            state: Position of the loop, see `write_checkpoint`.
            with_best: Whether the model at the top belongs to this run.
        """

        def write() -> None:
            best = {name: self.path / name for name in self.record.model} if with_best else {}
            if best and not run_files.is_whole(self.path, best):
                logger.warning("The best model in %s was deleted: the checkpoint goes without it.", self.path)
                best = {}
            text = recipe_to_yaml(self.recipe)
            checkpoints.write_checkpoint(
                self.checkpoints, step, write_weights, states, state, text, best, digest=self._digest
            )
            checkpoints.prune(self.checkpoints, self.recipe.keep_checkpoints)

        self.in_main(write)

    def holds_model(self) -> bool:
        """Return whether the run's best model, with all its files, lies at the top, in every process."""
        return self.in_main(lambda: not self._best_lost and run_files.is_whole(self.path, self.record.model))

    def save_model(self, write_model: Callable[[Path], None]) -> None:
        """Put the model at the top of the folder, file by file; a file is replaced at once or not at all.

        Args:
            write_model: Writes it into a folder.
        """
        self.in_main(lambda: self._write(write_model, run_files.COMPLETE_MODEL))

    def save_last(self, write_model: Callable[[Path], None]) -> None:
        """Put the model below the folder: the weights that a next stage starts from."""
        self.in_main(lambda: self._write(write_model, run_files.COMPLETE_LAST))

    def drop_last(self) -> None:
        """Remove the last model of an earlier end of the run, now that the best is the last."""
        self.in_main(self._drop_last)

    def _drop_last(self) -> None:
        run_files.remove_last(self.path, self.record)
        self.record.last = {}
        self.record.write(self.path)

    def _write(self, write_model: Callable[[Path], None], complete: str) -> None:
        partial = self.path / run_files.PARTIAL_MODEL
        if partial.exists():
            shutil.rmtree(partial)
        try:
            write_model(partial)
            files = sorted(path for path in partial.rglob("*") if path.is_file())
            digests = {path.relative_to(partial).as_posix(): self._digest(path) for path in files}
            (partial / _DIGESTS).write_text(json.dumps(digests), encoding="utf-8")
            checkpoints.flush_all(partial)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)  # so that it fills no disk
            raise TrainingError(
                f"The model cannot be written to {self.path} ({' '.join(str(error).split())}); make room or mend the "
                f"folder's rights{self._how_to_go_on()}."
            ) from error
        partial.replace(self.path / complete)
        self._finish_model()

    def _finish_model(self) -> None:
        """Move a model that is whole to its place, also one that a killed process left on its way."""
        for name, folder in ((run_files.COMPLETE_MODEL, self.path), (run_files.COMPLETE_LAST, self.path / LAST)):
            whole = self.path / name
            if not whole.is_dir():
                continue
            if not (whole / _DIGESTS).is_file():  # all was moved, and the process killed while it removed the rest
                shutil.rmtree(whole)
                continue
            digests = json.loads((whole / _DIGESTS).read_text(encoding="utf-8"))
            for inner in digests:
                if (whole / inner).is_file():  # else it was moved before the process was killed
                    (folder / inner).parent.mkdir(parents=True, exist_ok=True)
                    (whole / inner).replace(folder / inner)
            if name == run_files.COMPLETE_MODEL:
                self._note_model(digests)
            else:
                run_files.remove_files(folder, self.record.last.keys() - digests)
                self.record.last = digests
                self.record.write(self.path)
            shutil.rmtree(whole)
            checkpoints.flush(folder)

    def _note_model(self, digests: dict[str, str]) -> None:
        run_files.remove_files(self.path, self.record.model.keys() - digests)
        self.record.model, self._best_lost = digests, False
        self.record.write(self.path)

    def log(self, line: LogLine) -> None:
        """Append a line to the log and hand its numbers to the tracker."""
        if not self.accelerator.is_main_process:
            return
        if self._log is None:
            self._log = (self.path / LogLine.NAME).open("a", encoding="utf-8")
        self._log.write(line.text())
        self._log.flush()
        self.accelerator.log(tracked(line), step=line.step)

    def after_interrupt(self) -> str:
        """Return how to go on after an interrupt, now."""
        if not self._begun:
            return "interrupted before training began: nothing was changed"
        return f"interrupted{self._how_to_go_on() or '; no checkpoint was written, from which it could go on'}"

    def _how_to_go_on(self) -> str:
        newest = list(checkpoints.steps_in(self.checkpoints).values())[-1:]
        if not newest:
            return ""
        command = "the same command" if self.recipe.resume == "auto" else "resume=auto"
        without = " without overwrite" if self.recipe.overwrite else ""
        return f"; {command}{without} goes on from {newest[0].name}"

    def close(self) -> None:
        """Close the log and let go of the folder; remove one that was made for a run that never began."""
        if self._log is not None:
            self._log.close()
            self._log = None
        if self._made and not self._begun and self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()
        self._held.close()
