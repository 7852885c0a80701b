"""What every training script does around its run: logging, errors in one sentence, a line at the end."""

import logging
import sys
from collections.abc import Callable

from rscc_hf.training.loop import TrainingResult

logger = logging.getLogger(__name__)


def run_script(script: str, run: Callable[[], TrainingResult | None]) -> None:
    """Runs a script; a mistake in the recipe or the data ends it with one sentence.

    Args:
        script: Its name, for messages.
        run: Reads the command line and trains; gives None where there was nothing to train.
    """
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    for name in ("httpx", "datasets", "filelock"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        result = run()
    except ValueError as error:
        sys.exit(f"{script}: {error}")
    if result is None:
        return
    recipe, state = result.recipe, result.state
    best = "" if state.best is None else f"; best {recipe.metric_for_best} {state.best:.2f} at step {state.best_step}"
    logger.info("%s: %d steps, %d epochs%s", result.output_dir, state.step, state.epoch, best)
