"""Stage I of CCExpert: the Difference-aware Integration Module learns, on CC-Foundation.

    accelerate launch training/stage1.py --config training/recipes/ccexpert_7b_stage1.yaml --train_data DATA
    python training/stage1.py --config training/recipes/ccexpert_7b_stage1.yaml --plan

`--help` lists every key. The same in a program: `train_ccexpert(Stage1Recipe(train_data=..., init_from=...))`.
"""

from rscc_hf.training.systems.ccexpert.recipe import Stage1Recipe
from rscc_hf.training.systems.ccexpert.task import run_stage


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line."""
    run_stage(Stage1Recipe, "stage1.py", arguments)


if __name__ == "__main__":
    main()
