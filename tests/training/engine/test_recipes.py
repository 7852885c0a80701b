"""Reading recipes: YAML, flags, errors; and the recipes that ship."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rscc_hf.errors import RecipeError
from rscc_hf.modeling.modeling_mmodalcc import MModalCCForConditionalGeneration
from rscc_hf.training.aids.land_cover import LandCoverRecipe
from rscc_hf.training.engine.recipe import (
    LoopRecipe,
    option,
    parse_recipe,
    read_recipe,
    recipe_to_yaml,
    trajectory_difference,
)
from rscc_hf.training.systems.ccexpert.recipe import Stage1Recipe, Stage2Recipe, Stage3Recipe
from rscc_hf.training.systems.mmodalcc.recipe import MModalCCRecipe

RECIPES = Path(__file__).resolve().parents[3] / "training" / "recipes"


@dataclass
class SmallRecipe(LoopRecipe):
    max_steps: int | None = option(5, "")


def written(folder: Path, text: str) -> str:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return str(path)


def test_flags_override_the_file_and_the_file_overrides_defaults(tmp_path):
    path = written(tmp_path, "learning_rate: 5e-6\nglobal_batch_size: 8\nper_device_batch_size: 4\npatience: 3\n")
    recipe = parse_recipe(
        SmallRecipe,
        ["--config", path, "--global_batch_size", "16", "--patience", "null", "--no_progress_bar", "--seed=7"],
    )
    assert recipe.learning_rate == 5e-6  # YAML 1.1 reads 5e-6 as text
    assert (recipe.global_batch_size, recipe.per_device_batch_size, recipe.seed) == (16, 4, 7)
    assert recipe.patience is None
    assert recipe.progress_bar is False
    assert parse_recipe(SmallRecipe, ["--max_steps", "null", "--max_epochs", "2"]).max_steps is None


@pytest.mark.parametrize(("value", "expected"), [("true", True), ("false", False), ("no", False), ("1", True)])
def test_flags_that_are_true_or_false(value, expected):
    """`type=bool` would make every text true."""
    assert parse_recipe(SmallRecipe, ["--gradient_checkpointing", value]).gradient_checkpointing is expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rte: 1", r"recipe\.yaml: 'learning_rte' is no key of SmallRecipe; did you mean learning_rate"),
        ("qqq: 1", r"recipe\.yaml: 'qqq' is no key of SmallRecipe \(--help lists them all\)"),
        ("max_steps: many", r"recipe\.yaml: max_steps is 'many'; give a whole number or null"),
        ("max_steps: 1.5", r"max_steps is 1\.5; give a whole number or null"),
        ("max_steps: true", r"max_steps is True; give a whole number or null"),
        ("progress_bar: 'false'", r"progress_bar is 'false'; give true or false"),
        ("schedule: cosinus", r"schedule is 'cosinus'; give one of constant, linear, cosine, one_cycle"),
        ("tracker: [a]", r"tracker is \['a'\]; give text"),
        ("- max_steps", r"recipe\.yaml: the recipe is no list of `key: value` lines; write it as one"),
        ("a: b: c", r"recipe\.yaml: no valid YAML"),
        ("global_batch_size: 0", r"global_batch_size is 0; give 1 or more"),
        ("max_steps: null", r"Neither max_epochs nor max_steps is given"),
        ("warmup_steps: 1\nwarmup_ratio: 0.1", r"warmup_steps and warmup_ratio are both given"),
        ("label_smoothing: 1.0", r"label_smoothing is 1\.0; give a number in \[0, 1\)"),
        ("learning_rate: .nan", r"learning_rate is nan; give 0 or more"),
    ],
)
def test_mistakes_in_a_file_are_one_sentence(tmp_path, text, message):
    with pytest.raises(RecipeError, match=message) as caught:
        parse_recipe(SmallRecipe, ["--config", written(tmp_path, text)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lerning_rate", "1"], "--lerning_rate: no such flag; did you mean learning_rate"),
        (["--max_steps", "x"], "invalid int value: 'x'"),
        (["--max", "3"], "--max: no such flag"),  # no abbreviations: they change meaning when a key is added
        (["--config", "absent.yaml"], r"absent\.yaml: the recipe cannot be read"),
    ],
)
def test_mistakes_on_the_command_line_are_one_sentence(flags, message):
    with pytest.raises(RecipeError, match=message) as caught:
        parse_recipe(SmallRecipe, flags)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: 1e-4\nmax_steps: 5\nlearning_rate: 1e-6\n", "learning_rate stands in line 1 and in line 3"),
        ("'seed': 1\nseed: 1\n", "seed stands in line 1 and in line 2; keep one"),
        ("{seed: 1, max_steps: 2, seed: 3}", "seed stands in line 1 and in line 1"),
        ("a: {b: 1, b: 2}", "b stands in line 1 and in line 1"),
        ("seed: 010", r"seed is 010, which YAML reads as 8; write it as a decimal number"),
        ("max_steps: 1:30", r"max_steps is 1:30, which YAML reads as 90"),
        ("seed:\t1\n\tmax_steps: 1", "no valid YAML"),
        ("output_dir: 2024-13-45", r"no valid YAML \(month must be in"),
        ("seed: 1\n---\nseed: 2", "no valid YAML"),
        ("seed: " + "[" * 3000, "no valid YAML"),
        ("seed: &a [*a]", "nested too deeply"),
        ("? [1]\n: 2", "no valid YAML"),
        ("seed: !!python/object/apply:os.getcwd []", "no valid YAML"),
        ("learning_rate: .inf", "learning_rate is inf; give a finite number"),
        ("output_dir: ''", "output_dir is empty"),
    ],
)
def test_what_yaml_would_take_without_a_word_is_one_sentence(tmp_path, text, message):
    with pytest.raises(RecipeError, match=rf"(recipe\.yaml: .*)?{message}") as caught:
        parse_recipe(SmallRecipe, ["--config", written(tmp_path, text)])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 4000


def test_merged_keys_may_be_overridden_and_numbers_be_grouped(tmp_path):
    text = "<<: {seed: 3, max_steps: 7}\nseed: 4\nlearning_rate: 1.5\nglobal_batch_size: 1_024\nwarmup_steps: 0\n"
    recipe = parse_recipe(SmallRecipe, ["--config", written(tmp_path, "\ufeff" + text)])
    assert (recipe.seed, recipe.max_steps, recipe.global_batch_size) == (4, 7, 1024)


def test_a_recipe_that_is_not_utf_8_is_one_sentence(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes("output_dir: für\n".encode("latin-1"))
    with pytest.raises(RecipeError, match=r"recipe\.yaml: the recipe is not UTF-8 \(.* at byte 13\)"):
        parse_recipe(SmallRecipe, ["--config", str(path)])


@pytest.mark.parametrize(
    "flags",
    [
        ["--config", "a.yaml", "--config", "b.yaml"],
        ["--config=a.yaml", "--config", "a.yaml"],
        ["--seed", "1", "--seed", "2"],
        ["--max_steps", "3", "--max-steps=null"],
        ["--progress_bar", "--no_progress_bar"],
    ],
)
def test_a_flag_given_twice_is_refused(flags):
    with pytest.raises(RecipeError, match="is given 2 times; give it once"):
        parse_recipe(SmallRecipe, flags)


def test_values_of_a_program_are_checked_as_those_of_a_file(tmp_path):
    recipe = SmallRecipe(output_dir=tmp_path, learning_rate="5e-6", max_steps=np.int64(3), weight_decay=1)
    assert (recipe.output_dir, recipe.learning_rate, recipe.max_steps) == (str(tmp_path), 5e-6, 3)
    assert isinstance(recipe.max_steps, int) and isinstance(recipe.weight_decay, float)
    for changes, message in (
        ({"max_steps": 1.5}, r"max_steps is 1\.5; give a whole number or null"),
        ({"seed": None}, "seed is None; give a whole number"),
        ({"overwrite": "false"}, "overwrite is 'false'; give true or false"),
        ({"schedule": "cosinus"}, "schedule is 'cosinus'; give one of"),
    ):
        with pytest.raises(RecipeError, match=message):
            SmallRecipe(**changes)


@pytest.mark.parametrize(
    "kind", [LoopRecipe, MModalCCRecipe, Stage1Recipe, Stage2Recipe, Stage3Recipe, LandCoverRecipe]
)
def test_home_is_expanded_in_every_path(kind, tmp_path, monkeypatch):
    """The law: what the help calls a folder is a path, and `~` in it is the user's home, wherever it comes from."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    texts = [item for item in fields(kind) if item.type in (str, str | None, "str", "str | None")]
    named = {item.name for item in texts if "older" in item.metadata["help"] or "Where the" in item.metadata["help"]}
    assert named | {"resume"} == kind.path_keys
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "recipe.yaml").write_text(
        "max_steps: 3\n" + "".join(f"{key}: ~/x\n" for key in kind.path_keys)
    )
    recipe = parse_recipe(kind, ["--config", "~/recipe.yaml"])
    assert {getattr(recipe, name) for name in kind.path_keys} == {str(tmp_path / "home" / "x")}
    old = {**asdict(recipe), **dict.fromkeys(kind.path_keys, "~/x")}  # as versions before wrote it
    assert trajectory_difference(old, recipe) is None


@settings(max_examples=30, deadline=None)
@given(
    rate=st.floats(0, 1e3),
    steps=st.none() | st.integers(1, 10**9),
    folder=st.text(min_size=1).filter(lambda text: text.isprintable() and text.strip()),
    precision=st.sampled_from(["no", "bf16", "fp16"]),
    depths=st.lists(st.integers(1, 9), max_size=5),
)
def test_a_resolved_recipe_reads_back_equal(tmp_path_factory, rate, steps, folder, precision, depths):
    recipe = MModalCCRecipe(
        learning_rate=rate, max_steps=steps, output_dir=folder, mixed_precision=precision, depths=depths
    )
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(recipe_to_yaml(recipe), encoding="utf-8")
    assert read_recipe(MModalCCRecipe, path) == recipe
    assert parse_recipe(MModalCCRecipe, ["--config", str(path)]) == recipe


def test_overrides_in_a_program(tmp_path):
    assert read_recipe(SmallRecipe, written(tmp_path, "seed: 3"), max_steps=9).max_steps == 9
    with pytest.raises(RecipeError, match="sed: no key of SmallRecipe"):
        read_recipe(SmallRecipe, written(tmp_path, "seed: 3"), sed=9)


def test_what_may_change_on_resume():
    old = {**MModalCCRecipe().__dict__}
    assert trajectory_difference(old, MModalCCRecipe(keep_checkpoints=7, tracker="none", num_workers=3)) is None
    assert trajectory_difference(old, MModalCCRecipe(max_epochs=99)) is None  # the schedule is constant
    assert trajectory_difference(old, MModalCCRecipe(dropout=0.1)) == "dropout"
    cosine = {**MModalCCRecipe(schedule="cosine").__dict__}
    assert trajectory_difference(cosine, MModalCCRecipe(schedule="cosine", max_epochs=99)) == "max_epochs"


def test_accumulation_follows_from_the_batch_sizes():
    recipe = SmallRecipe(global_batch_size=28, per_device_batch_size=7)
    assert [recipe.accumulation_steps(processes) for processes in (1, 2, 4)] == [4, 2, 1]
    with pytest.raises(RecipeError, match="28 is no multiple of per_device_batch_size 7 x 3 process"):
        recipe.accumulation_steps(3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"semantic_dropout": 0.3}, "semantic_dropout leaves maps out; set semantics_optional"),
        ({"streaming": True}, "captions flatten would put a pair's captions side by side"),
        ({"streaming": True, "captions": "random_choice", "cache": "memory"}, "stream cannot be kept in memory"),
        ({"unchanged_share": 0.0}, r"unchanged_share is 0\.0; give a share above 0"),
        (
            {"streaming": True, "captions": "random_choice", "unchanged_share": 0.5},
            "A stream's pairs come as they are; set unchanged_share to 1",
        ),
        ({"stream_shuffle_buffer": 5}, "stream_shuffle_buffer is for streams"),
        ({"mirror_vertical": 1.5}, r"mirror_vertical is 1\.5; give a number between 0 and 1"),
        ({"modalities": "rgb", "backbone_weights_semantic": "x"}, "backbone_weights_semantic is given"),
        ({"gradient_clamp": 0.0}, r"gradient_clamp is 0\.0; give a positive number or null"),
        ({"encoder_learning_rate": -1.0}, r"encoder_learning_rate is -1\.0"),
    ],
)
def test_contradictions_of_the_model_recipe(changes, message):
    with pytest.raises(RecipeError, match=message):
        MModalCCRecipe(**changes)


@pytest.mark.parametrize("name", ["mmodalcc_second_cc", "mmodalcc_levir_mci"])
def test_shipped_recipes_build_the_full_model(name):
    recipe = read_recipe(MModalCCRecipe, RECIPES / f"{name}.yaml")
    with torch.device("meta"):
        model = MModalCCForConditionalGeneration(recipe.model_config(500, pad=0, start=1, end=2))
    assert sum(parameter.numel() for parameter in model.parameters()) == 92_331_636
    assert model.generation_config.max_length is None or model.generation_config.max_length >= 50
    assert recipe.accumulation_steps(1) == 1


def test_defaults_are_those_of_the_release():
    """arXiv 2501.10075 and its code; what the YAML states must not differ from it."""
    recipe = read_recipe(MModalCCRecipe, RECIPES / "mmodalcc_second_cc.yaml")
    expected = {
        "optimizer": "adam",
        "learning_rate": 5e-5,
        "encoder_learning_rate": None,
        "enhancement_learning_rate": None,
        "decoder_learning_rate": None,
        "schedule": "constant",
        "weight_decay": 0,
        "gradient_clamp": 5,
        "max_grad_norm": None,
        "label_smoothing": 0,
        "global_batch_size": 28,
        "max_epochs": 30,
        "frozen_stages": ["stem", "layer1"],
        "freeze_statistics": False,
        "dropout": 0.5,
        "lr_decay": 0.7,
        "lr_decay_patience": 3,
        "patience": 10,
        "metric_for_best": "bleu_4",
        "num_beams": 1,
        "seed": 1,
        "max_caption_length": 50,
        "captions_per_pair": 5,
        "vocabulary_min_frequency": 11,
        "normalize_images": False,
        "augmentation": None,
    }
    assert {name: getattr(recipe, name) for name in expected} == expected
