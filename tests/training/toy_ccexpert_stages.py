"""A tiny CCExpert to start from and recipes to train it; run by a launcher: `toy_ccexpert_stages.py '{...}'`."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a launcher's processes do not read `conftest.py`

import torch
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin, PartialState
from toy_ccexpert import tiny_model, tiny_processor

from rscc_hf.training import processes
from rscc_hf.training.ccexpert import CCExpertTask
from rscc_hf.training.ccexpert_recipe import CCExpertRecipe
from rscc_hf.training.loop import TrainingResult, train


def save_start(folder: Path) -> str:
    """Saves what training starts from: initial weights as they are, not those that make captions differ."""
    processor = tiny_processor()
    model = tiny_model(processor)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.div_(8)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def stage_recipe(data: str, start: str, output_dir, kind: type[CCExpertRecipe] = CCExpertRecipe, **changes):
    """A recipe of a few steps."""
    values = {
        "train_data": data,
        "init_from": start,
        "output_dir": str(output_dir),
        "global_batch_size": 8,
        "per_device_batch_size": 4,
        "max_epochs": None,
        "max_steps": 3,
        "learning_rate": 3e-3,
        "mixed_precision": "no",
        "gradient_checkpointing": False,
        "metric_for_best": "bleu_4",
        "max_new_tokens": 4,
        "eval_unit": "never",
        "save_unit": "never",
        "tracker": "none",
        "progress_bar": False,
        "logging_steps": 1,
        "cpu": True,
    }
    return kind(**{**values, **changes})


class DoubleTask(CCExpertTask):
    """In float64, where sums in another order agree to many digits."""

    def __init__(self, recipe, accelerator):
        super().__init__(recipe, accelerator)
        self.model.double()


def train_double(recipe) -> TrainingResult:
    return train(recipe, DoubleTask)


def sharding_accelerator(*arguments, **settings) -> Accelerator:
    """An accelerator that shares the model out by FSDP2, which accelerate itself offers on no CPU."""
    accelerator = Accelerator(*arguments, **settings)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
    )
    accelerator.state.fsdp_plugin = plugin
    for state in (accelerator.state, PartialState()):  # the first is made anew from the second now and then
        state.distributed_type = DistributedType.FSDP
    return accelerator


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = json.loads(sys.argv[1])
    if given.pop("sharded"):
        processes.Accelerator = sharding_accelerator

    def build(recipe, accelerator):
        assert accelerator.num_processes == 2
        return DoubleTask(recipe, accelerator)

    train(stage_recipe(given.pop("data"), given.pop("start"), given.pop("output_dir"), **given), build)
