"""`--plan` of MModalCC; see `rscc_hf.training.systems.pairs.plan`.

The vocabulary is built, or read, as for training, since it gives the model its size; no weights are read. Parameters,
bytes of weights, gradients and optimiser, samples and steps are exact. Floating-point operations are counted by torch
on one sample with captions of the mean length, forward and backward.
"""

import torch
from torch.utils.flop_counter import FlopCounterMode

from rscc_hf.errors import RecipeError
from rscc_hf.training.systems.mmodalcc.recipe import MModalCCRecipe
from rscc_hf.training.systems.mmodalcc.task import MModalCCTask
from rscc_hf.training.systems.pairs.plan import Plan, PlannedPairs, PlanOptions, reckon


def make_plan(recipe: MModalCCRecipe, options: PlanOptions | None = None) -> Plan:
    """Reckon what a run will be.

    Raises:
        RecipeError: The global batch does not divide, or there is neither `train_data` nor `tokenizer`, without which
            the model's size is not known.
    """
    options = options or PlanOptions()
    recipe.accumulation_steps(options.devices)  # refuses before anything is read
    if recipe.train_data is None and recipe.tokenizer is None:
        raise RecipeError("train_data is not given, and its words give the model its size; name it, or a tokenizer.")
    task = _PlannedTask(recipe)
    captions = task.some_captions()
    rows = task.tokenizer(captions, add_special_tokens=False)["input_ids"] if captions else [[]]
    words = round(sum(len(ids) + 1 for ids in rows) / len(rows))
    return reckon(task, options, model=_origin(recipe, len(task.tokenizer)), flops_per_sample=_flops(task, words))


class _PlannedTask(PlannedPairs, MModalCCTask):
    """The task as far as a plan needs it."""

    def __init__(self, recipe: MModalCCRecipe):
        self.recipe: MModalCCRecipe = recipe
        self.prepare_words()
        with torch.device("meta"):
            self.model = self.build_model()
        self.plan_data()


def _origin(recipe: MModalCCRecipe, words: int) -> str:
    starts = (recipe.backbone_weights_rgb, recipe.backbone_weights_semantic)
    given = " and ".join(dict.fromkeys(where for where in starts if where is not None))
    return f"new, {words:,} words" + (f", ResNets from {given} (not read for a plan)" if given else ", from nothing")


def _flops(task: _PlannedTask, words: int) -> float:
    """Count the floating-point operations of one training sample, whose captions have so many words.

    Of two samples, and half of it: batch norm has no deviation of one value, as a small image's map may be.
    """
    recipe, count = task.recipe, 2 * task.recipe.captions_per_sample
    side = recipe.image_size
    images = torch.empty(2, 2, recipe.num_channels, side, side, device="meta")
    maps = None
    if recipe.modalities != "rgb":
        maps = torch.empty(2, 2, recipe.semantic_num_channels, side, side, device="meta")
    ids = torch.ones(count, words, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        # words given beside labels: else the model would look which of them are needed, and there is nothing to see
        task.model.train()(images, maps, decoder_input_ids=ids, labels=ids, num_items_in_batch=1).loss.backward()
    task.model.zero_grad()
    return counter.get_total_flops() / 2
