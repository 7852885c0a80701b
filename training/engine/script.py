"""What every training script does around its run: logging, errors in one sentence, a line at the end."""

import logging
import sys
from collections.abc import Callable

from rscc_hf.errors import RsccError
from rscc_hf.text import sentence_of
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
        print(f"{script}: {sentence_of(error) if error.args else 'interrupted'}.", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except (RsccError, OSError) as error:
        sys.exit(f"{script}: {sentence_of(error)}")
    if result is None:
        return
    recipe, state = result.recipe, result.state
    best = "" if state.best is None else f"; best {recipe.metric_for_best} {state.best:.2f} at step {state.best_step}"
    logger.info("%s: %d steps, %d epochs%s", result.output_dir, state.step, state.epoch, best)
