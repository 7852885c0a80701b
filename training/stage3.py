"""Stage III of CCExpert: everything learns, on the target set.

    accelerate launch training/stage3.py --config training/recipes/ccexpert_7b_stage3.yaml --train_data DATA
    python training/stage3.py --config training/recipes/ccexpert_7b_stage3.yaml --plan

`--help` lists every key. The same in a program: `train_ccexpert(Stage3Recipe(train_data=..., init_from=...))`.
"""

from rscc_hf.training.systems.ccexpert.plan import make_plan
from rscc_hf.training.systems.ccexpert.recipe import Stage3Recipe
from rscc_hf.training.systems.ccexpert.task import train_ccexpert
from rscc_hf.training.systems.pairs.script import run_or_plan

__all__ = ["Stage3Recipe", "main", "train_ccexpert"]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a mistake in the recipe or the data ends it with one sentence."""
    run_or_plan(Stage3Recipe, "stage3.py", arguments, train_ccexpert, make_plan)


if __name__ == "__main__":
    main()
