"""One policy of overwriting for every command that writes a folder, and for those that write a file."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import watched
from typer.testing import CliRunner, Result

from rscc_hf.checkpoint_folder import CHECKPOINT
from rscc_hf.commands.app import app
from rscc_hf.data.vocabulary import SPECIALS, VOCABULARY
from rscc_hf.demo.common import DEMO, demo_folder
from rscc_hf.files import Written, check_replaceable, new_folder, write_text
from rscc_hf.formats.cards import MARKER
from rscc_hf.hub.cards.results import add_evaluation
from rscc_hf.synthetic.dataset import DATASET

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
    "demo": (
        lambda out: ["demo", "--output", out],
        DEMO,
        {"results.json": '{"rows": [], "seconds": {}}', "report.html": "old", "model/config.json": "{}"},
    ),
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
    make(here / "inner", {"file": "an empty one would be filled by the demo"})
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
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path).name == "ours")
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


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ('{"port": 80}', "config.json names no model_type"),
        ("[]", "config.json names no model_type"),
        ("{port: 80}", "config.json is no JSON, and there are no weights"),
    ],
)
def test_somebody_elses_config_is_no_checkpoint(config: str, said: str, tmp_path: Path) -> None:
    assert said in refused("mmodalcc", make(tmp_path / "out", {"config.json": config}), "--overwrite")


@pytest.mark.parametrize("name", ["modeling_mine.py", "tokenizer_mine.json", "model-of-my-own-of-it.safetensors"])
def test_files_that_are_called_like_ours_stay(name: str, tmp_path: Path) -> None:
    out = make(tmp_path / "out", {**COMMANDS["ccexpert"][2], name: "mine"})
    assert f"holds {name} beside the checkpoint" in refused("ccexpert", out, "--overwrite")


@pytest.mark.parametrize("place", ["", "model/", "stages/stage1/"])
@pytest.mark.parametrize(("card", "stays"), [("my notes", True), (f"ours {MARKER} mine", True), (MARKER, False)])
def test_a_card_with_words_of_the_user_stays(place: str, card: str, stays: bool, tmp_path: Path) -> None:
    command = "demo" if place else "ccexpert"
    out = make(tmp_path / "out", {**COMMANDS[command][2], f"{place}README.md": card})
    if stays:
        assert f"holds {place}README.md (by somebody else)" in refused(command, out, "--overwrite")
    else:
        check_replaceable(out, COMMANDS[command][1], overwrite=True)


@pytest.mark.parametrize(
    "files",
    [
        {"model/config.json": '{"model_type": "mmodalcc"}', "model/model.safetensors": "days"},
        {"data/README.md": "Pairs, made by `rscc data synthesize`.", "data/data/train-0-of-1.parquet": "x"},
        {"report.html": "mine"},
        {"results.json": '{"mine": 1}'},
    ],
)
def test_a_folder_is_of_a_demo_where_its_results_are(files: dict[str, str], tmp_path: Path) -> None:
    assert "is no folder of a demo" in refused("demo", make(tmp_path / "out", files), "--overwrite")
    out = make(tmp_path / "more", {**COMMANDS["demo"][2], "predictions_mine.jsonl": "mine"})
    assert "holds predictions_mine.jsonl beside the demo" in refused("demo", out, "--overwrite")


def test_what_a_killed_demo_left_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RuntimeError), demo_folder(out, overwrite=False):
        files = (".data.x1/new/data/train-00000-of-00001.parquet", ".model.lock", "model/.recipe.yaml.12.part")
        kept = shutil.copytree(make(out, dict.fromkeys(files, "half")), tmp_path / "kept")
        raise RuntimeError
    assert not out.exists() and DEMO.foreign(kept) == []
    check_replaceable(kept, DEMO, overwrite=True)


def test_an_empty_folder_is_filled_wherever_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "link").symlink_to(here)
    (here / ".DS_Store").touch()
    monkeypatch.chdir(here)
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path).name == "here")
    for number, place in enumerate((Path(), here, tmp_path / "link", Path("../link"))):
        monkeypatch.setattr("rscc_hf.files.os.access", lambda path, mode, number=number: number < 2)
        before = here.stat().st_ino
        for error in (KeyboardInterrupt, None):
            with suppress(KeyboardInterrupt), new_folder(place, in_place=True) as folder:
                assert folder == place
                with pytest.raises(ValueError, match="another run"), new_folder(here, in_place=True):
                    raise AssertionError("two writers")
                make(folder, {"file": "new", "deep/file": "new"})
                if error is not None:
                    raise error
            names = {".DS_Store"} | ({"file", "deep"} if error is None else set())
            assert {path.name for path in here.iterdir()} == names and here.stat().st_ino == before
        with pytest.raises(ValueError, match=r"exists|work in"), new_folder(place, in_place=True):
            raise AssertionError("it is filled")
        (here / "file").unlink()
        shutil.rmtree(here / "deep")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "link", "work"]


def test_a_link_to_an_empty_folder_is_the_folder(tmp_path: Path) -> None:
    (tmp_path / "disk" / "empty").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "empty")
    with new_folder(tmp_path / "out") as folder:
        assert folder.parent.parent == tmp_path / "disk", "the same disk: a rename is all that is left to do"
        make(folder, {"new.txt": "new"})
    assert (tmp_path / "out").is_symlink() and contents(tmp_path / "disk") == {"empty/new.txt": b"new"}
    assert "is a link" in refused("synthesize", tmp_path / "out", "--overwrite")


def test_a_data_set_is_replaced_whole(tmp_path: Path) -> None:
    out = make(tmp_path / "out", COMMANDS["synthesize"][2])
    result = run(*COMMANDS["synthesize"][0](out), "--overwrite")
    assert result.exit_code == 0, result.output
    assert (out / "data" / "train-00000-of-00001.parquet").read_bytes() != b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "work"]


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
@pytest.mark.parametrize("command", ["synthesize", "demo"])
def test_a_path_that_parquet_cannot_take_is_told_before_the_work(command: str, tmp_path: Path) -> None:
    out = tmp_path / os.fsdecode(b"odd\xe9")
    assert "no text in UTF-8, which parquet needs; choose another folder" in refused(command, out)
    assert not out.exists()


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
    likeness = make(tmp_path, {"like.json": '{"all": {}, "protocol": 1, "n": 1, "accuracy": {}}'}) / "like.json"
    before = contents(tmp_path)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it is looked at before anything is scored")

    monkeypatch.setattr("rscc_hf.evaluation.evaluate_file", never)
    for out, message in (
        (predictions, "is an input"),
        (tmp_path / "link.json", "is an input"),
        (tmp_path / "hard.json", "is an input"),
        (notes, "is no report of `rscc evaluate`, so it is not replaced"),
        (likeness, "is no report of `rscc evaluate`, so it is not replaced"),
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
