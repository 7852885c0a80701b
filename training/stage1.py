"""Stage I of CCExpert: the Difference-aware Integration Module learns, on CC-Foundation.

    accelerate launch training/stage1.py --config training/recipes/ccexpert_7b_stage1.yaml --train_data DATA
    python training/stage1.py --config training/recipes/ccexpert_7b_stage1.yaml --plan

`--help` lists every key. The same in a program: `train_ccexpert(Stage1Recipe(train_data=..., init_from=...))`.
"""

from rscc_hf.training.systems.ccexpert.plan import make_plan
from rscc_hf.training.systems.ccexpert.recipe import Stage1Recipe
from rscc_hf.training.systems.ccexpert.task import train_ccexpert
from rscc_hf.training.systems.pairs.script import run_or_plan

__all__ = ["Stage1Recipe", "main", "train_ccexpert"]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a mistake in the recipe or the data ends it with one sentence."""
    run_or_plan(Stage1Recipe, "stage1.py", arguments, train_ccexpert, make_plan)


if __name__ == "__main__":
    main()
