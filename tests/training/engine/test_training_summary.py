"""`training_summary.json`: whether data and starting weights were folders or ids on the Hub."""

import json

import pytest
from toys.ccexpert_stages import save_start, stage_recipe
from toys.pairs import toy_pairs_recipe, write_pairs

from rscc_hf.data.loading import load_pairs
from rscc_hf.hub.cards.facts import read_model_facts
from rscc_hf.synthetic.dataset import SceneOptions, synthesize
from rscc_hf.training.systems.ccexpert.task import train_ccexpert
from rscc_hf.training.systems.mmodalcc.task import train_mmodalcc
from rscc_hf.training.systems.pairs import task as pair_task


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs") / "exp1" / "levir", train=8, validation=2, shards=1)


def summary_of(folder):
    return json.loads((folder / "training_summary.json").read_text())


def test_a_folder_that_looks_like_an_id_is_recorded_as_a_folder(pairs, tmp_path, monkeypatch):
    monkeypatch.chdir(pairs.removesuffix("/exp1/levir"))
    train_mmodalcc(toy_pairs_recipe("exp1/levir", tmp_path / "out", max_steps=1))
    assert summary_of(tmp_path / "out") == {
        "trained_on": "toy", "data": "exp1/levir", "split": "train", "data_is_local": True,
    }  # fmt: skip
    training = read_model_facts(tmp_path / "out").training
    assert training.is_local == {"train_data": True} and training.hub_id("train_data") is None


def test_data_of_the_hub_are_recorded_with_their_revision(pairs, tmp_path, monkeypatch):
    """The Hub is a folder here; that it was asked for the revision is seen in what `load_pairs` gets."""
    asked = []

    def from_hub(where, split, *, revision=None, **options):
        asked.append((where, revision))
        return load_pairs(pairs, split, **options)

    monkeypatch.setattr(pair_task, "load_pairs", from_hub)
    monkeypatch.setattr("rscc_hf.training.systems.mmodalcc.task.load_pairs", from_hub)
    train_mmodalcc(toy_pairs_recipe("org/pairs", tmp_path, data_revision="v1.0", max_steps=1))
    assert set(asked) == {("org/pairs", "v1.0")}
    summary = summary_of(tmp_path)
    assert summary["data_is_local"] is False and summary["data_revision"] == "v1.0"
    training = read_model_facts(tmp_path).training
    assert training.hub_id("train_data") == "org/pairs" and training.revision == "v1.0"


def test_synthetic_pairs_are_told_from_others_that_are_called_so(tmp_path):
    synthesize(tmp_path / "scenes", 6, seed=0, workers=1, options=SceneOptions(size=64))
    train_mmodalcc(toy_pairs_recipe(str(tmp_path / "scenes"), tmp_path / "own", max_steps=1))
    assert summary_of(tmp_path / "own")["synthesized"] is True
    others = write_pairs(tmp_path / "others", 8, 2, 1, change=lambda row: {**row, "source": "synthetic"})
    train_mmodalcc(toy_pairs_recipe(others, tmp_path / "foreign", max_steps=1))
    assert summary_of(tmp_path / "foreign")["synthesized"] is False
    assert read_model_facts(tmp_path / "foreign").seen_unknown == ["synthetic"]


def test_a_stage_records_that_its_start_is_a_folder(pairs, tmp_path):
    start = save_start(tmp_path / "start")
    train_ccexpert(stage_recipe(pairs, start, tmp_path / "out", max_steps=1, cpu=True))
    summary = summary_of(tmp_path / "out")
    assert summary["data_is_local"] is summary["init_from_is_local"] is True
    assert read_model_facts(tmp_path / "out").training.hub_id("init_from") is None
