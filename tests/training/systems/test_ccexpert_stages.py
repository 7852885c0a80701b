"""The three stages on a tiny CCExpert: what moves, what a step is, how a run goes on, what it leaves."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toys.ccexpert_stages import distance, save_llava, save_start, stage_recipe, state_of, train_double, weights
from toys.pairs import SIDE, write_pairs
from toys.runs import Stop, stop_at
from toys.two_processes import launch
from transformers import LlavaOnevisionForConditionalGeneration

from rscc_hf import CCExpertForConditionalGeneration, CCExpertProcessor, ChangeCaptioner
from rscc_hf.data.loading import load_pairs
from rscc_hf.errors import RecipeError
from rscc_hf.training import stage1
from rscc_hf.training.engine import checkpoints
from rscc_hf.training.engine.loop import train
from rscc_hf.training.engine.recipe import parse_recipe, read_recipe
from rscc_hf.training.systems.ccexpert.parts import HEAD
from rscc_hf.training.systems.ccexpert.recipe import PARTS, CCExpertRecipe, Stage1Recipe, Stage2Recipe, Stage3Recipe
from rscc_hf.training.systems.ccexpert.task import CCExpertTask, part_of, train_ccexpert

ROOT = Path(__file__).resolve().parents[3]
WORKER = Path(__file__).resolve().parents[2] / "toys/ccexpert_stages.py"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"), 13, 4)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return save_start(tmp_path_factory.mktemp("start"))


@pytest.mark.parametrize(
    ("kind", "changes", "moving"),
    [
        (Stage1Recipe, {}, {"integration"}),
        (Stage1Recipe, {"trained_parts": ["integration", "projector"]}, {"integration", "projector"}),
        (Stage2Recipe, {}, set(PARTS)),
        (Stage3Recipe, {}, set(PARTS)),
    ],
)
def test_what_a_stage_trains_moves_and_nothing_else(pairs, start, tmp_path, kind, changes, moving):
    recipe = stage_recipe(pairs, start, tmp_path, kind, **changes, max_steps=2)
    result = train_ccexpert(recipe)
    before, after = weights(start), weights(tmp_path)
    moved: dict[str, set[bool]] = {}
    for name, tensor in after.items():
        moved.setdefault(part_of(name), set()).add(not torch.equal(tensor, before[name]))
    assert set(moved) == set(PARTS)
    for part, found in moved.items():
        assert found == {part in moving}, part
    rates = {part.name: part.learning_rate for part in result.task.parts()}
    expected = {"vision_tower": 0.2 * 3e-3, "integration": 3e-3, "projector": 3e-3, "language_model": 3e-3}
    assert rates == pytest.approx({part: expected[part] for part in moving})
    optimised = {id(parameter) for part in result.task.parts() for parameter in part.parameters}
    assert optimised == {id(parameter) for parameter in result.task.model.parameters() if parameter.requires_grad}


def test_accumulation_changes_nothing(pairs, start, tmp_path):
    """8 x batch 1 equals 1 x batch 8 in float64, with captions of unequal length and a smaller last batch."""
    runs = [
        state_of(train_double(stage_recipe(pairs, start, tmp_path / str(size), per_device_batch_size=size,
                                           max_steps=5)))  # 30 captions: steps of 8, 8, 8, 6, 8
        for size in (1, 8)
    ]  # fmt: skip
    assert distance(*runs) < 1e-10
    assert distance(runs[0], weights(start)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes_equal_one_that_accumulates(pairs, start, tmp_path, sharded):
    """Data parallelism by gloo, and FSDP2, which also goes on from a checkpoint.

    The last global batch of the epoch is a single sample: the second process has none.
    """
    changes = {"per_device_batch_size": 1, "max_steps": 5, "save_unit": "steps", "save_every": 3}
    changes |= {"schedule": "constant", "warmup_ratio": 0.0}
    one = state_of(train_double(stage_recipe(pairs, start, tmp_path / "one", **changes)))
    given = {**changes, "data": pairs, "start": start, "output_dir": str(tmp_path / "two"), "sharded": sharded}
    if sharded:
        launch(WORKER, json.dumps({**given, "max_steps": 3}))
        with pytest.raises(checkpoints.CheckpointError, match="is of a run with FSDP or DeepSpeed; continue it so"):
            train_double(stage_recipe(pairs, start, tmp_path / "two", **changes))
    launch(WORKER, json.dumps(given))
    assert distance(one, weights(tmp_path / "two")) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_aids_of_training_count_the_same_in_two_processes(start, tmp_path, sharded):
    """The change-mask loss and captions together; the second process has no sample in the last global batch."""

    def masked(row):
        mask = np.zeros((32, 32), dtype=np.uint8)
        mask[:, : 16 if row["changed"] else 0] = 255
        return {**row, "change_mask": Image.fromarray(mask)}

    data = write_pairs(tmp_path / "pairs", 9, 2, change=masked)
    changes = {"per_device_batch_size": 1, "max_steps": 3, "captions": "together", "captions_per_pair": 2}
    changes |= {"change_mask_loss": 2.0, "changed_pixels_share": 0.5}
    one = train_double(stage_recipe(data, start, tmp_path / "one", **changes))
    launch(
        WORKER, json.dumps({"data": data, "start": start, "output_dir": str(tmp_path / "two"), "sharded": sharded,
                            **changes})
    )  # fmt: skip
    assert distance(weights(tmp_path / "one"), weights(tmp_path / "two")) < 1e-10
    assert one.state.step == 3


@pytest.mark.slow
def test_fsdp_validates_and_saves_as_one_process_does(pairs, start, tmp_path):
    changes = {"per_device_batch_size": 4, "eval_unit": "steps", "eval_every": 2, "validation_batch_size": 1}
    changes |= {"max_validation_pairs": 3, "max_new_tokens": 6}  # the second process answers one pair less
    one = train_double(stage_recipe(pairs, start, tmp_path / "one", **changes))
    launch(
        WORKER,
        json.dumps({"data": pairs, "start": start, "output_dir": str(tmp_path / "two"), "sharded": True, **changes}),
    )
    assert distance(weights(tmp_path / "one"), weights(tmp_path / "two")) < 1e-10
    log = [json.loads(line) for line in (tmp_path / "two" / "training_log.jsonl").read_text().splitlines()]
    scores = [entry["validation"] for entry in log if "validation" in entry]
    assert scores == [entry["scores"] for entry in one.state.history]


def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(pairs, start, tmp_path):
    changes = {
        "max_steps": 6,
        "save_unit": "steps",
        "save_every": 2,
        "captions": "random_choice",
        "colour_jitter": 0.2,
    }
    whole = state_of(train_ccexpert(stage_recipe(pairs, start, tmp_path / "whole", **changes)))
    for step in (1, 3, 4):
        with pytest.raises(Stop):
            train_ccexpert(stage_recipe(pairs, start, tmp_path / "parts", **changes), on_step=stop_at(step))
    parts = state_of(train_ccexpert(stage_recipe(pairs, start, tmp_path / "parts", **changes)))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_gradient_checkpointing_and_bf16(pairs, start, tmp_path):
    plain = state_of(train_ccexpert(stage_recipe(pairs, start, tmp_path / "plain")))
    again = state_of(train_ccexpert(stage_recipe(pairs, start, tmp_path / "again", gradient_checkpointing=True)))
    assert distance(plain, again) < 1e-5
    half = train_ccexpert(stage_recipe(pairs, start, tmp_path / "half", mixed_precision="bf16", optimizer="muon"))
    assert {tensor.dtype for tensor in state_of(half).values()} == {torch.float32}


def test_learns_is_validated_and_hands_its_last_weights_on(pairs, start, tmp_path):
    """The best weights lie on top and caption; the next stage starts from the last ones."""
    scores = []
    recipe = stage_recipe(
        pairs, start, tmp_path / "one", max_steps=30, eval_unit="steps", eval_every=10, max_new_tokens=24,
        per_device_batch_size=8, learning_rate=1e-2,
    )  # fmt: skip
    losses = []
    result = train_ccexpert(recipe, on_step=lambda step, total, loss: losses.append(loss), on_evaluation=scores.append)
    assert losses[-1] < 0.6 * losses[0] and len(scores) == 3
    assert {"bleu_4", "accuracy_changed", "accuracy_unchanged"} <= set(scores[0])
    assert ChangeCaptioner.from_pretrained(tmp_path / "one").trained_on == "toy"
    image = torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)
    assert "<" not in ChangeCaptioner.from_pretrained(tmp_path / "one")(image, image)

    last = tmp_path / "one" / "last"
    assert last.is_dir() == (result.state.best_step != result.state.step)
    trained = state_of(result)
    for which, folder in (("last", last if last.is_dir() else tmp_path / "one"), ("best", tmp_path / "one")):
        recipe = stage_recipe(pairs, str(tmp_path / "one"), tmp_path / which, learning_rate=0.0, init_weights=which)
        following = state_of(train_ccexpert(recipe))
        assert distance(following, weights(folder)) == 0
        if which == "last":
            assert distance(following, trained) == 0


def test_validation_writes_what_the_captioner_writes(pairs, start, tmp_path, monkeypatch):
    answered: list[str] = []

    def score(answers, *_, **__):
        answered.extend(answers)
        return {"bleu_4": 1.0}

    monkeypatch.setattr("rscc_hf.training.systems.pairs.validation.corpus_scores", score)
    changes = {"max_steps": 20, "learning_rate": 1e-2, "eval_unit": "steps", "eval_every": 20, "max_new_tokens": 12}
    train_ccexpert(stage_recipe(pairs, start, tmp_path, **changes, validation_batch_size=3, num_beams=2))
    rows = load_pairs(pairs, "validation")
    captioner = ChangeCaptioner.from_pretrained(tmp_path, device="cpu")
    captions = captioner(
        list(rows["image_before"]), list(rows["image_after"]), batch_size=3, max_new_tokens=12, num_beams=2
    )
    assert answered == captions and any(answered)


def test_the_last_weights_are_kept_beside_the_best(pairs, start, tmp_path):
    scores = iter([3.0, 2.0, 1.0, 9.0])

    class Scored(CCExpertTask):
        def validate(self, accelerator):
            return {"bleu_4": next(scores)}

    changes = {"eval_unit": "steps", "eval_every": 1, "patience": 2, "save_unit": "steps", "save_every": 3}
    changes["warmup_ratio"] = 0.0  # a share of all steps would change with their number
    result = train(stage_recipe(pairs, start, tmp_path, max_steps=9, schedule="constant", **changes), Scored)
    assert (result.state.best_step, result.state.step) == (1, 3)  # stopped early
    assert distance(weights(tmp_path / "last"), state_of(result)) == 0
    assert distance(weights(tmp_path), state_of(result)) > 0
    # prolonged, and now the last is the best
    longer = train(stage_recipe(pairs, start, tmp_path, max_steps=4, schedule="constant",
                                **{**changes, "patience": None}), Scored)  # fmt: skip
    assert longer.state.best_step == 4 and not (tmp_path / "last").exists()


def masked(row):
    from PIL import Image

    mask = Image.new("L", (32, 32))
    if row["changed"]:
        mask.paste(255, (0, 0, 16, 32))
    return {**row, "change_mask": mask}


def test_change_mask_loss_teaches_its_head_and_leaves_no_trace(start, tmp_path):
    data = write_pairs(tmp_path / "data", 12, 4, change=masked)
    runs = []
    for size in (1, 8):
        recipe = stage_recipe(data, start, tmp_path / str(size), change_mask_loss=2.0, per_device_batch_size=size)
        result = train_double(recipe)
        runs.append(state_of(result))
        assert {part.name for part in result.task.parts()} == {*PARTS, HEAD}
    assert distance(*runs) < 1e-10
    assert any(name.startswith(HEAD) for name in runs[0])
    _, info = CCExpertForConditionalGeneration.from_pretrained(tmp_path / "8", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]

    losses = []
    recipe = stage_recipe(
        data, start, tmp_path / "learns", change_mask_loss=1.0, trained_parts=["integration"], max_steps=40,
        per_device_batch_size=8, learning_rate=2e-2, schedule="constant",
    )  # fmt: skip
    task = train_ccexpert(recipe, on_step=lambda step, total, loss: losses.append(loss)).task
    batch = task.samples.batch([(0, index) for index in range(len(task.samples))])
    inputs = {name: value for name, value in batch.items() if name != "change_masks"}
    task.model.train()
    with torch.no_grad():
        found = task.model(**inputs, output_change_features=True).change_features > 0
    expected = torch.nn.functional.avg_pool2d(batch["change_masks"][:, None].float(), SIDE_OF_A_PATCH) > 0.5
    assert (found == expected.flatten(1)).float().mean() > 0.9


SIDE_OF_A_PATCH = 14


def test_streams_too(pairs, start, tmp_path):
    recipe = stage_recipe(pairs, start, tmp_path, streaming=True, captions="random_choice", max_steps=2)
    assert train_ccexpert(recipe).state.step == 2


def test_stage_one_starts_from_llava_onevision(pairs, tmp_path):
    """Its tokenizer, our template; the module is new, everything else stays as it was."""
    save_llava(tmp_path / "llava")
    recipe = stage_recipe(
        pairs, str(tmp_path / "llava"), tmp_path / "one", Stage1Recipe, vision_levels=[1, 2], num_integration_layers=1
    )
    train_ccexpert(recipe)
    trained = weights(tmp_path / "one")
    llava = LlavaOnevisionForConditionalGeneration.from_pretrained(tmp_path / "llava")
    embedding = llava.get_input_embeddings().weight.double()
    assert torch.equal(trained["language_model.embed_tokens.weight"], embedding)
    assert CCExpertProcessor.from_pretrained(tmp_path / "one").num_image_tokens == 4
    assert ChangeCaptioner.from_pretrained(tmp_path / "one").takes_questions
    off = stage_recipe(
        pairs, str(tmp_path / "llava"), tmp_path / "off", integration=False, vision_levels=[2],
        trained_parts=["vision_tower", "projector", "language_model"],
    )  # fmt: skip
    assert train_ccexpert(off).task.model.integration is None
    assert not any(name.startswith("integration") for name in weights(tmp_path / "off"))


def test_mistakes_are_one_sentence(pairs, start, tmp_path):
    with pytest.raises(RecipeError, match=r"global_batch_size 8 is no multiple of per_device_batch_size 3 x 1"):
        train_ccexpert(stage_recipe(pairs, start, tmp_path, per_device_batch_size=3))
    with pytest.raises(RecipeError, match="init_from is not given"):
        train_ccexpert(stage_recipe(pairs, None, tmp_path))
    with pytest.raises(RecipeError, match="there is no such folder; run the stage before, or name another"):
        train_ccexpert(stage_recipe(pairs, "./outputs/absent", tmp_path))
    with pytest.raises(RecipeError, match="num_integration_layers is 3 in the recipe and 1 in"):
        train_ccexpert(stage_recipe(pairs, start, tmp_path, num_integration_layers=3))
    with pytest.raises(RecipeError, match=r"size is 7b and init_from .* has a language model of hidden_size 32"):
        train_ccexpert(stage_recipe(pairs, start, tmp_path, size="7b"))
    with pytest.raises(RecipeError, match="trained_parts has 'encoder'; there are vision_tower, integration"):
        stage_recipe(pairs, start, tmp_path, trained_parts=["encoder"])
    with pytest.raises(ValueError, match=r"pair 'pair-\d+' has no change_mask, which the recipe needs; give one"):
        train_ccexpert(stage_recipe(pairs, start, tmp_path, change_mask_loss=1.0))
    with pytest.raises(SystemExit) as caught:
        stage1.main(["--learnin_rate", "1"])
    assert str(caught.value.code).startswith("stage1.py: --learnin_rate: no such flag; did you mean learning_rate")
    assert not (tmp_path / "config.json").exists()


def test_ten_lines_of_transformers_trainer(pairs, start, tmp_path):
    """As the README shows it."""
    from transformers import AutoModel, AutoProcessor, Trainer, TrainingArguments

    from rscc_hf.data.loading import load_pairs

    processor, model = AutoProcessor.from_pretrained(start), AutoModel.from_pretrained(start)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def collate(rows):
        images = [[row["image_before"], row["image_after"]] for row in rows]
        return processor(images=images, captions=[row["captions"][0] for row in rows], return_tensors="pt")

    arguments = TrainingArguments(
        str(tmp_path), max_steps=3, per_device_train_batch_size=4, gradient_accumulation_steps=2, learning_rate=1e-3,
        remove_unused_columns=False, report_to="none", use_cpu=True, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    output = Trainer(model, arguments, train_dataset=load_pairs(pairs, "train"), data_collator=collate).train()
    assert output.global_step == 3 and output.training_loss > 0
    assert distance(model.state_dict(), before) > 1e-4


RECIPES = ROOT / "training" / "recipes"
KINDS = {"stage1": Stage1Recipe, "stage2": Stage2Recipe, "stage3": Stage3Recipe}


@pytest.mark.parametrize("size", ["05b", "7b"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_shipped_recipes_have_the_papers_numbers(size, stage):
    """arXiv 2411.11360, and its release for what it leaves open."""
    path = RECIPES / f"ccexpert_{size}_stage{stage}.yaml"
    recipe = read_recipe(KINDS[f"stage{stage}"], path)
    expected = {
        "global_batch_size": [64, 256, 256][stage - 1],
        "max_epochs": [1, 1, 50][stage - 1],
        "captions": ["flatten", "flatten", "random_choice"][stage - 1],
        "trained_parts": ["integration"] if stage == 1 else list(PARTS),
        "optimizer": "adamw", "learning_rate": 1e-5, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0,
        "schedule": "cosine", "warmup_ratio": 0.03, "mixed_precision": "bf16", "gradient_checkpointing": True,
        "max_grad_norm": 1.0, "seed": 42, "metric_for_best": "s_m", "max_length": 32768, "augmentation": None,
        "change_mask_loss": 0.0, "lora_rank": None, "size": {"05b": "0.5b", "7b": "7b"}[size],
    }  # fmt: skip
    assert {name: getattr(recipe, name) for name in expected} == expected
    assert recipe.learning_rates["vision_tower"] == pytest.approx(2e-6)
    assert recipe.accumulation_steps(8) == [2, 16, 16][stage - 1]
    if stage > 1:  # each stage starts where the one before ends
        before = read_recipe(KINDS[f"stage{stage - 1}"], RECIPES / f"ccexpert_{size}_stage{stage - 1}.yaml")
        assert recipe.init_from == before.output_dir and recipe.init_weights == "last"
    assert read_recipe(CCExpertRecipe, path) == CCExpertRecipe(**recipe.__dict__)  # the file says all that matters


@pytest.mark.parametrize("size", ["05b", "7b"])
def test_shipped_baselines(size):
    off = read_recipe(Stage2Recipe, RECIPES / f"ccexpert_{size}_baseline_module_off.yaml")
    one = read_recipe(Stage3Recipe, RECIPES / f"ccexpert_{size}_baseline_one_stage.yaml")
    for recipe in (off, one):
        assert recipe.integration is False and "integration" not in recipe.trained_parts
        assert str(recipe.init_from).startswith("llava-hf/")
    assert (off.captions, off.max_epochs) == ("flatten", 1)
    assert (one.captions, one.max_epochs) == ("random_choice", 50)


def test_flags_that_may_be_null_or_true():
    recipe = parse_recipe(
        Stage1Recipe,
        ["--integration", "false", "--vision_levels", "3", "5", "--size", "7b", "--lora_rank", "null"],
    )
    assert recipe.integration is False and recipe.vision_levels == [3, 5] and recipe.lora_rank is None
    assert parse_recipe(Stage1Recipe, []).integration is None
    assert parse_recipe(Stage1Recipe, ["--vision_levels", "null"]).vision_levels is None


def test_the_processor_goes_with_the_model(pairs, start, tmp_path):
    prompt = "before <image> after <image> what is new?"
    recipe = stage_recipe(
        pairs, start, tmp_path, prompt=prompt, label_policy="release", save_unit="steps", max_steps=1
    )
    train_ccexpert(recipe)
    processor = CCExpertProcessor.from_pretrained(tmp_path)
    assert processor.prompt == prompt and processor.label_policy == "release"
    assert checkpoints.newest_complete(tmp_path / "checkpoints") is not None
