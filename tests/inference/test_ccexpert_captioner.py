"""A CCExpert checkpoint through the front door: captions, questions, batches, and a Python without the package."""

import json
import os
import shutil
import sys

import pytest
import torch
import watched
from toys.ccexpert import save_tiny_ccexpert
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

from rscc_hf import CCExpertForConditionalGeneration, CCExpertProcessor, ChangeCaptioner

ALONE = """
import json, sys
sys.modules["rscc_hf"] = None  # any import of it fails
import transformers
from transformers import AutoProcessor
folder, auto_class, *images = sys.argv[1:]
model = getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
inputs = processor(images=[images], return_tensors="pt")
print(json.dumps(processor.batch_decode(model.generate(**inputs, max_new_tokens=8), skip_special_tokens=True)))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny_ccexpert(tmp_path_factory.mktemp("ccexpert") / "tiny")


@pytest.fixture
def images(tmp_path, write_image):
    return [str(write_image(tmp_path / f"{seed}.png", seed)) for seed in range(6)]


def expected(folder, pairs, **call):
    """The four lines of the README, a pair at a time."""
    model = AutoModel.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    assert type(model) is CCExpertForConditionalGeneration and type(processor) is CCExpertProcessor
    answers = []
    for pair in pairs:
        inputs = processor(images=[pair], return_tensors="pt", **call)
        generated = model.generate(**inputs, max_new_tokens=8)
        assert torch.equal(generated[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])  # transformers' contract
        answers += [text.strip() for text in processor.batch_decode(generated, skip_special_tokens=True)]
    return answers


def test_captions_of_files_in_batches(checkpoint, images):
    captioner = ChangeCaptioner.from_pretrained(checkpoint)
    pairs = list(zip(images[:3], images[3:], strict=True))
    captions = captioner(images[:3], images[3:], batch_size=2, max_new_tokens=8)
    assert captions == expected(checkpoint, pairs)
    assert len(set(captions)) > 1  # or nothing is shown
    assert captioner(images[0], images[3], max_new_tokens=8) == captions[0]
    assert not any("Image1" in caption for caption in captions)


def test_questions(checkpoint, images, tiny_checkpoints):
    captioner = ChangeCaptioner.from_pretrained(checkpoint)
    question = "how many houses are there?"
    answer = captioner(images[0], images[1], text=question, max_new_tokens=8)
    assert [answer] == expected(checkpoint, [images[:2]], text=question)
    assert answer != captioner(images[0], images[1], max_new_tokens=8)
    with pytest.raises(ValueError, match="answers no questions"):
        ChangeCaptioner.from_pretrained(tiny_checkpoints["none"])(images[0], images[1], text=question)


def test_it_takes_no_maps_and_skips_what_it_cannot_read(checkpoint, images):
    captioner = ChangeCaptioner.from_pretrained(checkpoint)
    assert captioner.semantic_maps == "none"
    with pytest.raises(ValueError, match="takes no semantic maps"):
        captioner(images[0], images[1], images[2], images[3])
    good, bad = captioner([images[0], "gone.png"], images[1:3], on_error="skip", max_new_tokens=4)
    assert good.caption is not None and good.error is None
    assert bad.caption is None and "gone.png does not exist" in bad.error


@pytest.mark.parametrize("auto_class", ["AutoModel", "AutoModelForImageTextToText"])
def test_a_copied_folder_answers_where_the_package_is_missing(checkpoint, images, tmp_path, auto_class):
    folder = shutil.copytree(checkpoint, tmp_path / "elsewhere")
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = watched.run(
        [sys.executable, "-c", ALONE, str(folder), auto_class, *images[:2]],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [text.strip() for text in json.loads(done.stdout.splitlines()[-1])] == expected(checkpoint, [images[:2]])
    assert type(AutoModelForImageTextToText.from_pretrained(checkpoint)) is CCExpertForConditionalGeneration
