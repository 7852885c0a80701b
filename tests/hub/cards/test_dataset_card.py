"""A data set's card: its licence and limits follow from what was synthesized, not from what it is called."""

import json

import pytest
from datasets import Dataset, Features, Value
from huggingface_hub import DatasetCard

from rscc_hf.data.schema import FEATURES
from rscc_hf.hub.cards.dataset import render_dataset_card
from rscc_hf.hub.cards.dataset_facts import read_dataset_facts
from rscc_hf.synthetic.dataset import SceneOptions, synthesize

RECORD = json.dumps({"events": []})


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    out = tmp_path_factory.mktemp("scenes") / "out"
    synthesize(out, 4, seed=3, workers=1, options=SceneOptions(size=64))
    return out


def card_of(folder, earlier_card=None):
    files = {"train": {path.name: path for path in sorted((folder / "data").glob("train-*.parquet"))}}
    return DatasetCard(render_dataset_card(read_dataset_facts(files, earlier_card), "org/pairs"))


def write(folder, sources, *, record=RECORD, pair_id="synthetic_0_{:06d}"):
    (folder / "data").mkdir()
    images = dict.fromkeys(("image_before", "image_after", "semantic_before", "semantic_after", "change_mask"))
    rows = [
        {**images, "pair_id": pair_id.format(number), "captions": ["no change"], "changed": False, "source": source}
        for number, source in enumerate(sources)
    ]
    features = FEATURES
    if record is not None:
        rows = [{**row, "record": record} for row in rows]
        features = Features({**FEATURES, "record": Value("string")})
    pairs = Dataset.from_list(rows, features=features)
    pairs.to_parquet(str(folder / "data" / "train-00000-of-00001.parquet"))
    return folder


def test_what_was_synthesized_has_its_licence_and_limits(scenes):
    card = card_of(scenes, (scenes / "README.md").read_text())
    data = card.data.to_dict()
    assert data["license"] == "apache-2.0" and data["language"] == "en" and "synthetic" in data["tags"]
    assert "Nothing in it is a photograph" in card.text and "seed 3" in card.text


@pytest.mark.parametrize(
    "changes",
    [
        {"record": None},
        {"record": "no JSON"},
        {"record": "[]"},
        {"record": '{"note": "by hand"}'},
        {"pair_id": "mine-{}"},
        {"sources": ["synthetic_changes_cc_by_nc"] * 2},
        {"sources": ["acme/synthetic"] * 2},
    ],
)
def test_data_that_are_only_called_synthetic_get_no_licence(tmp_path, scenes, changes):
    folder = write(tmp_path, **{"sources": ["synthetic"] * 2, **changes})
    card = card_of(folder, (scenes / "README.md").read_text().partition("---\n")[2].partition("---\n")[2])
    data = card.data.to_dict()
    assert not {"license", "language"} & data.keys() and "synthetic" not in data["tags"]
    assert "not known to rscc_hf" in card.text and "No licence is stated" in card.text
    assert "photograph" not in card.text and "Drawn by" not in card.text


def test_a_mixture_gets_no_licence_and_is_told_source_by_source(tmp_path):
    card = card_of(write(tmp_path, ["synthetic", "synthetic", "mine"]))
    data = card.data.to_dict()
    assert not {"license", "language"} & data.keys() and "synthetic" in data["tags"]
    assert "| synthetic | 2 | drawn scenes" in card.text and "| mine | 1 | not known to rscc_hf |" in card.text
    assert "Nothing in it is a photograph" not in card.text


@pytest.mark.parametrize("source", ["org/my-second-dataset", "outputs/second-try", "levir-cc-plus"])
def test_a_word_in_a_name_brings_no_terms(tmp_path, source):
    card = card_of(write(tmp_path, [source], record=None))
    assert "not known to rscc_hf" in card.text and "SECOND is part of" not in card.text
    assert "academic use" not in card.text


def test_a_readme_that_no_longer_tells_the_seed_is_said(scenes, caplog):
    card = card_of(scenes, (scenes / "README.md").read_text().replace("Seed: 3.", "Seeded."))
    assert "Nothing in it is a photograph" in card.text and "seed" not in card.text
    assert [record.getMessage() for record in caplog.records] == [
        "The README.md does not tell seed and options as it was written; the new card has neither."
    ]
