"""What every training script does around its run: logging, errors in one sentence, a line at the end."""

import logging
import sys
from collections.abc import Callable

from rscc_hf.text import printable
from rscc_hf.training.engine.loop import TrainingResult

logger = logging.getLogger(__name__)

_INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it


def run_script(script: str, run: Callable[[], TrainingResult | None]) -> None:
    """Run a script; what the recipe, the data, the files or the machine do not allow ends it with one sentence.

    Whatever else goes wrong is a fault of the program, and keeps its traceback.

    Args:
        script: Its name, for messages.
        run: Reads the command line and trains; gives None where there was nothing to train.
    """
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    for name in ("httpx", "datasets", "filelock"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        result = run()
    except KeyboardInterrupt as error:
        print(f"{script}: {one_sentence(error) if error.args else 'interrupted'}.", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except Exception as error:
        ours = isinstance(error, ValueError | OSError | ImportError) or type(error).__module__.startswith("rscc_hf.")
        if not ours:
            raise
        sys.exit(f"{script}: {one_sentence(error)}")
    if result is None:
        return
    recipe, state = result.recipe, result.state
    best = "" if state.best is None else f"; best {recipe.metric_for_best} {state.best:.2f} at step {state.best_step}"
    logger.info("%s: %d steps, %d epochs%s", result.output_dir, state.step, state.epoch, best)


def one_sentence(error: BaseException) -> str:
    """Return the words of an error in one line; of the system's errors the file and what was wrong with it."""
    if isinstance(error, OSError) and error.strerror:
        return printable(f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}.")
    return printable(str(error)) or type(error).__name__
