"""One policy of overwriting for every command that writes a folder, and for those that write a file."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import watched
from typer.testing import CliRunner, Result

from rscc_hf.cards.results import add_evaluation
from rscc_hf.cli import app
from rscc_hf.conversion.output import CHECKPOINT
from rscc_hf.data.synthetic import DATASET
from rscc_hf.data.vocabulary import SPECIALS, VOCABULARY
from rscc_hf.demo.common import DEMO
from rscc_hf.files import Written, check_replaceable, new_folder, write_text

# Every command that makes a folder: how it is called, what it may replace, and the mark of that. What it reads need
# not be there: the folder is looked at first.
COMMANDS: dict[str, tuple[Callable[[Path], list[object]], Written, dict[str, str]]] = {
    "synthesize": (
        lambda out: ["data", "synthesize", out, "--pairs", 3, "--size", 64, "--workers", 1],
        DATASET,
        {"README.md": "Pairs, made by `rscc data synthesize`.", "data/train-00000-of-00001.parquet": "old"},
    ),
    "vocabulary": (
        lambda out: ["data", "vocabulary", "nowhere", out],
        VOCABULARY,
        {"tokenizer.json": json.dumps({"added_tokens": [{"content": token} for token in SPECIALS]})},
    ),
    "mmodalcc": (
        lambda out: ["convert", "mmodalcc", "nowhere.pth", out, "--word-map", "nowhere.json"],
        CHECKPOINT,
        {"config.json": '{"model_type": "mmodalcc"}', "model.safetensors": "old"},
    ),
    "ccexpert": (
        lambda out: ["convert", "ccexpert", "nowhere", out],
        CHECKPOINT,
        {"config.json": '{"model_type": "ccexpert"}', "modeling_ccexpert.py": "old"},
    ),
    "llava": (
        lambda out: ["convert", "llava-onevision", "nowhere", out],
        CHECKPOINT,
        {"config.json": '{"model_type": "ccexpert"}', "conversion.json": "{}"},
    ),
    "demo": (lambda out: ["demo", "--output", out], DEMO, {"report.html": "old", "model/config.json": "{}"}),
}
each_command = pytest.mark.parametrize("command", COMMANDS)


def make(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        write_text(folder / name, text)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], terminal_width=80)


def refused(command: str, out: Path, *options: str) -> str:
    """The sentence of a refusal that leaves everything as it was."""
    before = contents(out)
    result = run(*COMMANDS[command][0](out), *options)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    assert contents(out) == before
    return result.stderr


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_every_command_with_overwrite_or_an_out_is_in_the_table() -> None:
    import typer

    root = typer.main.get_command(app)
    found = set()
    for name, command in root.commands.items():
        for leaf in getattr(command, "commands", {name: command}).values():
            if any(parameter.name == "out" for parameter in leaf.params) or leaf.name == "demo":
                found.add(leaf.name)
    assert found == {"synthesize", "vocabulary", "mmodalcc", "ccexpert", "llava-onevision", "demo"}


@each_command
def test_what_others_wrote_is_never_replaced(command: str, tmp_path: Path) -> None:
    mark = COMMANDS[command][2]
    out = make(tmp_path / "others", {"thesis.txt": "years", "data/scan.tif": "x", "model.bin": "x", "d.txt": "x"})
    assert "--overwrite" in refused(command, out)
    message = refused(command, out, "--overwrite")
    assert "so it is not replaced" in message and ("thesis.txt" in message or "d.txt" in message)
    out = make(tmp_path / "beside", {**mark, "data/deep/thesis.txt": "years"})
    assert "beside holds data/deep/thesis.txt" in refused(command, out, "--overwrite")
    out = make(tmp_path / "emptied", mark)
    (out / "data").mkdir(exist_ok=True)
    (out / "data" / "raw").mkdir()
    assert "data/raw" in refused(command, out, "--overwrite"), "a folder that somebody made is not nothing"
    assert "exists; choose another folder or --overwrite it" in refused(command, make(tmp_path / "ours", mark))


@each_command
def test_what_another_command_wrote_is_not_replaced(command: str, tmp_path: Path) -> None:
    kind = COMMANDS[command][1]
    for other, (_, other_kind, mark) in COMMANDS.items():
        if other_kind is not kind:
            refused(command, make(tmp_path / other, mark), "--overwrite")


@each_command
def test_places_that_are_never_replaced(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = COMMANDS[command][2]
    here = make(tmp_path / "here", mark)
    (here / "inner").mkdir()
    monkeypatch.chdir(here / "inner")
    for out in (here, Path(".."), Path()):
        assert "the folder you work in" in refused(command, out, "--overwrite")
    monkeypatch.chdir(tmp_path)
    home = make(tmp_path / "home" / "me", mark)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    for out in (home, home.parent):
        assert "your home folder" in refused(command, out, "--overwrite")
    ours = make(tmp_path / "ours", mark)
    (tmp_path / "link").symlink_to(ours)
    (tmp_path / "broken").symlink_to(tmp_path / "gone")
    for out in (tmp_path / "link", tmp_path / "broken"):
        assert "is a link" in refused(command, out, "--overwrite")
        assert out.is_symlink()
    assert "is a file" in refused(command, make(tmp_path, {"file": "x"}) / "file", "--overwrite")
    monkeypatch.setattr(Path, "is_mount", lambda self: self.name == "ours")
    assert "mount point" in refused(command, ours, "--overwrite")


@each_command
def test_what_the_command_wrote_may_be_replaced(command: str, tmp_path: Path) -> None:
    _, kind, mark = COMMANDS[command]
    out = make(tmp_path / "out", {**mark, ".DS_Store": "a look at the folder is no use of it"})
    check_replaceable(out, kind, overwrite=True)
    assert kind.foreign(out) == []


def test_checkpoints_of_other_models_are_not_replaced(tmp_path: Path) -> None:
    out = make(tmp_path / "llama", {"config.json": '{"model_type": "llama"}', "model.safetensors": "weeks"})
    assert "another kind (model_type 'llama')" in refused("mmodalcc", out, "--overwrite")
    out = make(tmp_path / "run", {**COMMANDS["mmodalcc"][2], "training_log.jsonl": "", "checkpoints/step-1/x": ""})
    assert "checkpoints/step-1/x, training_log.jsonl" in refused("mmodalcc", out, "--overwrite")


def test_a_data_set_is_replaced_whole(tmp_path: Path) -> None:
    out = make(tmp_path / "out", COMMANDS["synthesize"][2])
    result = run(*COMMANDS["synthesize"][0](out), "--overwrite")
    assert result.exit_code == 0, result.output
    assert (out / "data" / "train-00000-of-00001.parquet").read_bytes() != b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "work"]


def test_two_runs_do_not_write_one_folder(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out"):
        assert "another run" in run(*COMMANDS["synthesize"][0](tmp_path / "out")).stderr


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_in_its_place_the_old_one_comes_back(tmp_path: Path, error: type[BaseException]) -> None:
    out = make(tmp_path / "out", {"old.txt": "old"})
    with pytest.raises(error), new_folder(out, overwrite=True, in_place=True) as folder:
        assert folder == out and list(out.iterdir()) == []
        (out / "new.txt").write_text("half")
        raise error
    assert contents(out) == {"old.txt": b"old"}
    with new_folder(out, overwrite=True, in_place=True):
        (out / "new.txt").write_text("new")
    assert contents(tmp_path) == {"out/new.txt": b"new"}
    with pytest.raises(error), new_folder(tmp_path / "first", in_place=True) as folder:
        raise error
    assert not (tmp_path / "first").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_in_its_place_the_old_one_waits_after_a_kill(tmp_path: Path) -> None:
    out = make(tmp_path / "out", {"old.txt": "old"})
    code = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[2]); import files\n"
        "with files.new_folder(Path(sys.argv[1]), overwrite=True, in_place=True) as folder:\n"
        "    (folder / 'new.txt').write_text('half'); print('writing', flush=True); time.sleep(60)\n"
    )
    package = Path(__file__).parents[2] / "rscc_hf"
    with watched.started([sys.executable, "-c", code, out, package], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    assert b"old" in contents(tmp_path).values()
    with pytest.raises(ZeroDivisionError), new_folder(out, overwrite=True, in_place=True):
        raise ZeroDivisionError
    assert contents(out) == {"old.txt": b"old"}


PAIR = {"pair_id": 1, "prediction": "a house", "references": ["a house appears", "a new house"]}


def test_a_report_goes_over_an_earlier_report_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictions = tmp_path / "predictions.jsonl"
    predictions.write_text(json.dumps(PAIR) + "\n")
    (tmp_path / "link.json").symlink_to(predictions)
    (tmp_path / "hard.json").hardlink_to(predictions)
    notes = make(tmp_path, {"notes.json": '{"mine": 1}'}) / "notes.json"
    before = contents(tmp_path)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it is looked at before anything is scored")

    monkeypatch.setattr("rscc_hf.evaluation.evaluate_file", never)
    for out, message in (
        (predictions, "is an input"),
        (tmp_path / "link.json", "is an input"),
        (tmp_path / "hard.json", "is an input"),
        (notes, "is no report of `rscc evaluate`, so it is not replaced"),
        (tmp_path, "is a folder"),
    ):
        result = run("evaluate", predictions, "--json", out)
        assert result.exit_code == 1 and message in result.stderr, result.output
    assert contents(tmp_path) == before


def test_results_of_a_card_are_not_what_is_read(tmp_path: Path) -> None:
    out = make(tmp_path / "model", {"results.jsonl": "{}\n"})
    with pytest.raises(ValueError, match=r"results\.jsonl is an input"):
        add_evaluation(out, out / "results.jsonl", "LEVIR-CC", "test")
    assert contents(out) == {"results.jsonl": b"{}\n"}


def test_a_report_may_go_to_a_device(tmp_path: Path) -> None:
    if not Path("/dev/null").exists():
        pytest.skip("no /dev/null here")
    write_text(Path("/dev/null"), "nothing")
    assert not Path("/dev/null").is_file()
