"""`base:` of recipes, and what it makes of those that ship."""

import hashlib
import itertools
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from rscc_hf.errors import RecipeError
from rscc_hf.training.aids.land_cover import LandCoverRecipe
from rscc_hf.training.engine.recipe import LoopRecipe, parse_recipe, read_recipe, recipe_to_yaml
from rscc_hf.training.engine.recipe_files import packaged_recipe
from rscc_hf.training.systems.ccexpert.recipe import Stage1Recipe, Stage2Recipe, Stage3Recipe
from rscc_hf.training.systems.mmodalcc.recipe import MModalCCRecipe

RECIPES = Path(__file__).resolve().parents[3] / "training" / "recipes"
ONLY_BASES = {"base_synthetic", "base_ccexpert_synthetic"}
# The model that a recipe starts from, and what of it learns: those of two stages, or sizes, may have it in common.
WHAT_A_RECIPE_IS = {"base", "init_from", "size", "trained_parts", "integration"}
# Of what each recipe said when every file was whole: all values that are no default.
DIGESTS = {
    "ccexpert_05b_baseline_module_off": "ba36a4d59c1eef9f",
    "ccexpert_05b_baseline_one_stage": "dae643e689466353",
    "ccexpert_05b_stage1": "03c1b23a8cef7519",
    "ccexpert_05b_stage2": "e0e785503f39574b",
    "ccexpert_05b_stage3": "2adab125d98ceeca",
    "ccexpert_7b_baseline_module_off": "768b7a66a50839e6",
    "ccexpert_7b_baseline_one_stage": "9cec23b379813951",
    "ccexpert_7b_stage1": "7e802d559bc3b463",
    "ccexpert_7b_stage2": "cdee916eae6a2c2f",
    "ccexpert_7b_stage3": "03aa45a8f6ee8e78",
    "ccexpert_synthetic_stage0": "c911cd666c368914",
    "ccexpert_synthetic_stage1": "2e30c1f8876c07c7",
    "ccexpert_synthetic_stage2": "f1c72e169ac037cd",
    "ccexpert_synthetic_stage3": "6607673846758cd2",
    "ccexpert_synthetic_tower": "59835ead0b50a34e",
    "mmodalcc_levir_mci": "6f4911177b16f48e",
    "mmodalcc_second_cc": "43c093917904332e",
    "mmodalcc_synthetic": "8e5888d85842b124",
}


def kind_of(name: str) -> type[LoopRecipe]:
    ends = {
        "mmodalcc": MModalCCRecipe, "tower": LandCoverRecipe, "stage0": Stage2Recipe, "stage1": Stage1Recipe,
        "stage2": Stage2Recipe, "stage3": Stage3Recipe, "off": Stage2Recipe, "one_stage": Stage3Recipe,
    }  # fmt: skip
    return next(kind for end, kind in ends.items() if name.startswith(end) or name.endswith(end))


def digest(name: str) -> str:
    recipe, defaults = read_recipe(kind_of(name), packaged_recipe(name)), kind_of(name)(max_steps=1)
    defaults.max_steps = None
    there = asdict(defaults)
    said = {key: value for key, value in asdict(recipe).items() if value != there[key]}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def files() -> dict[str, dict]:
    return {path.stem: yaml.safe_load(path.read_text()) for path in RECIPES.glob("*.yaml")}


def whole(name: str) -> dict:
    """What a file and its bases say; our own bases are all named."""
    content = files()[name]
    return content if "base" not in content else {**whole(content["base"]), **content}


def bases(name: str) -> list[str]:
    base = files()[name].get("base")
    return [] if base is None else [base, *bases(base)]


@pytest.mark.parametrize("name", DIGESTS)
def test_shipped_recipes_are_what_they_were(name: str) -> None:
    assert digest(name) == DIGESTS[name]
    assert read_recipe(kind_of(name), RECIPES / f"{name}.yaml") == read_recipe(kind_of(name), packaged_recipe(name))


def test_every_shipped_recipe_is_known() -> None:
    assert set(files()) == set(DIGESTS) | ONLY_BASES


def test_no_shipped_recipe_repeats_its_base() -> None:
    for name, content in files().items():
        if "base" in content:
            before = whole(content["base"])
            assert not [key for key, value in content.items() if before.get(key, ...) == value], name


def test_no_block_of_settings_stands_in_two_files() -> None:
    """Of one system: that two papers agree in a number is chance, and so is it with one key of two files."""
    for (one, mine), (other, theirs) in itertools.combinations(files().items(), 2):
        if one.split("_")[0] == other.split("_")[0] or "synthetic" in f"{one}{other}":
            same = {key for key in mine if key in theirs and mine[key] == theirs[key]}
            assert len(same - WHAT_A_RECIPE_IS) <= 1, (one, other, same)


def write(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_file_overrides_its_base_and_flags_override_all(tmp_path: Path) -> None:
    write(tmp_path, top="base: sub/middle.yaml\nseed: 3\n")
    write(tmp_path / "sub", middle="base: ../bottom.yaml\nseed: 2\nmax_steps: 7\npatience: 4\n")
    write(tmp_path, bottom="base: mmodalcc_second_cc\nseed: 9\npatience: null\nlearning_rate: 1e-3\n")
    recipe = read_recipe(MModalCCRecipe, tmp_path / "top.yaml")
    assert (recipe.seed, recipe.max_steps, recipe.patience, recipe.learning_rate) == (3, 7, 4, 1e-3)
    assert recipe.backbone_weights_rgb == "microsoft/resnet-101"
    given = ["--config", str(tmp_path / "top.yaml"), "--seed", "5", "--max_steps", "null"]
    flagged = parse_recipe(MModalCCRecipe, given)
    assert (flagged.seed, flagged.max_steps) == (5, None)
    text = recipe_to_yaml(recipe)
    assert "base" not in yaml.safe_load(text)  # what a run keeps is whole
    write(tmp_path, kept=text)
    assert read_recipe(MModalCCRecipe, tmp_path / "kept.yaml") == recipe


def test_a_recipe_of_this_package_is_named_or_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    named = parse_recipe(MModalCCRecipe, ["--config", "mmodalcc_second_cc"])
    assert named == read_recipe(MModalCCRecipe, packaged_recipe("mmodalcc_second_cc"))
    write(tmp_path, mine="base: mmodalcc_second_cc\nseed: 8")
    (tmp_path / "mine.yaml").rename("mine")  # a file of the user's needs no extension
    assert parse_recipe(MModalCCRecipe, ["--config", "mine"]).seed == 8
    write(tmp_path, ours="base: ./mine\n")
    assert read_recipe(MModalCCRecipe, "ours.yaml").seed == 8
    with pytest.raises(RecipeError, match=r"'mmodalcc_second' is no recipe of this package; did you mean mmodalcc"):
        parse_recipe(MModalCCRecipe, ["--config", "mmodalcc_second"])
    with pytest.raises(RecipeError, match=r"there/recipe: the recipe cannot be read"):
        parse_recipe(MModalCCRecipe, ["--config", "there/recipe"])


@pytest.mark.parametrize("name", ONLY_BASES)
def test_a_base_of_others_is_no_recipe(tmp_path: Path, name: str) -> None:
    for given in (name, str(RECIPES / f"{name}.yaml")):
        with pytest.raises(RecipeError, match=rf"{name}\.yaml is the base of others and no recipe by itself; name"):
            parse_recipe(Stage2Recipe, ["--config", given])
    write(tmp_path, **{name: "max_steps: 3"})  # the user's own
    assert read_recipe(Stage2Recipe, tmp_path / f"{name}.yaml").max_steps == 3


def test_a_base_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write(tmp_path / "home", mine="max_steps: 4\n")
    write(tmp_path, top="base: ~/mine.yaml\n")
    assert read_recipe(LoopRecipe, tmp_path / "top.yaml").max_steps == 4


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"top": "base: top.yaml"}, r"top\.yaml: its base is, in the end, itself \(top\.yaml -> top\.yaml\)"),
        ({"top": "base: a.yaml", "a": "base: b.yaml", "b": "base: ./a.yaml"}, r"\(a\.yaml -> b\.yaml -> a\.yaml\)"),
        ({"top": "base: absent.yaml"}, r"top\.yaml: base is 'absent\.yaml', and .*absent\.yaml is no file"),
        (
            {"top": "base: mmodalcc_second"},
            r"top\.yaml: base: 'mmodalcc_second' is no recipe of this package; did you mean mmodalcc_second_cc.*"
            r"; a file is named by its path",
        ),
        ({"top": "base: qqq"}, r"no recipe of this package \(there are ccexpert_05b_baseline.*, mmodalcc_synthetic\)"),
        ({"top": "base: null"}, r"top\.yaml: base is None; give the name of a recipe, or the path of a file"),
        ({"top": "base: [a, b]"}, r"top\.yaml: base is \['a', 'b'\]; give the name"),
        ({"top": "base: a.yaml", "a": "learning_rte: 1"}, r"a\.yaml: 'learning_rte' is no key of LoopRecipe; did you"),
        ({"top": "base: a.yaml\nsed: 1", "a": "seed: 1"}, r"top\.yaml: 'sed' is no key of LoopRecipe; did you mean"),
        ({"top": "base: a.yaml\nseed: 1", "a": "seed: many"}, r"a\.yaml: seed is 'many'; give a whole number"),
        ({"top": "base: mmodalcc_second_cc"}, r"mmodalcc_second_cc\.yaml: .* is no key of LoopRecipe"),
        ({"top": 'base: "a\\0b.yaml"'}, r"is no file; name one"),
    ],
)
def test_mistakes_with_a_base_are_one_sentence(tmp_path: Path, texts: dict[str, str], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        read_recipe(LoopRecipe, write(tmp_path, **texts) / "top.yaml")
    assert "\n" not in str(caught.value)
