"""Stage II of CCExpert: everything learns, on CC-Foundation.

    accelerate launch training/stage2.py --config training/recipes/ccexpert_7b_stage2.yaml --train_data DATA
    python training/stage2.py --config training/recipes/ccexpert_7b_stage2.yaml --plan

`--help` lists every key. The same in a program: `train_ccexpert(Stage2Recipe(train_data=..., init_from=...))`.
"""

from rscc_hf.training.systems.ccexpert.recipe import Stage2Recipe
from rscc_hf.training.systems.ccexpert.task import run_stage


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line."""
    run_stage(Stage2Recipe, "stage2.py", arguments)


if __name__ == "__main__":
    main()
