"""Where captions go: nothing that is read or somebody else's is written over, one run at a time, nothing half-done."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rscc_hf import ChangeCaptioner
from rscc_hf.data.lists.sources import read_pairs
from rscc_hf.inference.run import caption_to_file, skipped_path
from rscc_hf.locks import exclusive

WriteImage = Callable[..., Path]


@pytest.fixture
def captioner(tiny_checkpoints: dict[str, Path]) -> ChangeCaptioner:
    return ChangeCaptioner.from_pretrained(tiny_checkpoints["optional"], device="cpu")


def unloaded() -> ChangeCaptioner:
    raise AssertionError("the model is loaded although the output is refused")


@pytest.fixture
def folder(tmp_path: Path, write_image: WriteImage) -> Path:
    """Pairs with maps and, in it, a list of them that is a file of captions too."""
    place = tmp_path / "p"
    for k, date in enumerate(("A", "B", "sem/A", "sem/B")):
        for n in range(2):
            write_image(place / date / f"{n}.png", seed=10 * k + n)
    row = {"pair_id": "0", "prediction": "x", "before": "A/0.png", "after": "B/0.png"}
    (place / "list.jsonl").write_text(json.dumps(row) + "\n")
    return place


IMAGES = ("A/0.png", "B/0.png", "sem/A/0.png", "sem/B/0.png")
INPUTS = [(".", name) for name in IMAGES] + [("list.jsonl", name) for name in (*IMAGES, "list.jsonl")]


@pytest.mark.parametrize(("source", "name"), INPUTS)
@pytest.mark.parametrize("way", ["name", "link", "hard link"])
def test_an_output_that_is_an_input_is_refused(folder, tmp_path, name, source, way) -> None:
    if source == "list.jsonl":
        row = {"before": "A/0.png", "after": "B/0.png", "semantic_before": "sem/A/0.png", "pair_id": "0"}
        row |= {"semantic_after": "sem/B/0.png", "prediction": "x"}
        (folder / "list.jsonl").write_text(json.dumps(row) + "\n")
    output = folder / name
    if way != "name":
        output = tmp_path / "elsewhere.jsonl"
        (output.symlink_to if way == "link" else output.hardlink_to)(folder / name)
    bytes_before = (folder / name).read_bytes()
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="input"):
            caption_to_file(unloaded, read_pairs(folder / source), output, overwrite=overwrite)
    assert (folder / name).read_bytes() == bytes_before


def test_an_output_among_the_images_is_refused_and_beside_them_fine(captioner, folder) -> None:
    with pytest.raises(ValueError, match=r"new\.jsonl lies in the input .*A, which would be changed"):
        caption_to_file(unloaded, read_pairs(folder), folder / "A" / "new.jsonl")
    assert caption_to_file(captioner, read_pairs(folder), folder / "out.jsonl").written == 2
    assert caption_to_file(captioner, read_pairs(folder / "list.jsonl"), folder / "list.out.jsonl").written == 1


def test_the_list_of_skipped_pairs_is_no_input_either(folder, tmp_path) -> None:
    output = folder / "list.jsonl"
    (folder / "list.skipped.jsonl").write_text(output.read_text())
    with pytest.raises(ValueError, match=r"list\.skipped\.jsonl is an input"):
        caption_to_file(unloaded, read_pairs(folder / "list.skipped.jsonl"), folder / "list.jsonl", overwrite=True)


@pytest.mark.parametrize(
    "content", [b"some notes\n", b'{"uid": 1}\n', b"[1]\n", b"\x89PNG\r\n", b"notes without an end", b"\0\0"]
)
def test_overwriting_replaces_captions_only(captioner, folder, tmp_path, content) -> None:
    output = tmp_path / "out.jsonl"
    for path in (output, skipped_path(output)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{path.name} exists and is no .*, so it is not replaced"):
            caption_to_file(unloaded, read_pairs(folder), output, overwrite=True)
        assert path.read_bytes() == content
        path.unlink()


def test_the_files_of_a_model_are_not_replaced(tiny_checkpoints, folder) -> None:
    for path in tiny_checkpoints["optional"].iterdir():
        content = path.read_bytes()
        with pytest.raises(ValueError, match="is no file of captions, so it is not replaced"):
            caption_to_file(unloaded, read_pairs(folder), path, overwrite=True)
        assert path.read_bytes() == content


@pytest.mark.parametrize(
    "content", [b"", b'{"pair_id": "0", "predic', b'{"pair_', b'{"pair_id": 1, "prediction": ""}\n']
)
def test_captions_and_their_beginnings_are_replaced(captioner, folder, tmp_path, content) -> None:
    output = tmp_path / "out.jsonl"
    output.write_bytes(content)
    assert caption_to_file(captioner, read_pairs(folder), output, overwrite=True).written == 2
    assert len(output.read_text().splitlines()) == 2


def test_what_was_there_stays_until_there_is_something_new(captioner, folder, tmp_path, monkeypatch) -> None:
    output = tmp_path / "out.jsonl"
    caption_to_file(captioner, read_pairs(folder), output)
    done = output.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(ChangeCaptioner, "caption", lambda *_, **__: iter([1 / 0]))
        with pytest.raises(ZeroDivisionError):
            caption_to_file(captioner, read_pairs(folder), output, overwrite=True)
    assert output.read_bytes() == done
    for path in folder.glob("B/*.png"):
        path.write_bytes(b"")
    assert caption_to_file(captioner, read_pairs(folder), output, overwrite=True, on_error="skip").written == 0
    assert output.read_bytes() == b"", "old captions are not left to look like new ones"


@pytest.mark.skipif(not hasattr(os, "truncate"), reason="needs truncation by name")
def test_lines_that_do_not_fit_on_the_disk_are_not_half_written(captioner, folder, tmp_path, monkeypatch) -> None:
    output = tmp_path / "out.jsonl"
    caption_to_file(captioner, read_pairs(folder), output)
    whole = output.read_bytes()
    first = whole.splitlines(keepends=True)[0]
    output.write_bytes(first)
    fsync, calls = os.fsync, []

    def full(number: int) -> None:
        calls.append(number)
        if len(calls) == 2:  # the first one is before any caption
            raise OSError(28, "No space left on device")
        fsync(number)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left on device") as error:
            caption_to_file(captioner, read_pairs(folder), output)
    assert error.value.filename == str(output)
    assert output.read_bytes() == first
    assert caption_to_file(captioner, read_pairs(folder), output).written == 1
    assert output.read_bytes() == whole


def test_a_second_run_is_refused_before_it_does_anything(captioner, folder, tmp_path) -> None:
    output = tmp_path / "out.jsonl"
    with exclusive(output), pytest.raises(ValueError, match=r"out\.jsonl is being written by another run"):
        caption_to_file(unloaded, read_pairs(folder), output)
    assert not output.exists()
    assert caption_to_file(captioner, read_pairs(folder), output).written == 2
    assert {path.name for path in tmp_path.iterdir()} == {"p", "out.jsonl"}


def test_an_output_that_is_no_ordinary_file_is_refused(folder, tmp_path) -> None:
    with pytest.raises(ValueError, match="is a folder"):
        caption_to_file(unloaded, read_pairs(folder), tmp_path)
    if os.name == "posix":
        with pytest.raises(ValueError, match="is no ordinary file"):
            caption_to_file(unloaded, read_pairs(folder), "/dev/null")


def test_a_link_to_an_output_stays_a_link(captioner, folder, tmp_path) -> None:
    link = tmp_path / "link.jsonl"
    link.symlink_to("real.jsonl")
    for overwrite in (False, True):
        assert caption_to_file(captioner, read_pairs(folder), link, overwrite=overwrite).written == 2
    assert link.is_symlink() and len((tmp_path / "real.jsonl").read_text().splitlines()) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_not_utf8_are_captioned_and_skipped_like_others(captioner, tmp_path, write_image) -> None:
    for k, date in enumerate("AB"):
        for n, name in enumerate((b"a.png", b"caf\xe9.png", b"\xff.png")):
            image = write_image(tmp_path / "x.png", seed=10 * k + n)
            (tmp_path / "p" / date).mkdir(parents=True, exist_ok=True)
            image.rename(Path(os.fsdecode(os.fsencode(tmp_path / "p" / date) + b"/" + name)))
    Path(os.fsdecode(os.fsencode(tmp_path / "p" / "B") + b"/\xff.png")).write_bytes(b"broken")
    output = tmp_path / "out.jsonl"
    for already in (0, 2):
        summary = caption_to_file(captioner, read_pairs(tmp_path / "p"), output, on_error="skip")
        assert (summary.already, len(summary.skipped)) == (already, 1)

    def rows(path: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in path.read_bytes().decode("utf-8").splitlines()]

    assert [row["pair_id"] for row in rows(output)] == ["a", r"caf\xe9"]
    assert rows(output)[1]["before"] == r"A/caf\xe9.png"
    (skipped,) = rows(skipped_path(output))
    assert skipped["pair_id"] == r"\xff" and r"B/\xff.png" in skipped["error"]


def test_maps_for_a_model_without_are_refused_with_a_way_out(tiny_checkpoints, folder, tmp_path) -> None:
    captioner = ChangeCaptioner.from_pretrained(tiny_checkpoints["none"], device="cpu")
    with pytest.raises(ValueError, match=r"takes no semantic maps.*--without-maps"):
        caption_to_file(captioner, read_pairs(folder), tmp_path / "out.jsonl")
    assert caption_to_file(captioner, read_pairs(folder), tmp_path / "out.jsonl", with_maps=False).written == 2
