"""What 0.1 wrote works as it did: by public names, the command line and the scripts alone."""

import importlib
import json
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
import watched
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoTokenizer, pipeline
from typer.testing import CliRunner, Result

sys.path.insert(0, str(Path(__file__).parent))  # for `asked` and `documented`

from asked import ANSWERED, answers, machine, unfolded
from documented import documented

import rscc_hf
from rscc_hf import ChangeCaptioner
from rscc_hf.data.loading import load_pairs
from rscc_hf.evaluation import read_predictions

WRITTEN = Path(__file__).parent / "written_by_0_1"
ROOT = Path(__file__).resolve().parents[2]
EXPECTED = json.loads((WRITTEN / "expected.json").read_text(encoding="utf-8"))
RUNS = {"mmodalcc": "mmodalcc.py", "ccexpert": "stage2.py"}
# `__all__` of the scripts as modules; where 0.1 had none, their recipe and what they run.
PUBLIC = {
    "mmodalcc": ["MModalCCRecipe", "MModalCCTask", "train_mmodalcc"],
    "stage1": ["Stage1Recipe", "main"],
    "stage2": ["Stage2Recipe", "main"],
    "stage3": ["Stage3Recipe", "main"],
    "adapters": ["load_adapters", "main", "merge_adapters"],
}

ALONE = """
import json, sys
sys.modules["rscc_hf"] = None  # any import of it fails
sys.path.insert(0, sys.argv[1])
from asked import answers
from transformers import pipeline
said = {name: answers(name, trust_remote_code=True) for name in sys.argv[2:]}
captioner = pipeline("change-captioning", model="ccexpert", trust_remote_code=True)
pair = ("images/before/pair-100.png", "images/after/pair-100.png")
said["pipeline"] = captioner(pair, generate_kwargs={"max_new_tokens": 12})
print(json.dumps(said))
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to work in, under the relative names that the records have."""
    folder = unfolded(WRITTEN, tmp_path / "files")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As when the files were written; training in this process sets it too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rscc(*arguments: object) -> Result:
    (entry,) = entry_points(group="console_scripts", name="rscc")
    done = CliRunner().invoke(entry.load(), [str(argument) for argument in arguments], terminal_width=200)
    assert done.exit_code == 0, done.output
    return done


def script(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> None:
    """Run a script by its path, in this process."""
    path = str(ROOT / "training" / name)
    monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
    runpy.run_path(path, run_name="__main__")


def lines_of(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def read_json(path: str | Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def check_answers(given: dict[str, Any], name: str) -> None:
    expected = EXPECTED["models"][name]
    assert given["captions"] == expected["captions"]
    torch.testing.assert_close(given["logits"], expected["logits"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", [name for name in ANSWERED if name != "adapters"])
def test_models_answer(files: Path, name: str) -> None:
    check_answers(answers(name), name)
    assert type(AutoModelForImageTextToText.from_pretrained(name)).__module__.startswith("rscc_hf.")


def test_adapters_are_merged(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, "adapters.py", "adapters", "merged")
    check_answers(answers("merged"), "adapters")


def test_models_answer_with_their_own_code(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    names = [name for name in ANSWERED if name != "adapters"]
    done = watched.run(
        [sys.executable, "-c", ALONE, str(Path(__file__).parent), *names], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    for name in names:
        check_answers(said[name], name)
    assert said["pipeline"] == [{"generated_text": EXPECTED["models"]["ccexpert"]["captions"][0]}]


def test_captioner_and_pipeline_answer(files: Path) -> None:
    rows = lines_of("list.jsonl")
    images = [[row[name] for row in rows] for name in ("before", "after", "semantic_before", "semantic_after")]
    captioner = ChangeCaptioner.from_pretrained("mmodalcc", device="cpu")
    assert captioner.trained_on == "toy"
    assert captioner(*images) == EXPECTED["models"]["mmodalcc"]["captions"]
    asked = ChangeCaptioner.from_pretrained("ccexpert", device="cpu")
    assert asked(*images[:2], max_new_tokens=12) == EXPECTED["models"]["ccexpert"]["captions"]
    answer = pipeline("change-captioning", model="ccexpert")
    given = answer([(rows[0]["before"], rows[0]["after"])], generate_kwargs={"max_new_tokens": 12})
    assert EXPECTED["models"]["ccexpert"]["captions"][0] in str(given)


def test_lists_and_folders_are_read(files: Path) -> None:
    for number, pairs in enumerate(("list.csv", "list.jsonl", "images")):
        output = f"again_{number}.jsonl"
        rscc("caption", "--pairs", pairs, "--model", "mmodalcc", "--device", "cpu", "--output", output)
        told = {row["pair_id"]: row["prediction"] for row in lines_of(output)}
        assert told == {row["pair_id"]: row["prediction"] for row in lines_of("captions.jsonl")}, pairs


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("captions", "--pairs list.jsonl"),
        ("captions_of_data", "--pairs pairs --split validation --without-maps --num-beams 2"),
    ],
)
def test_a_stopped_run_of_captions_goes_on(files: Path, name: str, asked: str) -> None:
    finished, stopped = Path(f"{name}.jsonl"), Path(f"{name}_stopped.jsonl")
    before = stopped.read_bytes()
    assert finished.read_bytes().startswith(before) and before.count(b"\n") == 2
    done = rscc("caption", *asked.split(), "--model", "mmodalcc", "--device", "cpu", "--output", stopped)
    assert "2 captions written" in done.output and "2 were there before" in done.output
    assert stopped.read_bytes() == finished.read_bytes()
    again = rscc("caption", *asked.split(), "--model", "mmodalcc", "--device", "cpu", "--output", finished)
    assert "4 were there before" in again.output


def check_held(now: Any, then: Any, where: str = "") -> None:
    """All that was said then is said now, as numbers that are the same to the sixth digit; there may be more.

    Versions may be others.
    """
    if isinstance(then, dict):
        for key, value in then.items():
            assert key in now, f"{where}.{key}"
            if key != "versions":
                check_held(now[key], value, f"{where}.{key}")
    elif isinstance(then, list):
        assert len(now) == len(then), where
        for number, (one, other) in enumerate(zip(now, then, strict=True)):
            check_held(one, other, f"{where}[{number}]")
    elif isinstance(then, float):
        assert now == pytest.approx(then, rel=1e-6, abs=1e-8), where
    else:
        assert now == then, where


@pytest.mark.parametrize(
    ("name", "protocol"), [("", "words"), pytest.param("_in_other_words", "rsicc_ids", marks=pytest.mark.slow)]
)
def test_predictions_are_scored(files: Path, name: str, protocol: str) -> None:
    then = read_json(f"scores{name}.json")
    rscc("evaluate", f"captions{name}.jsonl", "--protocol", protocol, "--json", "again.json")
    check_held(read_json("again.json"), then)


def test_predictions_in_other_words_are_read(files: Path) -> None:
    others, rows = read_predictions(Path("captions_in_other_words.jsonl")), lines_of("captions_in_other_words.jsonl")
    assert others.pair_ids == [row["uid"] for row in rows]
    assert others.predictions == [row["pred"] for row in rows]
    assert others.references == [row["change_caption"] for row in rows]
    assert others.changed == [bool(row["changeflag"]) for row in rows]


@pytest.mark.parametrize("name", ["mmodalcc", "ccexpert", "converted", "start"])
def test_a_card_tells_what_was_recorded(files: Path, name: str) -> None:
    then = Path(name, "README.md").read_text(encoding="utf-8")
    Path(name, "README.md").unlink()
    rscc("card", name, *(["--license", "apache-2.0"] if name == "mmodalcc" else []))
    card = Path(name, "README.md").read_text(encoding="utf-8")
    check_held(ModelCard(card).data.to_dict(), ModelCard(then).data.to_dict())
    told = [line for line in then.splitlines() if line.startswith(("#", "|"))]  # headings and rows of tables
    assert len(told) > 5
    assert set(told) <= set(card.splitlines())


@pytest.mark.parametrize(
    ("folder", "splits"),
    [("scenes", {"train": 2, "validation": 1, "test": 1}), ("pairs", {"train": 16, "validation": 4})],
)
def test_data_sets_load(files: Path, folder: str, splits: dict[str, int]) -> None:
    for split, size in splits.items():
        rows = load_pairs(folder, split)
        assert len(rows) == size
        row = rows[0]
        assert row["image_before"].size == row["semantic_after"].size == row["change_mask"].size
        assert row["captions"] and isinstance(row["changed"], bool)
        if folder == "scenes":
            (first, *_) = load_pairs(folder, split, streaming=True)
            assert first["pair_id"] == row["pair_id"] and first["captions"] == row["captions"]


def test_tokenizers_cut_texts_as_they_did(files: Path) -> None:
    for folder, texts in EXPECTED["tokens"].items():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        for text, tokens in texts.items():
            assert tokenizer(text)["input_ids"] == tokens


def test_scenes_and_words_and_a_recipe_train_a_step(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(
        monkeypatch, "mmodalcc.py", "--config", "mmodalcc/recipe.yaml", "--train_data", "scenes", "--tokenizer",
        "vocabulary", "--output_dir", "step", "--max_steps", 1, "--eval_unit", "never", "--save_unit", "never",
        "--global_batch_size", 2, "--per_device_batch_size", 2, "--max_caption_length", 40,
    )  # fmt: skip
    assert ChangeCaptioner.from_pretrained("step").trained_on == "synthetic"


def log_of(folder: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in
            lines_of(Path(folder, "training_log.jsonl"))]  # fmt: skip


def check_went_on(system: str) -> None:
    """The run that was interrupted ended as the one that was not: with its bits, where the machine is the same."""
    exactly = EXPECTED["machine"] == machine()
    now, then = log_of(f"{system}_stopped"), log_of(system)
    assert [line.get("step") for line in now] == [line.get("step") for line in then]
    for one, other in zip(now, then, strict=True):
        assert not exactly or {key: one[key] for key in other} == other
        if "loss" in other:
            assert one["loss"] == pytest.approx(other["loss"], abs=0.1)
    weights, finished = (load_file(Path(folder, "model.safetensors")) for folder in (f"{system}_stopped", system))
    assert weights.keys() == finished.keys()
    assert not exactly or all(torch.equal(weights[name], finished[name]) for name in finished)
    summary = "training_summary.json"
    check_held(read_json(Path(f"{system}_stopped", summary)), read_json(Path(system, summary)))
    captions = EXPECTED["models"][system]["captions"]
    assert answers(f"{system}_stopped")["captions"] == captions


@pytest.mark.parametrize("system", RUNS)
def test_a_stopped_training_goes_on(files: Path, monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    script(monkeypatch, RUNS[system], "--config", f"{system}_stopped/recipe.yaml")
    check_went_on(system)


@pytest.mark.slow
def test_a_stopped_training_goes_on_by_accelerate(files: Path) -> None:
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", "1"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += [str(ROOT / "training/mmodalcc.py"), "--config", "mmodalcc_stopped/recipe.yaml"]
    done = watched.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check_went_on("mmodalcc")


@pytest.mark.parametrize("system", RUNS)
def test_a_finished_run_is_not_written_over(files: Path, monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    with pytest.raises(SystemExit, match=f"{system}.*"):
        script(monkeypatch, RUNS[system], "--config", f"{system}/recipe.yaml")
    assert (files / system / "model.safetensors").read_bytes() == (WRITTEN / system / "model.safetensors").read_bytes()


def options_of(help_text: str) -> set[str]:
    return set(re.findall(r"--[\w-]+", help_text))


@pytest.fixture
def help_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], set[str]]:
    """The options that the help of a command of `rscc`, or of a script, names."""
    known: dict[str, set[str]] = {}

    def ask(name: str) -> set[str]:
        if name not in known:
            if name.startswith("rscc"):
                known[name] = options_of(rscc(*name.split()[1:], "--help").output)
            else:
                with pytest.raises(SystemExit) as ended:
                    script(monkeypatch, name.removeprefix("training/"), "--help")
                assert ended.value.code == 0
                known[name] = options_of(capsys.readouterr().out)
        return known[name]

    return ask


PLANNING = {"--plan", "--devices"}
LINES = {
    "then": json.loads((WRITTEN / "documented.json").read_text(encoding="utf-8")),
    "now": documented(ROOT),
}


@pytest.mark.parametrize("when", LINES)
def test_documented_lines_are_understood(when: str, help_of: Callable[[str], set[str]]) -> None:
    commands = LINES[when]["commands"]
    assert len(commands) > 20
    for line in commands:
        words = line.split()
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        if words[0] == "rscc":
            small = [word for word in words[1:3] if re.fullmatch(r"[a-z-]+", word) and not word.startswith("-")]
            name = " ".join(["rscc", *small])
            assert options <= help_of(name), line
            continue
        scripts = [word for word in words if re.fullmatch(r"training/[a-z]\w*\.py", word)]
        if not scripts:  # a form, such as `accelerate launch training/X.py`
            continue
        own = set(words[words.index(scripts[0]) :]) & options
        for word in words:
            if word.startswith("training/"):
                assert (ROOT / word).is_file(), f"{word} in: {line}"
        assert own - PLANNING <= help_of(scripts[0]), line


def test_a_recipe_is_planned(files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script(monkeypatch, "stage2.py", "--config", "ccexpert/recipe.yaml", "--plan", "--devices", 2)
    assert "integration" in capsys.readouterr().out


@pytest.mark.parametrize("when", LINES)
def test_documented_imports_work(when: str) -> None:
    lines = LINES[when]["imports"]
    assert len(lines) >= 2
    for line in lines:
        exec(line, {})


def test_public_names_are_there() -> None:
    for name in LINES["then"]["names"]:
        assert hasattr(rscc_hf, name), name
    assert set(LINES["then"]["names"]) <= set(rscc_hf.__all__)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_of_scripts_are_there(name: str) -> None:
    module = importlib.import_module(f"rscc_hf.training.{name}")
    assert set(PUBLIC[name]) <= set(module.__all__)
    for public in module.__all__:
        assert hasattr(module, public), public
