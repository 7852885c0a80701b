"""What `--plan` says of both systems is what training does."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from PIL import Image
from toys.ccexpert_stages import save_start, stage_recipe
from toys.pairs import SIDE, toy_pairs_recipe, toy_row, write_pairs

from rscc_hf.data.schema import FEATURES
from rscc_hf.errors import InputError, RecipeError
from rscc_hf.training import mmodalcc
from rscc_hf.training.engine.loop import train
from rscc_hf.training.engine.recipe import recipe_to_yaml
from rscc_hf.training.engine.run_folder import RunFolder
from rscc_hf.training.systems.ccexpert import plan as ccexpert_plan
from rscc_hf.training.systems.ccexpert.task import CCExpertTask
from rscc_hf.training.systems.mmodalcc import plan as mmodalcc_plan
from rscc_hf.training.systems.mmodalcc.task import MModalCCTask, train_mmodalcc
from rscc_hf.training.systems.pairs.pixels import PixelReader
from rscc_hf.training.systems.pairs.plan import PlanOptions, write_plan


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """Pairs with change masks, some without a caption that can be learnt; an odd number of them."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = [toy_row(number) for number in range(19)]
    for row in rows:
        row["change_mask"] = Image.new("L", (SIDE, SIDE), 255 if row["changed"] else 0)
    for number, captions in enumerate((None, [], [" "], ["word " * 60])):
        rows[4 * number]["captions"] = captions
        rows[4 * number + 1]["captions"] = [*(captions or []), *rows[4 * number + 1]["captions"]]
    (folder / "data").mkdir()
    splits = {"train": rows, "validation": rows[-3:], "odd": [{**rows[-1], "changed": None}], "twice": rows[-1:] * 2}
    for split, chosen in splits.items():
        Dataset.from_list(chosen, features=FEATURES).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return str(folder)


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> str:
    return save_start(tmp_path_factory.mktemp("start"))


def random_recipe(draw: random.Random, system: str, data: str, start: str, out: Path):
    stream = draw.random() < 0.23
    captions = "random_choice" if stream else draw.choice(["flatten", "random_choice", "together"])
    epochs, steps = (None, 5) if stream else draw.choice([(None, 5), (None, 11), (3, None), (3, 11)])
    per_device = draw.choice([1, 2, 4])
    common = {
        "captions": captions, "streaming": stream, "unchanged_share": 1.0 if stream else draw.choice([1.0, 0.3]),
        "mirror_horizontal": draw.choice([0.0, 0.5]),
        "per_device_batch_size": per_device, "global_batch_size": 4 * draw.choice([1, 2, 5]),
        "max_epochs": epochs, "max_steps": steps, "patience": draw.choice([None, 1]),
        "cache": "none" if stream else draw.choice(["none", "memory"]),
        "optimizer": draw.choice(["adamw", "muon"]), "schedule": draw.choice(["linear", "cosine", "one_cycle"]),
        "warmup_ratio": draw.choice([0.0, 0.3]), "seed": draw.randrange(100), "max_validation_pairs": 2,
        "eval_unit": draw.choice(["never", "steps", "epochs"]), "eval_every": draw.choice([1, 2]),
        "save_unit": draw.choice(["never", "steps", "epochs"]), "save_every": draw.choice([1, 3]),
        "metric_for_best": "bleu_4",
    }  # fmt: skip
    if system == "mmodalcc":
        return toy_pairs_recipe(
            data, out, **common, captions_per_pair=draw.choice([1, 3]), max_caption_length=draw.choice([50, 6]),
            semantics_optional=True, semantic_dropout=draw.choice([0.0, 0.5]),
            changed_coverage_share=draw.choice([0.0, 0.5]), frozen_stages=draw.choice([["none"], ["stem", "layer1"]]),
        )  # fmt: skip
    per_pair = {"flatten": draw.choice([None, 2]), "random_choice": None, "together": draw.choice([1, 3])}[captions]
    return stage_recipe(
        data, start, out, **common, captions_per_pair=per_pair, max_caption_length=draw.choice([50, 12]),
        changed_pixels_share=draw.choice([0.0, 0.5]), change_mask_loss=draw.choice([0.0, 1.0]),
        trained_parts=draw.choice([["integration"], ["vision_tower", "integration", "projector", "language_model"]]),
    )  # fmt: skip


def count_in_training(task_class: type, counts: Counter) -> type:
    """The task, which counts what the loop gives it to learn from."""

    class Counting(task_class):
        def count_targets(self, batch) -> int:
            counts["samples"] += len(batch["pixel_values"])
            segments = batch.get("segments")
            counts["captions"] += len(batch["labels"]) if segments is None else int(segments.amax(dim=1).sum())
            return super().count_targets(batch)

        def validate(self, backend) -> dict[str, float]:
            counts["validations"] += 1
            return {"bleu_4": counts["validations"]}  # better each time: no patience ends the run

    return Counting


@pytest.mark.parametrize("seed", range(10))
def test_ten_random_recipes_do_what_was_planned(seed, data, start, tmp_path, monkeypatch) -> None:
    system = "mmodalcc" if seed % 2 else "ccexpert"
    planning, task_class = (mmodalcc_plan, MModalCCTask) if system == "mmodalcc" else (ccexpert_plan, CCExpertTask)
    recipe = random_recipe(random.Random(seed), system, data, start, tmp_path / "run")
    monkeypatch.setattr(planning, "_flops", lambda *arguments: 1.0)  # of which nothing is compared
    with monkeypatch.context() as patch:
        patch.setattr(PixelReader, "read", not_wanted)
        patch.setattr("rscc_hf.training.systems.ccexpert.start.load_model", not_wanted)
        plan = planning.make_plan(recipe)
    counts: Counter = Counter()
    save = RunFolder.save_checkpoint

    def saving(*arguments, **options) -> None:
        counts["checkpoints"] += 1
        save(*arguments, **options)

    monkeypatch.setattr(RunFolder, "save_checkpoint", saving)
    result = train(recipe, count_in_training(task_class, counts))
    task, parts = result.task, result.task.parts()
    assert plan.steps == result.state.step
    if recipe.streaming:  # which does not tell how long it is
        assert (plan.samples, plan.samples_seen, plan.captions_seen) == (None, None, None)
    else:
        assert plan.samples == len(task.samples)
        assert (plan.samples_seen, plan.captions_seen) == (counts["samples"], counts["captions"])
    for what, planned in (("eval", plan.validations), ("save", plan.checkpoints)):
        untold = recipe.streaming and getattr(recipe, f"{what}_unit") == "epochs"
        assert planned == (None if untold else counts["validations" if what == "eval" else "checkpoints"])
    assert sum(plan.trained.values()) == sum(one.numel() for part in parts for one in part.parameters)
    assert sum(plan.parameters.values()) == sum(parameter.numel() for parameter in task.model.parameters())
    assert plan.rates == {part.name: part.learning_rate for part in parts}
    lines = [json.loads(line) for line in (tmp_path / "run" / "training_log.jsonl").read_text().splitlines()]
    rates = [line[name] for line in lines for name in line if name == f"learning_rate/{parts[0].name}"]
    earlier = recipe.schedule == "one_cycle" and plan.warmup_steps > 1  # its rise ends with its peak
    assert rates.index(max(rates)) == plan.warmup_steps - earlier
    halves = 2 if recipe.global_batch_size % (2 * recipe.per_device_batch_size) == 0 else 1
    there = planning.make_plan(recipe, PlanOptions(devices=halves))  # the law: processes change nothing of a step
    for name in ("samples", "steps", "samples_seen", "captions_seen", "validations", "checkpoints", "warmup_steps"):
        assert getattr(there, name) == getattr(plan, name)


def not_wanted(*arguments, **options):
    raise AssertionError("a plan reads neither images nor weights")


def test_the_script_of_mmodalcc_plans(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "recipe.yaml"
    config.write_text(
        recipe_to_yaml(toy_pairs_recipe(write_pairs(tmp_path / "pairs", 12, 4), "run", max_steps=None, max_epochs=3))
    )
    flags = ["--backbone_weights_rgb", "someone/resnet", "--eval_unit", "epochs", "--save_unit", "steps"]
    mmodalcc.main(["--config", str(config), "--plan", "--devices", "2", *flags])
    printed = capsys.readouterr().out
    for line in (
        "ResNets from someone/resnet (not read for a plan)", "8 = 2 device(s) x 4 x 1 accumulated", "| pairs | 12 |",
        "| captions | 30 usable |", "| samples an epoch | 24 |", "| steps an epoch | 3 |",
        "| steps | 9, or fewer (patience 10) |",
        "72 samples, 72 captions", "| validations | 3, or fewer", "| checkpoints | 9, or fewer",
        "| warm-up | 0 steps |", "| activations | not reckoned: they come on top |",
    ):  # fmt: skip
        assert line in " ".join(printed.replace("│", "|").split()), line
    assert not (tmp_path / "run").exists()


def test_what_a_stream_does_not_tell_is_said(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    recipe = toy_pairs_recipe(
        write_pairs(tmp_path / "pairs", 6, 2), tmp_path / "run", streaming=True, captions="random_choice",
        max_epochs=2, max_steps=5, eval_unit="epochs", save_unit="steps", save_every=2,
    )  # fmt: skip
    plan = mmodalcc_plan.make_plan(recipe)
    assert (plan.samples, plan.samples_seen, plan.validations) == (None, None, None)
    assert (plan.steps, plan.checkpoints) == (5, 3)
    write_plan(plan, recipe, PlanOptions())
    printed = capsys.readouterr().out
    assert "5, or fewer (max_epochs 2)" in printed
    assert "samples an epoch, steps an epoch, seen in all, validations: train_data is a stream" in printed


def test_a_plan_of_mmodalcc_refuses_what_training_refuses(data, tmp_path) -> None:
    for changes in (
        {"max_caption_length": 1}, {"tokenizer": str(tmp_path)}, {"global_batch_size": 6}, {"warmup_steps": 9},
        {"frozen_stages": ["foo"]}, {"d_model": 7}, {"dropout": 2.0}, {"position_embedding_std": -1.0},
        {"decoder_attention_heads": 5}, {"normalize_images": True, "num_channels": 4},
        {"streaming": True, "captions": "random_choice", "max_steps": None, "max_epochs": 1, "schedule": "linear"},
        *({"eval_unit": "steps", "validation_split": split} for split in ("val", "odd", "twice")),
    ):  # fmt: skip
        recipe = toy_pairs_recipe(data, tmp_path / "run", **changes)
        sentences = []
        for run in (mmodalcc_plan.make_plan, train_mmodalcc):
            with pytest.raises((RecipeError, InputError)) as caught:
                run(recipe)
            sentences.append(str(caught.value))
        assert sentences[0] == sentences[1] and "\n" not in sentences[0]
    for name, value in (("embedding_size", 0), ("grid_size", 0), ("decoder_hidden_size", 0), ("depths", [1, 0])):
        with pytest.raises(RecipeError, match=f"^{name} is .*give"):
            toy_pairs_recipe(data, tmp_path / "run", **{name: value})
    with pytest.raises(RecipeError, match="train_data is not given, and its words give the model its size"):
        mmodalcc_plan.make_plan(toy_pairs_recipe(None, tmp_path / "run"))


def test_images_of_few_pixels_are_planned(data, tmp_path) -> None:
    small, large = (
        mmodalcc_plan.make_plan(toy_pairs_recipe(data, tmp_path / "run", image_size=side)) for side in (2, SIDE)
    )
    assert 0 < small.flops_per_sample < large.flops_per_sample


def test_the_optimiser_holds_what_was_planned(data, tmp_path) -> None:
    recipe = toy_pairs_recipe(data, tmp_path / "run", optimizer="muon", max_steps=1, save_unit="steps")
    train_mmodalcc(recipe)
    saved = torch.load(tmp_path / "run" / "checkpoints" / "step-00000001" / "optimizer.pt", weights_only=True)
    state = saved["optimizer"]["state"].values()
    held = sum(tensor.nbytes for one in state for name, tensor in one.items() if name != "step")
    assert mmodalcc_plan.make_plan(recipe).optimizer_bytes == held
