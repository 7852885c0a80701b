"""A tiny CCExpert to start from and recipes to train it; run by a launcher: `ccexpert_stages.py '{...}'`."""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a launcher's processes do not read `conftest.py`

import torch
from accelerate import (
    Accelerator,
    DistributedType,
    FullyShardedDataParallelPlugin,
    InitProcessGroupKwargs,
    PartialState,
)
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from rscc_hf import CCExpertForConditionalGeneration
from rscc_hf.training.engine import processes
from rscc_hf.training.engine.backend import asks_for_deepspeed
from rscc_hf.training.engine.loop import TrainingResult, train
from rscc_hf.training.systems.ccexpert.recipe import CCExpertRecipe
from rscc_hf.training.systems.ccexpert.task import CCExpertTask
from toys.ccexpert import tiny_model, tiny_processor
from toys.word_tokenizers import byte_level_tokenizer, chatml_tokenizer


def save_start(folder: Path, tied: bool = False) -> str:
    """Saves what training starts from: initial weights as they are, not those that make captions differ."""
    processor = tiny_processor()
    model = tiny_model(processor)
    if tied:
        model.config.tie_word_embeddings = model.config.text.tie_word_embeddings = True
        model = type(model)(model.config)
    else:
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.div_(8)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def save_llava(folder: Path, few_words: bool = False) -> str:
    """Saves a LLaVA-OneVision to start from; with `few_words` its tokenizer and vocabulary lack the marks of turns."""
    like = tiny_model(tiny_processor()).config
    tokenizer = byte_level_tokenizer() if few_words else chatml_tokenizer()
    torch.manual_seed(0)
    config = LlavaOnevisionConfig(
        vision_config={**like.vision.to_dict(), "vision_use_head": False},
        text_config={**like.text.to_dict(), "vocab_size": len(tokenizer)},
        image_token_id=chatml_tokenizer().convert_tokens_to_ids("<image>"), vision_feature_layer=-1,
        tie_word_embeddings=False,
    )  # fmt: skip
    LlavaOnevisionForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
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


def ask_for_deepspeed(stage: int) -> None:
    """Asks as `accelerate launch` does, for two processes without a GPU."""
    os.environ.pop("ACCELERATE_USE_CPU", None)
    os.environ |= {"ACCELERATE_USE_DEEPSPEED": "true", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    # the threshold is larger than the toy: nothing would be shared out
    zero = {"stage": stage, "stage3_param_persistence_threshold": 0}
    os.environ["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = json.dumps({"zero_optimization": zero})


def gloo_accelerator(*arguments, kwargs_handlers, **settings) -> Accelerator:
    """An accelerator for DeepSpeed, told of the backend that accelerate looks for on GPUs only."""
    handlers = [*kwargs_handlers, InitProcessGroupKwargs(backend="gloo")]
    return Accelerator(*arguments, kwargs_handlers=handlers, **settings)


def weights(folder) -> dict[str, torch.Tensor]:
    """Of a saved CCExpert, in float64."""
    return CCExpertForConditionalGeneration.from_pretrained(folder, dtype=torch.float64).state_dict()


def distance(one, other) -> float:
    """The largest difference between two states of the same names."""
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def state_of(result) -> dict[str, torch.Tensor]:
    """A copy of the weights of a run's model."""
    return {name: tensor.clone() for name, tensor in result.task.model.state_dict().items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = json.loads(sys.argv[1])
    kind: type[CCExpertTask] = DoubleTask
    if given.pop("sharded", False):
        processes.Accelerator = sharding_accelerator
        kind = DoubleTask if given.pop("double", True) else CCExpertTask
    zero = given.pop("zero", None)
    if zero is not None:
        ask_for_deepspeed(zero)
    if asks_for_deepspeed():  # by us, or by `accelerate launch`
        processes.Accelerator = gloo_accelerator
        given["cpu"] = False
        kind = CCExpertTask  # DeepSpeed's optimiser works in float32

    def build(recipe, accelerator):
        assert accelerator.num_processes == int(os.environ["WORLD_SIZE"])
        return kind(recipe, accelerator)

    train(stage_recipe(given.pop("data"), given.pop("start"), given.pop("output_dir"), **given), build)
