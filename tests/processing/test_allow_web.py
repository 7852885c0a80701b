"""Images from the web at every way in: refused unasked, the same captions as from files where they are asked for."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Features
from toys.ccexpert import save_tiny_ccexpert
from toys.https_site import NAME, https_site, send
from transformers import AutoProcessor, pipeline

# transformers before 5.18 hides this class at its top level where torchvision is absent, though it needs none
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from typer.testing import CliRunner

from rscc_hf import ChangeCaptioner, MModalCCProcessor
from rscc_hf.commands.app import app
from rscc_hf.data.lists.sources import read_dataset_pairs, read_pairs
from rscc_hf.data.schema import FEATURES
from rscc_hf.errors import InputError
from rscc_hf.inference.run import caption_to_file
from rscc_hf.pair import Pair
from rscc_hf.processing import change_pair_web
from rscc_hf.processing.change_pair_images import PairError
from training.systems.pairs.pixels import PixelReader

REFUSED = r"https://images.test:\d+/[ab].png\?\.\.\. is an address on the web, .* give allow_web=True"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with https_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def files(tmp_path, write_image):
    return [str(write_image(tmp_path / f"{name}.png", seed)) for seed, name in enumerate("ab")]


@pytest.fixture
def addresses(running, files, monkeypatch):
    """Addresses of the two files on a site that counts as public, with a secret in each."""
    running.asked.clear()
    running.answers |= {f"/{Path(path).name}": send(Path(path).read_bytes()) for path in files}
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    known = {"resolver": {NAME: ["127.0.0.1"]}.__getitem__, "allowed": lambda place: place == "127.0.0.1"}
    trusted = partial(change_pair_web.fetch, port=running.port, context=running.trust, **known)
    monkeypatch.setattr(change_pair_web, "fetch", trusted)
    return [running.address(f"/{Path(path).name}?key=secret") for path in files]


@pytest.fixture(scope="module")
def processors(tiny_checkpoints, tmp_path_factory):
    folders = {
        "mmodalcc": tiny_checkpoints["none"],
        "ccexpert": save_tiny_ccexpert(tmp_path_factory.mktemp("ccexpert")),
    }
    return {name: AutoProcessor.from_pretrained(folder) for name, folder in folders.items()}


@pytest.mark.parametrize("name", ["mmodalcc", "ccexpert"])
def test_processors(processors, running, files, addresses, name):
    processor = processors[name]
    expected = processor(images=[files], return_tensors="pt")["pixel_values"]
    given = {"bytes": None, "path": addresses[0]}, addresses[1]
    for call in (processor, processor.image_processor):
        for settings in ({}, {"allow_web": False}):
            with pytest.raises(PairError, match=REFUSED):
                call(images=[addresses], return_tensors="pt", **settings)
        assert running.asked == []
        read = call(images=[given], return_tensors="pt", return_notes=True, allow_web=True)
        assert torch.equal(read["pixel_values"], expected) and read["notes"] == []
        assert len(running.asked) == 2
        running.asked.clear()
    with pytest.raises(ValueError, match="allow_web is 'true'; give True or False"):
        processor(images=[addresses], allow_web="true")


def test_semantic_maps(tiny_checkpoints, running, files, addresses):
    processor = MModalCCProcessor.from_pretrained(tiny_checkpoints["optional"])
    with pytest.raises(PairError, match=f"Pair 0: semantic map before {REFUSED}"):
        processor(images=[files], semantic_maps=[addresses])
    read = processor(images=[files], semantic_maps=[addresses], allow_web=True)
    assert torch.equal(read["semantic_values"], processor(images=[files], semantic_maps=[files])["semantic_values"])


def test_conversations_are_not_read_by_transformers(processors, running, files, addresses):
    processor = processors["ccexpert"]

    def asked(images, key="image", **settings):
        parts = [{"type": "image", key: image} for image in images]
        talk = [{"role": "user", "content": [*parts, {"type": "text", "text": "what changed?"}]}]
        return processor.apply_chat_template(talk, tokenize=True, return_dict=True, **settings)

    for key in ("image", "url"):
        with pytest.raises(PairError, match=REFUSED):
            asked(addresses, key)
        expected = asked(files)
        for settings in ({"allow_web": True}, {"processor_kwargs": {"allow_web": True}}):
            read = asked(addresses, key, **settings)
            assert all(torch.equal(read[name], expected[name]) for name in expected)
    assert len(running.asked) == 2 * 2 * 2


@pytest.mark.parametrize("name", ["mmodalcc", "ccexpert"])
def test_no_file_of_a_checkpoint_can_ask_for_it(processors, running, addresses, tmp_path, name):
    processors[name].save_pretrained(tmp_path)
    written = sorted(tmp_path.glob("*config.json"))
    assert "processor_config.json" in [path.name for path in written]
    assert not any("allow_web" in path.read_text(encoding="utf-8") for path in written)
    for path in written:
        content = json.loads(path.read_text(encoding="utf-8"))
        for settings in (content, content.get("image_processor", {})):
            settings["allow_web"] = True
        path.write_text(json.dumps(content), encoding="utf-8")
    processor = AutoProcessor.from_pretrained(tmp_path)
    for call in (processor, processor.image_processor, AutoImageProcessor.from_pretrained(tmp_path)):
        with pytest.raises(PairError, match=REFUSED):
            call(images=[addresses])
    assert running.asked == []


def test_rows_of_training(processors, files, addresses, running):
    mask = {"bytes": Path(files[0]).read_bytes(), "path": None}
    row = {"pair_id": "p", "image_before": files[0], "image_after": files[1], "change_mask": mask}
    reader = PixelReader(processors["mmodalcc"].image_processor, False, False, "data", masks=True)
    chained = f"zip://a.png::{addresses[0]}"
    for name, address, words in (
        ("image_before", addresses[0], f"Pair 'p': image before {REFUSED}"),
        ("image_after", chained, r"Pair 'p': image after .* is an address \(zip://\)"),
        ("change_mask", addresses[0], f"data: pair 'p': change_mask {REFUSED}"),
        ("change_mask", "http://images.test/a.png", "change_mask http://images.test/a.png is an http address"),
    ):
        with pytest.raises(ValueError, match=words):
            reader.read([row | {name: {"bytes": None, "path": address}}])
    assert running.asked == []
    assert np.asarray(reader.read([row]).images).shape == (1, 2, 3, 32, 32)


@pytest.fixture
def captioner(tiny_checkpoints):
    return ChangeCaptioner.from_pretrained(tiny_checkpoints["none"], device="cpu")


def test_the_captioner(captioner, running, files, addresses):
    expected = captioner(*files)
    for given in (addresses, [[address] for address in addresses]):
        with pytest.raises(InputError, match=REFUSED):
            captioner(*given)
    told = captioner(*addresses, on_error="skip")
    assert told.text is None and "allow_web=True" in told.error and "secret" not in told.error
    with pytest.raises(ValueError, match="allow_web is 'on'; give True or False"):
        captioner(*addresses, allow_web="on")
    assert running.asked == []
    assert captioner(*addresses, allow_web=True) == expected
    (caption,) = captioner.caption([Pair("p", *addresses)], allow_web=True)
    assert caption.text == expected and caption.notes == ()
    gone = captioner(f"{addresses[0]}/gone", addresses[1], allow_web=True, on_error="skip")
    assert gone.text == expected  # what stands behind the question mark is the site's
    running.answers.clear()
    gone = captioner(*addresses, allow_web=True, on_error="skip")
    assert "cannot be fetched (status 404 Not Found)" in gone.error and "secret" not in gone.error


def test_the_pipeline(tiny_checkpoints, running, files, addresses):
    captioner = pipeline("change-captioning", model=str(tiny_checkpoints["optional"]))
    expected, with_maps = captioner(tuple(files)), captioner(tuple(files), semantic_maps=tuple(files))
    row = {"image_before": addresses[0], "image_after": {"bytes": None, "path": addresses[1]}}
    for given in (tuple(addresses), row, [row], [tuple(addresses)]):
        for settings in ({}, {"allow_web": False}, {"timeout": 5}):
            with pytest.raises(PairError, match=REFUSED):
                captioner(given, **settings)
    with pytest.raises(PairError, match=f"semantic map before {REFUSED}"):
        captioner(tuple(files), semantic_maps=tuple(addresses))
    with pytest.raises(PairError, match="is an http address"):
        captioner(("http://images.test/a.png", files[1]), allow_web=True)
    assert running.asked == []
    assert captioner(row, allow_web=True, timeout=20) == expected
    asking = pipeline("change-captioning", model=str(tiny_checkpoints["optional"]), allow_web=True)
    assert asking([tuple(addresses)]) == [expected]
    assert asking(tuple(files), semantic_maps=tuple(addresses)) == with_maps
    assert list(asking(iter([row]))) == [expected]
    with pytest.raises(PairError, match=REFUSED):
        asking(row, allow_web=False)


@pytest.fixture
def listed(tmp_path, addresses):
    """A list of two pairs, of which one is on the web."""
    rows = [
        {"before": addresses[0], "after": f" {addresses[1]}"},
        {"before": "a.png", "after": "b.png", "pair_id": "c"},
    ]
    path = tmp_path / "list.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_lists_and_runs(captioner, running, listed, files, tmp_path, write_image):
    pairs = read_pairs(listed)
    output = tmp_path / "out.jsonl"
    with pytest.raises(InputError, match=REFUSED):
        caption_to_file(captioner, pairs, output)
    assert caption_to_file(captioner, pairs, output, on_error="skip").written == 1
    (skipped,) = lines_of(tmp_path / "out.skipped.jsonl")
    assert running.asked == [] and "allow_web=True" in skipped["error"]
    done = caption_to_file(captioner, pairs, output, allow_web=True)
    assert (done.written, done.already) == (1, 1) and len(running.asked) == 2  # each once, for digest and caption
    assert not (tmp_path / "out.skipped.jsonl").exists()
    here, there = lines_of(output)
    assert there["prediction"] == here["prediction"] == captioner(*files) and there["inputs"] == here["inputs"]
    assert there["pair_id"] == "a__b" and there["after"].endswith("/b.png?...")
    assert "secret" not in output.read_text(encoding="utf-8") + json.dumps(skipped)
    assert caption_to_file(captioner, pairs, output, allow_web=True).already == 2
    with pytest.raises(InputError, match=REFUSED):  # nothing tells whether it is the same image still
        caption_to_file(captioner, pairs, output)
    running.answers["/a.png"] = send(write_image(tmp_path / "new.png", seed=7).read_bytes())
    with pytest.raises(ValueError, match="pair 'a__b' was captioned with another image before"):
        caption_to_file(captioner, pairs, output, allow_web=True)
    running.answers.clear()
    with pytest.raises(InputError, match=r"line 2 is finished, but .*404.*; keep it .*--on-error skip.*--overwrite"):
        caption_to_file(captioner, pairs, output, allow_web=True)
    kept = caption_to_file(captioner, pairs, output, allow_web=True, on_error="skip")
    ((name, reason),) = kept.unchecked
    assert (kept.written, kept.already, kept.skipped, name) == (0, 2, (), "a__b") and "404" in reason
    assert lines_of(output) == [here, there]
    with pytest.raises(InputError, match="written with other settings"):  # what needs no image is compared still
        caption_to_file(captioner, pairs, output, allow_web=True, on_error="skip", num_beams=2)
    output.unlink()
    assert caption_to_file(captioner, pairs, output, allow_web=True, on_error="skip").skipped[0][0] == "a__b"


def test_pairs_are_skipped_in_their_order(captioner, running, listed, files, tmp_path):
    Path(files[0]).write_bytes(b"no image")
    listed.write_text("".join(listed.read_text(encoding="utf-8").splitlines(keepends=True)[::-1]), encoding="utf-8")
    running.answers.clear()
    run = caption_to_file(captioner, read_pairs(listed), tmp_path / "out.jsonl", allow_web=True, on_error="skip")
    assert [name for name, _ in run.skipped] == ["c", "a__b"]
    assert [(row["pair_id"], row["before"][-9:]) for row in lines_of(run.skipped_file)] == [
        ("c", "a.png"), ("a__b", "a.png?..."),
    ]  # fmt: skip


def test_data_sets(captioner, running, files, addresses, tmp_path):
    images = [{"bytes": None, "path": name} for name in addresses]
    row = {"pair_id": "p", "image_before": images[0], "image_after": images[1], "captions": ["a house"]}
    row |= {"changed": True, "source": "toy"}
    folder = tmp_path / "data"
    folder.mkdir()
    schema = Features({name: FEATURES[name] for name in row}).arrow_schema
    pq.write_table(pa.Table.from_pylist([row], schema=schema), folder / "test.parquet")
    pairs = read_dataset_pairs(folder, "test")
    with pytest.raises(InputError, match=REFUSED):
        caption_to_file(captioner, pairs, tmp_path / "out.jsonl")
    assert running.asked == []
    caption_to_file(captioner, pairs, tmp_path / "out.jsonl", allow_web=True)
    (line,) = lines_of(tmp_path / "out.jsonl")
    assert line["prediction"] == captioner(*files) and line["before"].endswith("/a.png?...")


@pytest.mark.parametrize("name", ["semantic_before", "change_mask"])
def test_maps_restricted_to_changes(tiny_checkpoints, running, files, addresses, tmp_path, name):
    folder, columns = tmp_path / "data", ("image_before", "image_after", "semantic_before", "semantic_after")
    folder.mkdir()
    row = {column: {"bytes": Path(files[0]).read_bytes(), "path": None} for column in (*columns, "change_mask")}
    row |= {"pair_id": "p", "captions": ["a house"], "changed": True, "source": "toy"}
    row[name] = {"bytes": None, "path": addresses[0]}
    pq.write_table(pa.Table.from_pylist([row], schema=FEATURES.arrow_schema), folder / "test.parquet")
    asked = ["--split", "test", "--semantic-coverage", "changed", "--output", str(tmp_path / "out.jsonl")]
    asked += ["--model", str(tiny_checkpoints["optional"])]
    result = CliRunner().invoke(app, ["caption", "--pairs", str(folder), *asked], terminal_width=80)
    assert result.exit_code == 1 and running.asked == [] and "secret" not in result.stderr
    assert "is an address on the web" in result.stderr and "Traceback" not in result.stderr


def test_the_command(tiny_checkpoints, captioner, running, listed, files, addresses, tmp_path):
    model = ("--model", str(tiny_checkpoints["none"]))

    def run(*arguments):
        return CliRunner().invoke(app, ["caption", *map(str, arguments), *model], terminal_width=80)

    many = ("--pairs", listed, "--output", tmp_path / "out.jsonl")
    for arguments in (addresses, many):
        result = run(*arguments)
        assert result.exit_code == 1 and result.stdout == "" and "secret" not in result.stderr
        assert "is an address on the web" in result.stderr and "--allow-web" in result.stderr
    assert running.asked == []
    result = run(*addresses, "--allow-web")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{captioner(*files)}\n", "")
    result = run(*many, "--allow-web")
    assert result.exit_code == 0 and "2 captions written" in result.stderr
    running.answers.clear()
    result = run(*many, "--allow-web", "--on-error", "skip")
    assert result.exit_code == 0 and "1 caption of an earlier run (a__b) kept" in result.stderr
    result = run(*many, "--allow-web")
    assert result.exit_code == 1 and "--on-error skip" in result.stderr and "Traceback" not in result.stderr
