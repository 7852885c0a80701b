"""`rscc caption`, in process: one pair, many pairs, what is said where, and what is refused."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from rscc_hf import ChangeCaptioner
from rscc_hf.commands.app import app
from rscc_hf.inference.default_model import find_demo_model, remember_demo_model

WriteImage = Callable[..., Path]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], terminal_width=80)


def refused(*arguments: object, code: int = 1) -> str:
    """The one line that a refused command writes."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    if code == 1:
        lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        assert len(lines) == 1 and result.stderr.endswith(f"{lines[0]}\n")
        return lines[0]
    return " ".join(result.stderr.replace("│", " ").split())


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def model(tiny_checkpoints: dict[str, Path]) -> Path:
    return tiny_checkpoints["optional"]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No model of this machine's user is found by chance."""
    monkeypatch.delenv("RSCC_MODEL", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path: Path, write_image: WriteImage) -> Path:
    for n in range(5):
        write_image(tmp_path / "pairs" / "A" / f"x{n}.png", seed=n)
        write_image(tmp_path / "pairs" / "B" / f"x{n}.png", seed=100 + n)
    return tmp_path / "pairs"


@pytest.fixture
def expected(model: Path, folder: Path) -> dict[str, str]:
    captioner = ChangeCaptioner.from_pretrained(model, device="cpu")
    return {f"x{n}": captioner(folder / f"A/x{n}.png", folder / f"B/x{n}.png") for n in range(5)}


def test_one_pair_prints_its_caption_and_nothing_else(model, folder, expected) -> None:
    result = run("caption", folder / "A/x1.png", folder / "B/x1.png", "--model", model)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{expected['x1']}\n"
    assert result.stderr == ""


def test_options_reach_the_model(model, folder, tmp_path, write_image) -> None:
    maps = [write_image(tmp_path / f"map{n}.png", seed=70 + n) for n in (1, 2)]
    captioner = ChangeCaptioner.from_pretrained(model, device="cpu", dtype="bfloat16")
    pair = (folder / "A/x1.png", folder / "B/x1.png")
    expected = captioner(*pair, *maps, num_beams=3, max_new_tokens=2)
    result = run(
        "caption", *pair, "--model", model, "--semantic-before", maps[0], "--semantic-after", maps[1],
        "--num-beams", 3, "--max-new-tokens", 2, "--device", "cpu", "--dtype", "bfloat16",
    )  # fmt: skip
    assert result.stdout == f"{expected}\n"
    assert len(expected.split()) <= 2


def test_a_resized_date_is_noted(model, folder, tmp_path, write_image) -> None:
    coarse = write_image(tmp_path / "coarse.png", size=(16, 16))
    result = run("caption", folder / "A/x1.png", coarse, "--model", model)
    assert result.exit_code == 0
    assert result.stderr.startswith("Note: ") and "coarse.png" in result.stderr
    assert len(result.stdout.splitlines()) == 1


def test_what_cannot_be_captioned_is_one_line(model, tiny_checkpoints, folder, tmp_path) -> None:
    pair = (folder / "A/x1.png", folder / "B/x1.png")
    assert "nowhere.png does not exist" in refused("caption", pair[0], tmp_path / "nowhere.png", "--model", model)
    assert "there is no folder" in refused("caption", *pair, "--model", tmp_path / "nowhere")
    assert "needs them" in refused("caption", *pair, "--model", tiny_checkpoints["required"])
    none = tiny_checkpoints["none"]
    assert "takes no semantic maps" in refused(
        "caption", *pair, "--model", none, "--semantic-before", pair[0], "--semantic-after", pair[1], code=2
    )
    assert "semantic_after is missing" in refused("caption", *pair, "--model", model, "--semantic-before", pair[0])
    assert "dtype 'int3' is unknown" in refused("caption", *pair, "--model", model, "--dtype", "int3")
    assert "device 'abacus' is unknown" in refused("caption", *pair, "--model", model, "--device", "abacus")


def test_wrong_use_is_told_as_such(folder) -> None:
    before = folder / "A/x1.png"
    assert "BEFORE AFTER: give both" in refused("caption", code=2)
    assert "BEFORE AFTER: give both" in refused("caption", before, code=2)
    assert "not both" in refused("caption", before, before, "--pairs", folder, "--output", "o.jsonl", code=2)
    assert "it needs --output" in refused("caption", "--pairs", folder, code=2)
    assert "belongs to --pairs" in refused("caption", before, before, "--output", "o.jsonl", code=2)
    assert "name its --split" in refused(
        "caption", "--pairs", folder, "--output", "o.jsonl", "--semantic-coverage", "changed", code=2
    )
    assert "num-beams" in refused("caption", before, before, "--num-beams", 0, code=2)


def test_an_unexpected_error_keeps_its_traceback(model, folder, monkeypatch) -> None:
    def broken(*_: object, **__: object) -> None:
        int("a bug of ours")

    monkeypatch.setattr(ChangeCaptioner, "from_pretrained", broken)
    result = run("caption", folder / "A/x1.png", folder / "B/x1.png", "--model", model)
    assert isinstance(result.exception, ValueError), "raised outside of this package: not about the input"
    assert "Error:" not in result.output
    monkeypatch.setattr(ChangeCaptioner, "from_pretrained", lambda *_, **__: {}["a bug of ours"])
    result = run("caption", folder / "A/x1.png", folder / "B/x1.png", "--model", model)
    assert isinstance(result.exception, KeyError)


def test_a_folder_becomes_lines_that_can_be_scored(model, folder, expected, tmp_path) -> None:
    shutil.copy(folder / "A/x1.png", folder / "A/alone.png")
    output = tmp_path / "new" / "out.jsonl"
    result = run("caption", "--pairs", folder, "--output", output, "--model", model, "--batch-size", 2)
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert "1 file without a partner, left out:\n  A/alone.png\n" in result.stderr
    assert result.stderr.endswith(f"5 captions written to {output}.\n")
    rows = rows_of(output)
    assert {row["pair_id"]: row["prediction"] for row in rows} == expected
    assert rows[0]["before"] == "A/x0.png" and rows[0]["after"] == "B/x0.png" and rows[0]["notes"] == []
    assert rows[0]["model"].startswith(f"{model}@")
    assert "references" not in rows[0]


def test_a_list_carries_its_references_to_evaluate(model, folder, expected, tmp_path) -> None:
    listed = tmp_path / "pairs" / "pairs.jsonl"
    lines = [
        {"pair_id": f"p{n}", "before": f"A/x{n}.png", "after": f"B/x{n}.png", "references": ["a house appears"]}
        for n in range(5)
    ]
    listed.write_text("".join(json.dumps(line) + "\n" for line in lines))
    output = tmp_path / "out.jsonl"
    assert run("caption", "--pairs", listed, "--output", output, "--model", model).exit_code == 0
    from rscc_hf.evaluation import read_predictions

    read = read_predictions(output)
    assert read.pair_ids == ["p0", "p1", "p2", "p3", "p4"]
    assert read.predictions == list(expected.values())
    assert read.references == [["a house appears"]] * 5


def test_bad_pairs_stop_the_run_before_the_model_is_loaded(model, folder, tmp_path) -> None:
    listed = tmp_path / "p.csv"
    listed.write_text("before,after\npairs/A/x0.png,pairs/B/x0.png\npairs/A/x1.png,pairs/B/gone.png\n")
    output = tmp_path / "out.jsonl"
    message = refused("caption", "--pairs", listed, "--output", output, "--model", tmp_path / "no_model_either")
    assert "pair x1__gone" in message and "gone.png does not exist; --on-error skip" in message
    listed.write_text("before,after,semantic_before\npairs/A/x0.png,pairs/B/x0.png,pairs/A/x0.png\n")
    message = refused("caption", "--pairs", listed, "--output", output, "--model", tmp_path / "no_model_either")
    assert "pair x0: semantic_after is missing" in message and "--on-error skip" in message
    assert not output.exists()


def test_what_is_not_read_or_used_is_told_and_captioned_all_the_same(model, folder, tmp_path) -> None:
    (folder / "A/x9.heic").write_bytes(b"x")
    result = run("caption", "--pairs", folder, "--output", tmp_path / "out.jsonl", "--model", model)
    assert result.exit_code == 0 and "5 captions written" in result.stderr
    told = "1 file whose suffix is none of an image that is read here (*.heic: 1, A/x9.heic)."
    assert result.stderr.startswith(f"Note: {folder}: not read: {told}\n")
    listed = tmp_path / "p.csv"
    listed.write_text("before,after,town\npairs/A/x0.png,pairs/B/x0.png,y\n")
    result = run("caption", "--pairs", listed, "--output", tmp_path / "list.jsonl", "--model", model)
    assert result.exit_code == 0 and result.stderr.startswith(f"Note: {listed}: not used: column town.\n")


def test_without_maps_their_files_are_not_looked_for(tiny_checkpoints, model, folder, tmp_path) -> None:
    listed = tmp_path / "p.csv"
    listed.write_text(
        "before,after,semantic_before,semantic_after\npairs/A/x0.png,pairs/B/x0.png,sem/gone0.png,sem/gone1.png\n"
    )
    command = ("caption", "--pairs", listed, "--output", tmp_path / "out.jsonl", "--model")
    assert "gone0.png does not exist (and 1 more)" in refused(*command, model)
    assert run(*command, model, "--without-maps").exit_code == 0
    listed.write_text("before,after\npairs/A/x0.png,pairs/B/x0.png\n")
    message = refused(*command, tiny_checkpoints["none"], "--without-maps", code=2)
    assert "belongs to models with semantic maps" in message, "there is nothing to leave out"


def test_notes_about_images_are_told_at_the_end(model, folder, tmp_path, write_image) -> None:
    write_image(folder / "B" / "x1.png", size=(16, 16))
    result = run("caption", "--pairs", folder, "--output", tmp_path / "out.jsonl", "--model", model)
    assert result.exit_code == 0
    assert f"1 caption with notes about the images (`notes` in {tmp_path / 'out.jsonl'}):\n" in result.stderr


def test_skipped_pairs_are_listed_and_tried_again(model, folder, expected, tmp_path, write_image) -> None:
    good = (folder / "B/x2.png").read_bytes()
    (folder / "B/x2.png").write_bytes(good[:100])
    output = tmp_path / "out.jsonl"
    command = ("caption", "--pairs", folder, "--output", output, "--model", model, "--batch-size", 4)
    assert "x2.png" in refused(*command), "the default is to stop"
    output.unlink()
    result = run(*command, "--on-error", "skip")
    assert result.exit_code == 0, result.output
    skipped = tmp_path / "out.skipped.jsonl"
    assert f"1 pair skipped, listed in {skipped}:" in result.stderr
    (row,) = rows_of(skipped)
    assert row["pair_id"] == "x2" and "x2.png" in row["error"]
    assert [row["pair_id"] for row in rows_of(output)] == ["x0", "x1", "x3", "x4"]
    (folder / "B/x2.png").write_bytes(good)
    result = run(*command)
    assert "1 caption written" in result.stderr and "4 were there before" in result.stderr
    assert {row["pair_id"]: row["prediction"] for row in rows_of(output)} == expected
    assert not skipped.exists()


def test_a_run_without_any_answer_fails(model, folder, tmp_path) -> None:
    for path in folder.glob("B/*.png"):
        path.write_bytes(b"")
    result = run(
        "caption", "--pairs", folder, "--output", tmp_path / "o.jsonl", "--model", model, "--on-error", "skip"
    )
    assert result.exit_code == 1 and "5 pairs skipped" in result.stderr


def test_an_interrupted_run_is_continued(model, folder, expected, tmp_path, monkeypatch) -> None:
    output = tmp_path / "out.jsonl"
    command = ("caption", "--pairs", folder, "--output", output, "--model", model, "--batch-size", 2)
    original, calls = ChangeCaptioner.caption, []

    def interrupted(self: Any, pairs: Any, **rest: Any) -> Any:
        calls.append(len(pairs))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, pairs, **rest)

    monkeypatch.setattr(ChangeCaptioner, "caption", interrupted)
    result = run(*command)
    assert result.exit_code == 130 and "the same command continues" in result.stderr
    assert [row["pair_id"] for row in rows_of(output)] == ["x0", "x1"]
    done = output.read_bytes()
    result = run(*command)
    assert result.exit_code == 0 and "3 captions written" in result.stderr and "2 were there before" in result.stderr
    assert output.read_bytes().startswith(done)
    assert {row["pair_id"]: row["prediction"] for row in rows_of(output)} == expected
    assert sum(calls[2:]) == 3, "what is finished is not captioned again"
    assert "0 captions written" in run(*command).stderr
    calls[:] = []
    result = run(*command, "--overwrite")
    assert result.exit_code == 130 and "the same command without --overwrite continues" in result.stderr


@pytest.mark.parametrize("cut", [1, 40, 10_000])
def test_a_torn_last_line_is_mended(model, folder, expected, tmp_path, cut) -> None:
    output = tmp_path / "out.jsonl"
    command = ("caption", "--pairs", folder, "--output", output, "--model", model)
    run(*command)
    whole = output.read_bytes()
    last = whole.rstrip(b"\n").rindex(b"\n") + 1
    output.write_bytes(whole[: max(len(whole) - cut, last)])
    result = run(*command)
    assert result.exit_code == 0, result.output
    assert output.read_bytes() == whole


def test_a_file_of_another_run_is_not_continued(model, tiny_checkpoints, folder, tmp_path) -> None:
    output = tmp_path / "out.jsonl"
    command = ["caption", "--pairs", folder, "--output", output]
    run(*command, "--model", model)
    done = output.read_bytes()
    assert "by another model" in refused(*command, "--model", tiny_checkpoints["none"])
    assert "with other settings" in refused(*command, "--model", model, "--num-beams", 2)
    (folder / "A/x4.png").rename(folder / "A/x4.jpg")
    assert "'x4' has other images" in refused(*command, "--model", model)
    last = (folder / "A/x4.jpg").read_bytes()
    (folder / "A/x4.jpg").unlink()
    assert "'x4' is not in the list" in refused(*command, "--model", model)
    output.write_bytes(b"{}\n" + done)
    assert "line 1 was not written by" in refused(*command, "--model", model)
    output.write_bytes(b"no json\n" + done)
    assert "line 1 is no JSON" in refused(*command, "--model", model)
    output.write_bytes(done + done)
    (folder / "A/x4.png").write_bytes(last)
    assert "is there twice" in refused(*command, "--model", model)
    assert output.read_bytes() == done + done, "a refused file is left alone"
    result = run(*command, "--model", tiny_checkpoints["none"], "--overwrite")
    assert result.exit_code == 0 and "5 captions written" in result.stderr
    assert len(rows_of(output)) == 5
    moved = shutil.copytree(tiny_checkpoints["none"], tmp_path / "moved")
    assert "0 captions written" in run(*command, "--model", moved).stderr, "the same weights may lie elsewhere"


def test_maps_of_a_folder_are_used_and_can_be_left_out(tiny_checkpoints, model, folder, tmp_path, write_image) -> None:
    for n in range(4):
        for date in ("before", "after"):
            write_image(folder / f"semantic_{date}" / f"x{n}.png", seed=500 + n)
    captioner = ChangeCaptioner.from_pretrained(model, device="cpu")
    pairs = [
        (folder / f"A/x{n}.png", folder / f"B/x{n}.png", folder / f"semantic_before/x{n}.png",
         folder / f"semantic_after/x{n}.png") for n in range(4)
    ]  # fmt: skip
    base = ("caption", "--pairs", folder, "--model", model)
    assert run(*base, "--output", tmp_path / "with.jsonl").exit_code == 0
    rows = rows_of(tmp_path / "with.jsonl")
    assert [row["prediction"] for row in rows[:4]] == [captioner(*pair) for pair in pairs]
    assert rows[4]["prediction"] == captioner(folder / "A/x4.png", folder / "B/x4.png")
    assert run(*base, "--output", tmp_path / "without.jsonl", "--without-maps").exit_code == 0
    without = [row["prediction"] for row in rows_of(tmp_path / "without.jsonl")]
    assert without[:4] == [captioner(*pair[:2]) for pair in pairs] != [row["prediction"] for row in rows[:4]]

    none = ("caption", "--pairs", folder, "--model", tiny_checkpoints["none"], "--output")
    assert "(--without-maps)" in refused(*none, tmp_path / "none.jsonl")
    assert run(*none, tmp_path / "none.jsonl", "--without-maps").exit_code == 0
    assert len(rows_of(tmp_path / "none.jsonl")) == 5

    required = tiny_checkpoints["required"]
    output = tmp_path / "required.jsonl"
    assert "pair x4: it has no semantic maps" in refused(
        "caption", "--pairs", folder, "--output", output, "--model", required
    )
    output.unlink()
    run("caption", "--pairs", folder, "--output", output, "--model", required, "--on-error", "skip")
    assert [row["pair_id"] for row in rows_of(output)] == ["x0", "x1", "x2", "x3"]


def test_without_a_name_the_demos_model_answers_and_says_so(model, folder, expected, tmp_path, monkeypatch) -> None:
    pair = (folder / "A/x1.png", folder / "B/x1.png")
    message = refused("caption", *pair)
    assert "rscc demo" in message and "--model" in message
    trained = shutil.copytree(model, tmp_path / "demo_output" / "model")
    (trained / "training_summary.json").write_text(json.dumps({"trained_on": "synthetic"}))
    result = run("caption", *pair)
    assert result.stdout == f"{expected['x1']}\n"
    first = result.stderr.splitlines()[0]
    assert "demo_output/model (MModalCC) answers" in first and "synthetic scenes only" in first
    assert run("caption", *pair, "--model", trained).stderr == first.replace("demo_output", str(trained.parent)) + "\n"

    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    refused("caption", *pair)
    remember_demo_model(trained)
    assert str(trained) in run("caption", *pair).stderr
    monkeypatch.setenv("RSCC_MODEL", str(model))
    assert run("caption", *pair).stderr == f"{model} (MModalCC) answers.\n"


def test_where_the_model_of_the_demo_is_looked_for(model, tmp_path, monkeypatch) -> None:
    assert find_demo_model() is None
    remember_demo_model(model)
    assert find_demo_model() == str(model)
    shutil.copytree(model, tmp_path / "demo_output" / "model")
    assert find_demo_model() == "demo_output/model"
    monkeypatch.setenv("RSCC_MODEL", "org/model")
    assert find_demo_model() == "org/model"
    monkeypatch.delenv("RSCC_MODEL")
    shutil.rmtree(tmp_path / "demo_output")
    remember_demo_model(tmp_path / "deleted")
    assert find_demo_model() is None
    odd = shutil.copytree(model, tmp_path / os.fsdecode(b"odd \xe9 ") / "model ")
    remember_demo_model(odd)
    assert find_demo_model() == str(odd)


def test_a_range_of_values_is_asked_for_and_taken(model, tmp_path, write_image) -> None:
    for date in "AB":
        (tmp_path / date).mkdir()
        grey = np.asarray(Image.open(write_image(tmp_path / f"{date}.png", seed=ord(date))).convert("L"))
        Image.fromarray(grey.astype(np.uint16) * 16).save(tmp_path / date / "x.png")
    pair = (tmp_path / "A/x.png", tmp_path / "B/x.png")
    assert "--value-range LOW,HIGH" in refused("caption", *pair, "--model", model)
    result = run("caption", *pair, "--model", model, "--value-range", "0,4080")
    assert result.exit_code == 0 and result.stderr == "", result.output
    output = tmp_path / "out.jsonl"
    run("caption", "--pairs", tmp_path, "--output", output, "--model", model, "--value-range=0,4080")
    row = json.loads(output.read_text())
    assert row["prediction"] == result.stdout.strip() and row["settings"]["value_range"] == [0, 4080]
    told = refused("caption", "--pairs", tmp_path, "--output", output, "--model", model, "--value-range", "0,5000")
    assert "other settings" in told
    for wrong in ("4095", "5,1", "a,b", "0,1,2", "0,nan", ""):
        result = run("caption", *pair, "--model", model, "--value-range", wrong)
        assert result.exit_code == 2 and "not LOW,HIGH" in " ".join(result.stderr.split())
