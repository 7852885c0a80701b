"""Trains MModalCC on pairs of images and their semantic maps.

    accelerate launch training/mmodalcc.py --config training/recipes/mmodalcc_second_cc.yaml --train_data DATA
    accelerate launch --num_processes 4 training/mmodalcc.py --config training/recipes/mmodalcc_second_cc.yaml \
        --train_data DATA --per_device_batch_size 7 --learning_rate 5e-6
    python training/mmodalcc.py --config training/recipes/mmodalcc_second_cc.yaml --train_data DATA --plan

`--help` lists every key. The same in a program: `train_mmodalcc(MModalCCRecipe(train_data=..., ...))`.
"""

from rscc_hf.training.systems.mmodalcc.plan import make_plan
from rscc_hf.training.systems.mmodalcc.recipe import MModalCCRecipe
from rscc_hf.training.systems.mmodalcc.task import MModalCCTask, train_mmodalcc
from rscc_hf.training.systems.pairs.script import run_or_plan

__all__ = ["MModalCCRecipe", "MModalCCTask", "main", "train_mmodalcc"]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a mistake in the recipe or the data ends it with one sentence."""
    run_or_plan(MModalCCRecipe, "mmodalcc.py", arguments, train_mmodalcc, make_plan)


if __name__ == "__main__":
    main()
