"""The training loop that every script shares: any number of processes, accumulation, validation, resume.

Three rules make a run independent of how it is cut into processes, micro-batches and restarts:

- The loss of a global batch is the sum over its target tokens divided by their number, over all micro-batches and
  processes: the tokens are counted before the first forward pass.
- Which samples a step takes, and how each is augmented, follows from (seed, epoch, index); see `batches.py`.
- Torch's generators are seeded before every forward pass from (seed, step, number of the micro-batch in the global
  batch). So dropout needs no saved state, and is the same when two processes share what one accumulated.

Batch normalisation is the exception: its statistics are per micro-batch, and those of the first process are kept.
"""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object, set_seed

from rscc_hf.errors import CheckpointError, InputError, TrainingError
from rscc_hf.formats.training import LogLine
from rscc_hf.progress import Work, progress
from rscc_hf.training.engine import checkpoints
from rscc_hf.training.engine.backend import Backend
from rscc_hf.training.engine.batches import Window
from rscc_hf.training.engine.optimisation import (
    build_optimizer,
    build_schedule,
    decay_learning_rate,
    log_name,
)
from rscc_hf.training.engine.processes import open_backend
from rscc_hf.training.engine.recipe import LoopRecipe, steps_of_run
from rscc_hf.training.engine.resuming import check_identity, check_position
from rscc_hf.training.engine.run_folder import RunFolder
from rscc_hf.training.engine.safeguards import (
    first_not_finite,
    is_out_of_memory,
    out_of_memory,
    require_finite_start,
    require_room,
)
from rscc_hf.training.engine.steps import Steps
from rscc_hf.training.engine.stopwatch import Stopwatch
from rscc_hf.training.engine.task import Task

logger = logging.getLogger(__name__)

R = TypeVar("R", bound=LoopRecipe)
OnStep = Callable[[int, int | None, float], None]
OnEvaluation = Callable[[dict[str, float]], None]


@dataclass
class LoopState:
    """Where a run stands: all that a checkpoint keeps beside weights, optimiser and position in the data."""

    step: int = 0
    epoch: int = 0
    best: float | None = None
    best_step: int | None = None
    stalls: int = 0
    """Evaluations in a row without improvement."""
    evaluated_step: int | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    """`{"step", "epoch", "scores"}` of every evaluation."""


@dataclass
class TrainingResult(Generic[R]):
    """What a finished run leaves.

    Attributes:
        output_dir: Loads with `from_pretrained`: the best weights, or the last where nothing was evaluated.
        state: Final position, best score, and all evaluations.
        task: Its `model` has the last weights, which need not be the best.
    """

    output_dir: Path
    state: LoopState
    task: Task
    recipe: R


def train(
    recipe: R,
    build_task: Callable[[R, Accelerator], Task],
    *,
    on_step: OnStep | None = None,
    on_evaluation: OnEvaluation | None = None,
) -> TrainingResult[R]:
    """Train, or go on training, until the recipe says stop.

    Args:
        recipe: The settings.
        build_task: Makes model and data. Called once, with seeded generators.
        on_step: Called in the main process after each optimiser step with the steps done, the steps in all (None if
            unknown) and the loss a target token.
        on_evaluation: Called in the main process with the scores of each evaluation.

    Raises:
        RecipeError: The recipe contradicts the number of processes, the run that it should continue, or what lies in
            output_dir.
        CheckpointError: The checkpoint to continue cannot be used, or is of other data or another start.
        TrainingError: The loss or the weights are no longer finite, or memory or disk are full.
        KeyboardInterrupt: With words about how to go on.
        InputError: Another run is writing output_dir.
    """
    threads = torch.get_num_threads()
    if recipe.torch_threads is not None:
        torch.set_num_threads(recipe.torch_threads)
    try:
        with open_backend(recipe) as (backend, recipe), _shown(recipe, backend.accelerator) as work:
            accelerator = backend.accelerator
            accumulation = recipe.accumulation_steps(accelerator.num_processes)
            folder = RunFolder(recipe, accelerator)
            try:
                checkpoint = folder.open()
                set_seed(recipe.seed)
                task = build_task(recipe, accelerator)
                try:
                    loop = _Loop(recipe, backend, task, accumulation, folder, checkpoint)
                    loop.on_step, loop.on_evaluation, loop.work = on_step, on_evaluation, work
                    loop.run()
                finally:
                    task.close()
            except KeyboardInterrupt as error:
                raise KeyboardInterrupt(folder.after_interrupt()) from error
            finally:
                folder.close()
            return TrainingResult(Path(recipe.output_dir), loop.state, task, recipe)
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise out_of_memory(error) from error
        raise
    finally:
        torch.set_num_threads(threads)


def _shown(recipe: LoopRecipe, accelerator: Accelerator) -> AbstractContextManager[Work]:
    """Say how far the run is: the main process alone, and where the recipe wants it."""
    if recipe.progress_bar and accelerator.is_main_process:
        heard = logger.isEnabledFor(logging.INFO) and logger.hasHandlers()  # not in a notebook, where nobody set it up
        return progress("preparing", unit="steps", say=logger.info if heard else None)
    return nullcontext(Work("unseen"))


class _Loop:
    def __init__(
        self,
        recipe: LoopRecipe,
        backend: Backend,
        task: Task,
        accumulation: int,
        folder: RunFolder,
        checkpoint: Path | None,
    ):
        self.recipe, self.backend, self.task, self.folder = recipe, backend, task, folder
        self.accelerator = accelerator = backend.accelerator
        self.processes = accelerator.num_processes
        self.on_step: OnStep | None = None
        self.on_evaluation: OnEvaluation | None = None
        self.work = Work("unseen")
        self.state = LoopState()
        self.position: Any = None
        self.checkpointed_step: int | None = None
        self.finite_step: int | None = None
        self.watch = Stopwatch()

        self.source = task.batches(accelerator.process_index, self.processes, accumulation)
        self.total_steps = steps_of_run(recipe.max_steps, recipe.max_epochs, self.source.steps_per_epoch)
        require_finite_start(task.model)
        self.saved = None if checkpoint is None else checkpoints.read_state(checkpoint)
        keeps = recipe.save_unit != "never" or checkpoint is not None
        self.identity = folder.in_main(task.identity) if keeps else {}
        if checkpoint is not None:
            assert self.saved is not None
            folder.in_main(lambda: check_identity(checkpoint, self.saved or {}, self.identity))
            checkpoints.load_weights(checkpoint, task.model)
        parts = task.parts()
        self.decaying = {part.name for part in parts if part.decays}
        self.optimizer = build_optimizer(parts, recipe, task.model)
        self.schedule = build_schedule(self.optimizer, recipe, self.total_steps)
        backend.prepare(task, self.optimizer, parts)
        self.steps = Steps(recipe, backend, task, self.source, self.schedule)
        self.checkpoint = checkpoint
        if checkpoint is not None:
            self._restore(checkpoint)
        folder.in_main(self._require_room)

    def run(self) -> None:
        recipe, folder = self.recipe, self.folder
        ending = folder.in_main(self._ending)
        folder.begin(self.checkpoint, self.saved, ended=ending is not None)
        if ending is not None:
            self.state = LoopState(**ending)
            return
        state = self.state
        if state.best_step is not None and not folder.holds_model():
            logger.warning("The best model so far did not come with %s: the best is sought anew.", self.checkpoint)
            state.best = state.best_step = state.evaluated_step = None
        self._train()
        if recipe.save_unit != "never" and self.checkpointed_step != state.step:
            self._checkpoint()  # before an evaluation that a longer run would not make here
        if recipe.eval_unit == "never":
            self._require_finite()
            folder.save_model(self.backend.model_writer())
        elif state.evaluated_step != state.step:
            self._evaluate()
        if recipe.keeps_last:
            if recipe.eval_unit == "never" or state.best_step == state.step:
                folder.drop_last()
            else:
                folder.save_last(self.backend.model_writer())
        if not folder.holds_model():
            raise TrainingError(f"{folder.path} holds no model at the end: it was deleted meanwhile; train again.")
        if recipe.save_unit != "never":
            folder.end(asdict(state))

    def _train(self) -> None:
        state = self.state
        self.watch.start((self.saved or {}).get("unlogged_seconds", 0.0))
        self.work(title="training")
        self.work(state.step, self.total_steps)
        while not self._finished():
            before = state.step
            fresh = self.position is None
            if self._epoch():
                if fresh and state.step == before:
                    raise InputError("The training data is empty: an epoch gave no sample; name data with captions.")
                state.epoch += 1
                self.position = None
                self._evaluate_or_save("epochs", state.epoch)

    def _epoch(self) -> bool:
        """Train to the end of the epoch (True) or of the run (False)."""
        windows: Iterator[Window] = iter(self.source.epoch(self.state.epoch, self.position))
        while not self._finished():
            window = next(windows, Window([], self.position))
            targets, micro_batches = self.steps.count(window.batches)
            if micro_batches == 0:
                return True
            step = self.state.step + 1
            rates = {log_name(group): group["lr"] for group in self.optimizer.param_groups}
            loss = self.steps.take(step, window.batches, targets, micro_batches)
            self.state.step = step
            self.position = window.position
            self.work(step, self.total_steps, note=f"epoch {self.state.epoch}, loss {loss:.4f}")
            if step % self.recipe.logging_steps == 0:
                seconds = self.watch.lap()
                self.folder.log(LogLine(step, self.state.epoch, loss=loss, learning_rates=rates, seconds=seconds))
            if self.on_step is not None and self.accelerator.is_main_process:
                self.on_step(step, self.total_steps, loss)
            self._evaluate_or_save("steps", step)
        return self._epoch_is_over(windows)

    def _epoch_is_over(self, windows: Iterator[Window]) -> bool:
        """Return whether the epoch ends where the run does; what is read to tell is not needed, and may be damaged."""
        if self.source.steps_per_epoch is not None:
            return self.position == self.source.steps_per_epoch
        try:
            more = bool(next(windows, Window([], None)).batches)
        except Exception as error:  # noqa: BLE001 (a stream and its data raise anything)
            more = True
            logger.warning("The data behind the last step cannot be read (%s).", " ".join(str(error).split()))
        return not any(gather_object([more]))

    def _evaluate_or_save(self, unit: str, count: int) -> None:
        if self.recipe.is_due("eval", unit, count):
            self._evaluate()
        if self.recipe.is_due("save", unit, count):
            self._checkpoint()

    def _evaluate(self) -> None:
        with self.watch.paused():
            self._score_and_keep()

    def _score_and_keep(self) -> None:
        recipe, state = self.recipe, self.state
        model = self.task.model
        self.work(note="validation")
        self._require_finite()
        if self.processes > 1:
            # batch-norm statistics: the first process's are the ones that are saved (no backend shares buffers out)
            for buffer in model.buffers():
                buffer.copy_(broadcast(buffer.clone()))
        model.eval()
        scores = self.task.validate(self.backend)
        model.train()
        score = scores.get(recipe.metric_for_best)
        if score is None or not math.isfinite(score):
            raise TrainingError(
                f"metric_for_best is {recipe.metric_for_best}, which validation gives as {score} at step "
                f"{state.step}; name one of {', '.join(scores)}."
            )
        improved = state.best is None or score > state.best
        state.evaluated_step = state.step
        state.history.append({"step": state.step, "epoch": state.epoch, "scores": scores})
        if improved:
            state.best, state.best_step, state.stalls = score, state.step, 0
            self.folder.save_model(self.backend.model_writer())
        else:
            state.stalls += 1
            if recipe.lr_decay < 1 and self.decaying and state.stalls % recipe.lr_decay_patience == 0:
                decay_learning_rate(self.optimizer, self.schedule, self.decaying, recipe.lr_decay)
        self.folder.log(LogLine(state.step, state.epoch, improved=improved, validation=scores))
        if self.on_evaluation is not None and self.accelerator.is_main_process:
            self.on_evaluation(scores)

    def _require_finite(self) -> None:
        """Raise, in every process, where the weights are no numbers any more, so that they are saved nowhere."""
        if self.finite_step == self.state.step:
            return
        name = first_not_finite(self.backend.own_tensors())
        if self.processes > 1:
            name = next((other for other in gather_object([name]) if other is not None), None)
        if name is not None:
            raise TrainingError(
                f"The weights are not finite after step {self.state.step} (first {name}), and were not saved; lower "
                "learning_rate, or clip the gradients by max_grad_norm."
            )
        self.finite_step = self.state.step

    def _require_room(self) -> None:
        """Raise where the disk has no room for a model and, if any are written, a checkpoint."""
        if not self._finished():
            require_room(self.folder.path, self.task, self.recipe.save_unit != "never", self.recipe.overwrite)

    def _checkpoint(self) -> None:
        seconds = self.watch.seconds()
        with self.watch.paused():
            self._write_checkpoint(seconds)

    def _write_checkpoint(self, unlogged_seconds: float) -> None:
        self._require_finite()
        positions = gather_object([self.position])
        write_weights = self.backend.weights_writer()
        states = {**self.backend.states(), "schedule": self.schedule.state_dict()}
        self.checkpointed_step = self.state.step
        state = {
            **asdict(self.state),
            "positions": positions,
            "steps_per_epoch": self.source.steps_per_epoch,
            "unlogged_seconds": unlogged_seconds,
            "identity": self.identity,
            "recipe": asdict(self.recipe),
        }
        with_best = self.state.best_step is not None
        self.folder.save_checkpoint(self.state.step, write_weights, states, state, with_best=with_best)

    def _restore(self, checkpoint: Path) -> None:
        saved = self.saved
        assert saved is not None
        check_position(checkpoint, saved, self.recipe, self.source.steps_per_epoch)
        states = checkpoints.load_optimizer_state(checkpoint)
        by_name = "state" in states["optimizer"] and any(isinstance(key, str) for key in states["optimizer"]["state"])
        if by_name != self.backend.by_name:
            raise CheckpointError(
                f"{checkpoint} is of a run {'with' if by_name else 'without'} FSDP or DeepSpeed; continue it so, or "
                "start another."
            )
        self.backend.load_states(states)
        self.schedule.load_state_dict(states["schedule"])
        self.state = LoopState(**{name: saved[name] for name in asdict(self.state)})
        self.position = self.source.position_from(saved["positions"])
        if self.folder.is_own(checkpoint, self.state.step):
            self.checkpointed_step = self.state.step
        if self.accelerator.is_main_process:
            logger.info("continuing %s at step %d", checkpoint, self.state.step)

    def _ending(self) -> dict[str, Any] | None:
        """Return the state in which the run ended where it stands; None: it goes on, or its end was not reached."""
        if self.checkpoint is None or not self._finished() or not self.folder.owns_end(self.checkpoint):
            return None
        return checkpoints.read_ending(self.checkpoint)

    def _finished(self) -> bool:
        recipe, state = self.recipe, self.state
        return (
            (recipe.max_steps is not None and state.step >= recipe.max_steps)
            or (recipe.max_epochs is not None and state.epoch >= recipe.max_epochs)
            or (recipe.patience is not None and state.stalls >= recipe.patience)
        )
