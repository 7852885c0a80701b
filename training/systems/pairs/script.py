"""What the scripts of all systems do: read a recipe, then train or, with `--plan`, reckon."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from rscc_hf.training.engine.loop import TrainingResult
from rscc_hf.training.engine.recipe import parse_recipe
from rscc_hf.training.engine.script import run_script
from rscc_hf.training.systems.pairs.plan import Plan, PlanOptions, take_plan_options, write_plan
from rscc_hf.training.systems.pairs.recipe import PairRecipe

R = TypeVar("R", bound=PairRecipe)


def run_or_plan(
    recipe_class: type[R],
    script: str,
    arguments: Sequence[str] | None,
    train: Callable[[R], TrainingResult[Any]],
    make_plan: Callable[[R, PlanOptions], Plan],
) -> None:
    """Run the command line of a script, with `--plan` or without; a mistake ends it with one sentence.

    Args:
        recipe_class: The recipe to read.
        script: Its name, for messages.
        arguments: Without the program's name; None: this process's.
        train: Trains.
        make_plan: Reckons instead.
    """

    def run() -> TrainingResult[Any] | None:
        options, remaining = take_plan_options(sys.argv[1:] if arguments is None else arguments)
        recipe = parse_recipe(recipe_class, remaining)
        if options is None:
            return train(recipe)
        write_plan(make_plan(recipe, options), recipe, options)
        return None

    run_script(script, run)
