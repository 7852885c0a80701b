"""Trains MModalCC on pairs of images and their semantic maps.

    accelerate launch training/mmodalcc.py --config training/recipes/mmodalcc_second_cc.yaml --train_data DATA
    accelerate launch --num_processes 4 training/mmodalcc.py --config training/recipes/mmodalcc_second_cc.yaml \
        --train_data DATA --per_device_batch_size 7 --learning_rate 5e-6

`--help` lists every key. The same in a program: `train_mmodalcc(MModalCCRecipe(train_data=..., ...))`.
"""

from rscc_hf.training.engine.recipe import parse_recipe
from rscc_hf.training.engine.script import run_script
from rscc_hf.training.systems.mmodalcc.recipe import MModalCCRecipe
from rscc_hf.training.systems.mmodalcc.task import train_mmodalcc

__all__ = ["MModalCCRecipe", "main", "train_mmodalcc"]


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; a mistake in the recipe or the data ends it with one sentence."""
    run_script("mmodalcc.py", lambda: train_mmodalcc(parse_recipe(MModalCCRecipe, arguments)))


if __name__ == "__main__":
    main()
