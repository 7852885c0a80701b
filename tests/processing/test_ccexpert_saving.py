"""What CCExpert's processor leaves in a folder, and who can read it."""

import json
import os
import sys

import numpy as np
import pytest
import watched
from toys.word_tokenizers import chatml_tokenizer, vicuna_tokenizer
from transformers import AutoProcessor, AutoTokenizer

import rscc_hf  # noqa: F401 (registers the classes)
from rscc_hf.processing.chat_templates_ccexpert import RELEASE_PROMPT, VICUNA_SYSTEM_MESSAGE, VICUNA_TEMPLATE
from rscc_hf.processing.image_processing_ccexpert import CCExpertImageProcessor
from rscc_hf.processing.processing_ccexpert import CCExpertProcessor

SETTINGS = {
    "prompt": RELEASE_PROMPT,
    "system_message": "Be brief.",
    "num_image_tokens": 4,
    "label_policy": "release",
}
FILES = {
    *("processing_ccexpert.py", "image_processing_ccexpert.py", "change_pair_reader.py", "change_pair_images.py"),
    *(
        "change_pair.py",
        "change_pair_files.py",
        "change_pair_values.py",
        "change_pair_web.py",
        "change_pair_writer.py",
    ),
    "image_processing_pairs.py",
    *("chat_templates_ccexpert.py", "prompt_writing_ccexpert.py", "token_rows_ccexpert.py"),
    "pipeline_change_captioning.py",
    *("tokenizer.json", "tokenizer_config.json", "processor_config.json", "chat_template.jinja"),
}
ALONE = """
import json, sys
sys.modules["rscc_hf"] = None  # any import of it fails
import numpy as np
from transformers import AutoProcessor
folder = sys.argv[1]
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert type(processor).__module__.startswith("transformers_modules"), type(processor)
pair = list(np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3), dtype=np.uint8))
batch = processor(images=[pair], captions=["two houses appear"], return_tensors="np")
for name, array in np.load(folder + "/expected.npz").items():
    assert np.array_equal(batch[name], array), name
assert processor.batch_decode(batch["input_ids"], skip_special_tokens=True) == ["two houses appear"]
try:
    processor(images=[[folder + "/gone.png", pair[0]]])
except ValueError as error:
    assert error.pair == 0 and error.file.endswith("gone.png")
else:
    raise AssertionError
processor.save_pretrained(folder + "/again")
print("fine")
"""


def pair():
    return list(np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3), dtype=np.uint8))


@pytest.fixture
def processor():
    return CCExpertProcessor(CCExpertImageProcessor(size={"height": 28, "width": 28}), chatml_tokenizer(), **SETTINGS)


def test_a_folder_is_read_where_the_package_is_missing(processor, tmp_path):
    folder = tmp_path / "saved"
    processor.save_pretrained(folder)
    assert {path.name for path in folder.iterdir()} == FILES
    np.savez(folder / "expected.npz", **processor(images=[pair()], captions="two houses appear", return_tensors="np"))
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = watched.run(
        [sys.executable, "-c", ALONE, str(folder)],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.stdout.endswith("fine\n"), done.stderr
    assert {path.name for path in (folder / "again").iterdir()} == FILES


def test_installed_classes_need_no_trust(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    for trust in (None, True):
        loaded = AutoProcessor.from_pretrained(tmp_path, trust_remote_code=trust)
        assert type(loaded) is CCExpertProcessor and type(loaded.image_processor) is CCExpertImageProcessor
        assert {name: getattr(loaded, name) for name in SETTINGS} == SETTINGS
        assert loaded.chat_template == processor.chat_template
        assert loaded.image_processor.to_dict() == processor.image_processor.to_dict()
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert {name: saved[name] for name in SETTINGS} == SETTINGS


def test_settings_can_be_changed_while_loading(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = CCExpertProcessor.from_pretrained(tmp_path, system_message=None, label_policy="assistant")
    assert loaded.system_message is None and loaded.label_policy == "assistant" and loaded.prompt == RELEASE_PROMPT


def test_vicunas_template_is_saved(tmp_path):
    processor = CCExpertProcessor(
        CCExpertImageProcessor(), vicuna_tokenizer(), num_image_tokens=4, system_message=VICUNA_SYSTEM_MESSAGE
    )
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == VICUNA_TEMPLATE
    loaded = CCExpertProcessor.from_pretrained(tmp_path)
    expected = processor(images=[pair()], captions="two houses", return_tensors="np")
    batch = loaded(images=[pair()], captions="two houses", return_tensors="np")
    assert all(np.array_equal(batch[name], expected[name]) for name in expected)


def test_the_tokenizer_of_another_template_gives_way_to_ours(tmp_path):
    """LLaVA-OneVision's own template, which puts images first, must not come back with its tokenizer."""
    tokenizer = chatml_tokenizer()
    tokenizer.chat_template = "{{ 'images first' }}"
    processor = CCExpertProcessor(CCExpertImageProcessor(), tokenizer, num_image_tokens=4)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert loaded.chat_template == processor.chat_template != tokenizer.chat_template
    ids = loaded(text="what?", return_tensors=None)["input_ids"]
    assert ids == processor(text="what?", return_tensors=None)["input_ids"]


def test_the_tokenizer_alone_needs_no_trust(processor, tmp_path):
    processor.tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == processor.tokenizer.get_vocab() and loaded.eos_token == "<|im_end|>"
