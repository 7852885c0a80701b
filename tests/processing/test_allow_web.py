"""Images from the web at every way in: refused unasked, the same captions as from files where they are asked for."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from toys.ccexpert import save_tiny_ccexpert
from toys.https_site import NAME, https_site, send
from transformers import AutoImageProcessor, AutoProcessor

from rscc_hf import MModalCCProcessor
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
    with pytest.raises(ValueError, match="allow_web is 'true': give True or False"):
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
