"""The four lines of the README: a saved folder, copied away, with and without the package."""

import json
import os
import shutil
import sys

import pytest
import watched
from transformers import AutoModel, AutoProcessor

from rscc_hf import MModalCCForConditionalGeneration, MModalCCProcessor

ALONE = """
import json, sys
sys.modules["rscc_hf"] = None  # any import of it fails
import transformers
from transformers import AutoProcessor
folder, auto_class, *images = sys.argv[1:]
model = getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
inputs = processor(images=[images[:2]], semantic_maps=[images[2:]], return_tensors="pt")
print(json.dumps(processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)))
"""


@pytest.fixture
def images(tmp_path, write_image):
    return [str(write_image(tmp_path / f"{name}.png", seed)) for seed, name in enumerate(("b", "a", "sb", "sa"))]


def expected(folder, images):
    model = AutoModel.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    assert type(model) is MModalCCForConditionalGeneration
    assert type(processor) is MModalCCProcessor
    inputs = processor(images=[images[:2]], semantic_maps=[images[2:]], return_tensors="pt")
    return processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)


@pytest.mark.parametrize("auto_class", ["AutoModel", "AutoModelForImageTextToText"])
def test_a_copied_folder_answers_where_the_package_is_missing(tiny_checkpoints, images, tmp_path, auto_class):
    folder = shutil.copytree(tiny_checkpoints["optional"], tmp_path / "elsewhere")
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = watched.run(
        [sys.executable, "-c", ALONE, str(folder), auto_class, *images],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == expected(tiny_checkpoints["optional"], images)
