"""What `--plan` says, without weights."""

from pathlib import Path

import pytest
from toy_ccexpert_stages import save_start, stage_recipe
from toy_pairs import write_pairs

from rscc_hf.training import planning
from rscc_hf.training.ccexpert import run_stage
from rscc_hf.training.ccexpert_recipe import Stage1Recipe, Stage2Recipe
from rscc_hf.training.planning import PlanOptions, make_plan, take_plan_options
from rscc_hf.training.recipe import RecipeError, read_recipe

RECIPES = Path(__file__).resolve().parents[2] / "training" / "recipes"
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

    monkeypatch.setattr("rscc_hf.training.ccexpert.train", never)
    monkeypatch.setenv("COLUMNS", "160")
    run_stage(Stage1Recipe, "stage1.py", ["--plan", "--devices", "4", "--init_from", start, "--train_data", data])
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
        planning.make_plan(Stage1Recipe())
    with pytest.raises(RecipeError, match=r"64 is no multiple of per_device_batch_size 4 x 3"):
        make_plan(Stage1Recipe(size="0.5b"), PlanOptions(devices=3))
