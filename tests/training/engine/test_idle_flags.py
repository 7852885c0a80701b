"""Flags without effect on the run that they are typed for."""

import json
from dataclasses import fields

import pytest

from rscc_hf.errors import RecipeError
from rscc_hf.training.engine.flags import BELONGINGS, names_of_flags
from rscc_hf.training.engine.recipe import parse_recipe, read_recipe
from rscc_hf.training.systems.ccexpert.recipe import CCExpertRecipe, Stage1Recipe
from rscc_hf.training.systems.mmodalcc.recipe import MModalCCRecipe

M, C = MModalCCRecipe, CCExpertRecipe
# Of a class: flags that make a mode, and flags that are nothing in it, with a value that may well be the default.
CASES = [
    (M, "--optimizer adamw", "--muon_learning_rate_ratio 1.0"),
    (M, "--optimizer adamw", "--muon_dtype auto"),
    *((M, "--eval_unit never", flag) for flag in (
        "--patience 10", "--metric_for_best bleu_4", "--eval_every 1", "--validation_batch_size 32",
        "--max_validation_pairs 5", "--num_beams 1", "--lr_decay 0.7", "--validation_data there",
        "--validation_split validation",
    )),
    (C, "--eval_unit never", "--max_new_tokens 256"),
    (M, "--lr_decay 1", "--lr_decay_patience 3"),
    (M, "--save_unit never", "--save_every 1"),
    (M, "--save_unit never", "--keep_checkpoints 2"),
    (M, "--train_data .", "--data_revision main"),
    (C, "--init_from .", "--init_revision main"),
    (M, "", "--jitter_independent 0.5"),
    (M, "--colour_jitter=0", "--jitter-independent=0.5"),
    (M, "--captions random_choice", "--captions_per_pair 5"),
    *((M, "--modalities rgb", flag) for flag in (
        "--semantic_resample bilinear", "--semantic_num_channels 3", "--semantic_coverage full",
    )),
    (M, "--tokenizer there", "--vocabulary_splits train"),
    (M, "--tokenizer there", "--vocabulary_min_frequency 11"),
    (M, "--frozen_stages none", "--freeze_statistics False"),
    *((C, "--integration false", flag) for flag in (
        "--num_integration_layers 2", "--integration_gate true",
        "--integration_attention_heads 2", "--integration_ffn_dim 8",
    )),
    *((Stage1Recipe, "", f"--{part}_learning_rate_ratio 1.0") for part in ("vision", "projector", "language")),
    (C, "--trained_parts projector", "--integration_learning_rate_ratio 1.0"),
]  # fmt: skip
ids = [f"{kind.__name__} {mode} {flag}" for kind, mode, flag in CASES]


@pytest.mark.parametrize(("kind", "mode", "flag"), CASES, ids=ids)
def test_a_typed_flag_without_effect_is_an_error(kind, mode, flag) -> None:
    parse_recipe(kind, ["--max_epochs", "1", *mode.split()])
    name = flag[2:].replace("=", " ").split()[0].replace("-", "_")
    with pytest.raises(RecipeError, match=rf"{name}"):
        parse_recipe(kind, ["--max_epochs", "1", *mode.split(), *flag.split()])


def test_a_revision_counts_where_one_of_the_data_sets_is_on_the_hub(tmp_path) -> None:
    here, there, file = str(tmp_path), "someone/pairs", str(tmp_path / "pairs.parquet")
    (tmp_path / "pairs.parquet").write_bytes(b"")
    for train, validation, more, fine in (
        (there, None, [], True),
        (here, there, [], True),
        (there, here, [], True),
        (here, here, [], False),
        (file, None, [], False),
        (here, there, ["--eval_unit", "never"], False),
    ):
        config = tmp_path / "recipe.yaml"
        config.write_text(json.dumps({"max_epochs": 1, "train_data": train, "validation_data": validation}))
        given = ["--config", str(config), "--data_revision", "main", *more]
        if fine:
            assert parse_recipe(M, given).data_revision == "main"
        else:
            with pytest.raises(RecipeError, match="all data that is read is on this machine"):
                parse_recipe(M, given)


def test_every_key_of_the_table_is_tried_and_is_a_key() -> None:
    keys = {key for belonging in BELONGINGS for key in belonging.keys.split()}
    assert keys == {flag[2:].replace("=", " ").split()[0].replace("-", "_") for _, _, flag in CASES}
    assert keys <= {item.name for kind in (M, C) for item in fields(kind)}


def test_a_recipe_may_keep_keys_of_other_settings(tmp_path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("max_epochs: 1\noptimizer: adamw\nmuon_learning_rate_ratio: 2.0\nsave_every: 3\n")
    assert read_recipe(M, path, save_unit="never").save_every == 3
    assert parse_recipe(M, ["--config", str(path), "--save_unit", "never"]).muon_learning_rate_ratio == 2.0


def test_what_a_recipe_says_can_be_taken_back(tmp_path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("max_epochs: 1\nbackbone_weights_semantic: there\nchanged_coverage_epochs: 2\n")
    off = ["--backbone_weights_semantic", "null", "--changed_coverage_epochs", "0"]
    assert parse_recipe(M, ["--config", str(path), "--modalities", "rgb", *off]).modalities == "rgb"
    path.write_text("captions_per_pair: 3\nlora_rank: 4\nlora_alpha: 8.0\n")
    off = ["--captions_per_pair", "null", "--lora_rank", "null", "--lora_alpha", "null"]
    assert parse_recipe(C, ["--config", str(path), "--captions", "random_choice", *off]).lora_rank is None


def test_flags_are_known_in_every_form() -> None:
    given = ["--config", "a", "--cpu", "--no_progress_bar", "--learning-rate=1", "value", "--num_beams", "2"]
    names = ["cpu", "progress_bar", "learning_rate", "num_beams", "no_such"]
    assert names_of_flags(given, names) == ["cpu", "progress_bar", "learning_rate", "num_beams"]
