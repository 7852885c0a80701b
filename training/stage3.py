"""Stage III of CCExpert: everything learns, on the target set.

    accelerate launch training/stage3.py --config training/recipes/ccexpert_7b_stage3.yaml --train_data DATA
    python training/stage3.py --config training/recipes/ccexpert_7b_stage3.yaml --plan

`--help` lists every key. The same in a program: `train_ccexpert(Stage3Recipe(train_data=..., init_from=...))`.
"""

from rscc_hf.training.systems.ccexpert.recipe import Stage3Recipe
from rscc_hf.training.systems.ccexpert.task import run_stage


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line."""
    run_stage(Stage3Recipe, "stage3.py", arguments)


if __name__ == "__main__":
    main()
