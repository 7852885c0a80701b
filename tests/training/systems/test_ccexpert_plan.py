"""What `--plan` says, without weights."""

import math
import random
from pathlib import Path

import pytest
from datasets import Dataset
from toys.ccexpert_stages import save_start, stage_recipe
from toys.pairs import toy_row, write_pairs

from rscc_hf.data.schema import FEATURES
from rscc_hf.errors import RecipeError
from rscc_hf.training import stage1
from rscc_hf.training.engine.processes import open_backend
from rscc_hf.training.engine.recipe import read_recipe
from rscc_hf.training.systems.ccexpert.plan import make_plan
from rscc_hf.training.systems.ccexpert.recipe import Stage1Recipe, Stage2Recipe
from rscc_hf.training.systems.ccexpert.task import CCExpertTask, train_ccexpert
from rscc_hf.training.systems.pairs.plan import PlanOptions, take_plan_options, write_plan

RECIPES = Path(__file__).resolve().parents[3] / "training" / "recipes"
MODULE = 63_765_505
QWEN2_7B = 7_615_616_512  # with both embeddings
TOWER = 26 * (4 * (1152 * 1152 + 1152) + 2 * 1152 * 4304 + 1152 + 4304 + 4 * 1152) + 3 * 196 * 1152 + 1152 + 729 * 1152
PROJECTOR = 1152 * 3584 + 3584 + 3584 * 3584 + 3584


@pytest.fixture(scope="module")
def seven_billion():
    """Plans of stage I and II of 7B; no network, so the preset."""
    one, two = (
        read_recipe(kind, RECIPES / f"ccexpert_7b_stage{stage}.yaml", init_from=None)
        for stage, kind in ((1, Stage1Recipe), (2, Stage2Recipe))
    )
    return make_plan(one, PlanOptions(devices=8)), make_plan(two, PlanOptions(devices=8))


def test_numbers_of_7b(seven_billion):
    one, two = seven_billion
    parameters = {
        "vision_tower": TOWER, "integration": MODULE, "projector": PROJECTOR, "language_model": QWEN2_7B,
    }  # fmt: skip
    assert one.parameters == two.parameters == parameters
    assert one.trained == {"vision_tower": 0, "integration": MODULE, "projector": 0, "language_model": 0}
    assert two.trained == parameters
    total = sum(parameters.values())
    assert (one.weight_bytes, one.gradient_bytes, one.optimizer_bytes) == (4 * total, 4 * MODULE, 8 * MODULE)
    assert (two.gradient_bytes, two.optimizer_bytes) == (4 * total, 8 * total)
    assert one.image_tokens == 2 * 729 and 36 <= one.text_tokens <= 44 and not one.exact_text
    assert (one.accumulation, two.accumulation) == (2, 16)
    assert one.samples is None and one.steps is None
    assert two.rates["vision_tower"] == pytest.approx(2e-6)


def test_operations_of_7b(seven_billion):
    """A forward pass of the language model is two operations a weight and token, and attention on top."""
    one, two = seven_billion
    tokens = two.image_tokens + two.text_tokens
    weights = QWEN2_7B - 2 * 152064 * 3584
    language = 2 * weights * tokens
    attention = 28 * 4 * tokens * tokens * 3584
    tower = 2 * 2 * 729 * (TOWER - 729 * 1152) + 26 * 2 * 4 * 729 * 729 * 1152
    least = 4 * (language + attention / 2 + 0.95 * tower)
    most = 4 * (language + attention + 1.05 * tower) * 1.2  # and module and projector
    assert least < two.flops_per_sample < most
    assert 0.6 * two.flops_per_sample < one.flops_per_sample < two.flops_per_sample
    assert two.step_seconds == pytest.approx(two.flops_per_sample * 256 / 8 / 400e12)


def test_data_and_tokenizer_make_it_exact(tmp_path, monkeypatch, capsys):
    data = write_pairs(tmp_path / "pairs", 12, 4)
    start = save_start(tmp_path / "start")
    recipe = stage_recipe(data, start, tmp_path / "run", max_steps=None, max_epochs=3)
    plan = make_plan(recipe)
    assert plan.samples == 6 * 3 + 6 * 2 and plan.steps == 3 * 4 and plan.exact_text
    assert plan.image_tokens == 8
    chosen = stage_recipe(data, start, tmp_path / "run", max_steps=None, max_epochs=3, captions="random_choice")
    assert make_plan(chosen).samples == 12
    adapted = make_plan(stage_recipe(data, start, tmp_path / "run", lora_rank=2, optimizer="muon"))
    rank = 2 * sum(a + b for a, b in ((32, 32), (32, 16), (32, 16), (32, 32), (32, 64), (32, 64), (64, 32))) * 2
    assert adapted.trained["language_model"] == rank and adapted.trained["vision_tower"] == 0
    assert adapted.optimizer_bytes < 8 * sum(adapted.trained.values())

    def never(*arguments):
        raise AssertionError("it must not train")

    monkeypatch.setattr("rscc_hf.training.systems.ccexpert.task.train", never)
    monkeypatch.setenv("COLUMNS", "160")
    stage1.main(["--plan", "--devices", "4", "--init_from", start, "--train_data", data])
    printed = capsys.readouterr().out
    assert "64 = 4 device(s) x 4 x 4 accumulated" in printed and "samples an epoch" in printed
    assert not (tmp_path / "run").exists()


def test_mistakes_are_one_sentence(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert take_plan_options(["--seed", "1"]) == (None, ["--seed", "1"])
    assert take_plan_options(["--plan", "--tflops=100"]) == (PlanOptions(1, 100.0), [])
    with pytest.raises(RecipeError, match="--devices and --tflops are for --plan"):
        take_plan_options(["--devices", "3"])
    with pytest.raises(RecipeError, match="--devices 0"):
        take_plan_options(["--plan", "--devices", "0"])
    with pytest.raises(RecipeError, match="invalid int value"):
        take_plan_options(["--plan", "--devices", "x"])
    with pytest.raises(RecipeError, match=r"init_from is not given.*or set size to plan without it"):
        make_plan(Stage1Recipe())
    with pytest.raises(RecipeError, match=r"^integration_attention_heads=7 must divide"):
        make_plan(Stage1Recipe(size="0.5b", integration_attention_heads=7))
    with pytest.raises(RecipeError, match=r"64 is no multiple of per_device_batch_size 4 x 3"):
        make_plan(Stage1Recipe(size="0.5b"), PlanOptions(devices=3))


UNUSABLE = [None, [], [" "], [" ".join(["word"] * 600)], ["an <image> of houses"]]


@pytest.fixture(scope="module")
def odd_pairs(tmp_path_factory):
    """Pairs some of whose captions cannot be learnt: null, none, blank, too long, or marks among them."""
    folder = tmp_path_factory.mktemp("odd")
    rows = [toy_row(number) for number in range(30)]
    for number, captions in enumerate(UNUSABLE):
        rows[4 * number]["captions"] = captions
        rows[4 * number + 1]["captions"] = [*(captions or []), *rows[4 * number + 1]["captions"]]
    (folder / "data").mkdir()
    for split in ("train", "validation"):
        chosen = rows if split == "train" else rows[-4:]
        Dataset.from_list(chosen, features=FEATURES).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return str(folder)


def random_recipe(data, start, folder, seed):
    draw = random.Random(seed)
    captions = draw.choice(["flatten", "random_choice", "together"])
    per_pair = {"flatten": draw.choice([None, 1, 4]), "random_choice": None, "together": draw.choice([1, 3])}[captions]
    return stage_recipe(
        data, start, folder, captions=captions, captions_per_pair=per_pair, seed=seed,
        unchanged_share=draw.choice([1.0, 0.3, 0.5]), max_caption_length=draw.choice([512, 12, 9]),
        per_device_batch_size=draw.choice([1, 2]), global_batch_size=4 * draw.choice([1, 2, 5]),
        max_epochs=draw.choice([None, 1, 3]), max_steps=draw.choice([4, 100]),
        lora_rank=draw.choice([None, 2]), cache=draw.choice(["none", "memory"]),
    )  # fmt: skip


def test_samples_and_steps_are_those_of_training(odd_pairs, tmp_path):
    start = save_start(tmp_path / "start")
    for seed in range(10):
        recipe = random_recipe(odd_pairs, start, tmp_path / "run", seed)
        plan = make_plan(recipe, PlanOptions(devices=2))
        with open_backend(recipe) as (backend, _):
            task = CCExpertTask(recipe, backend.accelerator)
        counted = task.batches(0, 2, recipe.accumulation_steps(2)).steps_per_epoch
        epochs = math.inf if recipe.max_epochs is None else recipe.max_epochs * counted
        assert (plan.samples, plan.steps) == (len(task.samples), min(epochs, recipe.max_steps)), recipe


@pytest.mark.parametrize("changes", [{}, {"captions": "together", "captions_per_pair": 2, "unchanged_share": 0.4}])
def test_a_run_does_what_was_planned(changes, odd_pairs, tmp_path):
    recipe = stage_recipe(
        odd_pairs, save_start(tmp_path / "start"), tmp_path / "run", max_steps=None, max_epochs=1, **changes
    )
    plan, result = make_plan(recipe), train_ccexpert(recipe)
    assert (plan.samples, plan.steps) == (len(result.task.samples), result.state.step)


def test_a_plan_refuses_what_training_refuses(odd_pairs, tmp_path):
    start = save_start(tmp_path / "start")
    for changes in ({"max_caption_length": 1}, {"size": "7b"}, {"num_integration_layers": 4}, {"max_length": 9}):
        recipe = stage_recipe(odd_pairs, start, tmp_path / "run", **changes)
        sentences = []
        for run in (make_plan, train_ccexpert):
            with pytest.raises(ValueError, match=r".") as caught:
                run(recipe)
            sentences.append(str(caught.value))
        assert sentences[0] == sentences[1]


def test_without_a_tokenizer_words_are_counted_and_said_so(odd_pairs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "160")
    recipe = Stage1Recipe(size="0.5b", train_data=odd_pairs)
    plan = make_plan(recipe)
    assert not plan.exact_text and 0 < plan.samples < 90
    write_plan(plan, recipe, PlanOptions())
    assert f"{plan.samples} (about: no tokenizer at hand)" in capsys.readouterr().out
