"""`rscc data` and `rscc evaluate`, in process."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner, Result

from rscc_hf.commands.app import app
from rscc_hf.data.loading import load_pairs
from rscc_hf.files import new_folder
from rscc_hf.synthetic.style import Nuisances


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], terminal_width=80)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes") / "out"
    result = run("data", "synthesize", out, "--pairs", 10, "--seed", 5, "--size", 64, "--workers", 1)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{out}: 8 train, 1 validation, 1 test pairs.\n"
    return out


def test_scenes_are_a_data_set(scenes) -> None:
    pairs = load_pairs(scenes, "train")
    assert len(pairs) == 8 and pairs[0]["image_before"].size == (64, 64)


def test_scenes_are_replaced_only_when_asked(scenes) -> None:
    before = load_pairs(scenes, "test")[0]["image_before"]
    result = run("data", "synthesize", scenes, "--pairs", 10)
    assert result.exit_code == 1 and result.stderr.startswith("Error: ") and "exists" in result.stderr
    assert load_pairs(scenes, "test")[0]["image_before"] == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {}),
        (("--blur", "0.9"), {"blur": 0.9}),
        (("--no-nuisances",), dict.fromkeys(vars(Nuisances()), 0.0)),
        (("--no-nuisances", "--season", "0.5"), {**dict.fromkeys(vars(Nuisances()), 0.0), "season": 0.5}),
    ],
)
def test_strengths_of_nuisances_reach_the_generator(tmp_path, monkeypatch, options, expected) -> None:
    seen = {}

    def synthesize(out, pairs, seed, *, options, **_):
        seen.update(vars(options.nuisances))
        return {"train": pairs}

    monkeypatch.setattr("rscc_hf.synthetic.dataset.synthesize", synthesize)
    assert run("data", "synthesize", tmp_path / "out", *options).exit_code == 0
    assert seen == {**vars(Nuisances()), **expected}


def test_every_nuisance_has_an_option() -> None:
    shown = run("data", "synthesize", "--help").stdout
    for name in vars(Nuisances()):
        assert f"--{name.replace('_', '-')}" in shown


def test_sizes_that_cannot_be_are_refused(tmp_path) -> None:
    result = run("data", "synthesize", tmp_path / "out", "--pairs", 10, "--size", 100)
    assert result.exit_code == 1 and "multiple of 32" in result.stderr
    assert run("data", "synthesize", tmp_path / "out", "--pairs", 1).exit_code == 2
    assert run("data", "synthesize", tmp_path / "out", "--blur", 1.5).exit_code == 2
    assert not (tmp_path / "out").exists()


def test_a_vocabulary_is_loaded_by_autotokenizer(scenes, tmp_path) -> None:
    result = run("data", "vocabulary", scenes, tmp_path / "words")
    assert result.exit_code == 0, result.output
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "words")
    caption = load_pairs(scenes, "train")[0]["captions"][0]
    assert tokenizer.decode(tokenizer(caption)["input_ids"], skip_special_tokens=True) == caption.lower()
    assert result.stdout == f"{tmp_path / 'words'}: {len(tokenizer) - 4} words and 4 special tokens.\n"
    everything = run("data", "vocabulary", scenes, tmp_path / "all", "--splits", "all")
    assert len(AutoTokenizer.from_pretrained(tmp_path / "all")) >= len(tokenizer), everything.output
    run("data", "vocabulary", scenes, tmp_path / "frequent", "--min-frequency", 4)
    assert 4 < len(AutoTokenizer.from_pretrained(tmp_path / "frequent")) < len(tokenizer)
    run("data", "vocabulary", scenes, tmp_path / "pieces", "--unigram", "--vocab-size", 60)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "pieces")) <= 60


def test_what_does_not_fit_a_vocabulary_is_told(scenes, tmp_path) -> None:
    out = tmp_path / "words"
    assert run("data", "vocabulary", scenes, out, "--vocab-size", 50).exit_code == 2
    assert run("data", "vocabulary", scenes, out, "--unigram", "--min-frequency", 2).exit_code == 2
    result = run("data", "vocabulary", tmp_path / "nowhere", out)
    assert result.exit_code == 1 and result.stderr.count("\n") == 1 and "nowhere" in result.stderr
    result = run("data", "vocabulary", scenes, out, "--min-frequency", 100_000)
    assert result.exit_code == 1 and "min_frequency" in result.stderr
    assert list(tmp_path.iterdir()) == [], "nothing half-made stays"
    out.mkdir()  # an empty folder holds nothing to lose
    assert run("data", "vocabulary", scenes, out).exit_code == 0
    assert "exists" in run("data", "vocabulary", scenes, out).stderr
    assert run("data", "vocabulary", scenes, out, "--overwrite").exit_code == 0
    assert (out / "tokenizer.json").is_file() and [path.name for path in tmp_path.iterdir()] == ["words"]


def test_a_new_folder_is_there_whole_or_not_at_all(tmp_path) -> None:
    target = tmp_path / "deep" / "target"
    with pytest.raises(KeyError), new_folder(target) as folder:
        (folder / "a").write_text("half")
        raise KeyError
    assert not target.exists() and list(target.parent.iterdir()) == []
    with new_folder(target) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(FileExistsError), new_folder(target):
        pass
    with pytest.raises(KeyError), new_folder(target, overwrite=True) as folder:
        raise KeyError
    assert (target / "a").read_text() == "old"
    with new_folder(target, overwrite=True) as folder:
        (folder / "b").write_text("new")
    assert [path.name for path in target.iterdir()] == ["b"]


def test_evaluate_shows_a_table_and_writes_json(tmp_path) -> None:
    rows = [
        {"pair_id": 1, "prediction": "a house appears", "references": ["a house appears", "a new house"]},
        {"pair_id": 2, "prediction": "there is no difference", "references": ["no change has occurred"]},
        {"pair_id": 3, "prediction": "trees are gone", "references": ["the trees disappear", "trees are removed"]},
    ]
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run("evaluate", path, "--json", tmp_path / "new" / "report.json", "--bootstrap", 5, "--seed", 3)
    if result.exit_code and "Java" in result.stderr:
        pytest.skip("no Java for METEOR on this machine")
    assert result.exit_code == 0, result.output
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    assert "3 pairs: 2 changed, 1 unchanged" in result.stdout
    report = json.loads((tmp_path / "new" / "report.json").read_text())
    assert report["n"] == 3 and report["protocol"] == "words" and report["bootstrap"]["samples"] == 5
    assert f"{report['all']['bleu_1']:.2f}" in result.stdout
    result = run("evaluate", path, "--protocol", "rsicc_ids", "--no-change-sentence", "the trees disappear",
                 "--no-change-sentence", "trees are removed")  # fmt: skip
    assert "protocol rsicc_ids" in result.stdout and "1 changed, 2 unchanged" in result.stdout


def test_predictions_that_cannot_be_scored_are_one_line(tmp_path) -> None:
    result = run("evaluate", tmp_path / "nowhere.jsonl")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1 and "nowhere.jsonl" in result.stderr
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"pair_id": 1, "prediction": "a house"}\n')
    result = run("evaluate", path)
    assert result.exit_code == 1 and result.stderr.startswith("Error: ") and "line 1" in result.stderr
    assert run("evaluate", path, "--protocol", "guess").exit_code == 2
    assert run("evaluate").exit_code == 2
