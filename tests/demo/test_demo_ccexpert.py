"""CCExpert's demo as a whole, on few pairs and steps: stages, table, page, and the model that it leaves."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from toys.page_reading import Page
from transformers import AutoConfig

from rscc_hf import CCExpertForConditionalGeneration, ChangeCaptioner
from rscc_hf.demo.answers import SCORED
from rscc_hf.demo.common import DEMO, DemoResult
from rscc_hf.demo.gallery_ccexpert import heat_map
from rscc_hf.demo.onevision import SmallOneVision, make_tokenizer, write_new, write_trained
from rscc_hf.demo.run_ccexpert import run_ccexpert
from rscc_hf.files import check_replaceable

SIZES = SmallOneVision(
    image_size=32, patch_size=8, vision_width=16, vision_layers=4, text_width=32, text_layers=1, vocab_size=300
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> DemoResult:
    out = tmp_path_factory.mktemp("demo") / "out"
    overrides = {
        "max_epochs": 1,
        "global_batch_size": 8,
        "per_device_batch_size": 8,
        "logging_steps": 1,
        "torch_threads": 1,
    }
    console = Console(file=io.StringIO(), width=100)
    return run_ccexpert(out, seed=3, pairs=50, console=console, sizes=SIZES, recipe_overrides=overrides)


def test_stage_0_is_a_llava_onevision_that_ccexpert_took_in(demo):
    stages = demo.report.parent / "stages"
    assert AutoConfig.from_pretrained(stages / "onevision").model_type == "llava_onevision"
    before = CCExpertForConditionalGeneration.from_pretrained(stages / "stage0").state_dict()
    after = CCExpertForConditionalGeneration.from_llava_onevision(
        stages / "onevision", vision_levels=[1, 2, 3, 4]
    ).state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {name.split(".")[0] for name in set(after) - set(before)} == {"integration"}


def test_the_table_has_a_row_of_each_stage(demo):
    names = [row.name for row in demo.rows]
    assert names[: len(SCORED)] == [title for _, title in SCORED]
    assert [row.ours for row in demo.rows] == [True] + [False] * (len(names) - 1)
    results = json.loads((demo.report.parent / "results.json").read_text())
    assert [row["name"] for row in results["rows"]] == names


def test_the_page_shows_gates_heat_maps_and_what_was_added_to_the_paper(demo):
    page = Page(demo.report.read_text(encoding="utf-8"))
    assert page.sources
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in page.sources)
    text = " ".join(page.words)
    for said in ("change features on before", "change features on after", "level 2", "level 4", "change-mask loss"):
        assert said in text


def test_the_model_answers_through_the_captioner(demo):
    captioner = ChangeCaptioner.from_pretrained(demo.model)
    assert captioner.trained_on == "synthetic"
    images = [Image.fromarray(np.full((64, 64, 3), value, np.uint8)) for value in (90, 160)]
    assert isinstance(captioner(*images), str)


def test_a_heat_map_colours_what_changed_and_greys_the_rest():
    image = Image.fromarray(np.full((40, 40, 3), (200, 40, 40), np.uint8))
    strength = np.zeros((4, 4))
    strength[0, 0] = 1
    shown = np.asarray(heat_map(image, strength)).astype(int)
    assert np.ptp(shown[30, 30]) == 0
    assert np.ptp(shown[4, 4]) > 60


def test_weights_of_another_size_are_not_written_back(tmp_path):
    tokenizer = make_tokenizer(["a house appears"], 300)
    write_new(tmp_path / "small", tokenizer, SIZES, 0)
    write_new(tmp_path / "large", tokenizer, SmallOneVision(image_size=32, patch_size=8, vision_width=24), 0)
    other = CCExpertForConditionalGeneration.from_llava_onevision(
        tmp_path / "large", integration=False, vision_levels=[4]
    )
    with pytest.raises(ValueError, match="different sizes"):
        write_trained(tmp_path / "out", tmp_path / "small", other, tokenizer)


def test_it_leaves_nothing_that_it_would_not_replace(demo):
    assert DEMO.foreign(demo.report.parent) == []
    check_replaceable(demo.report.parent, DEMO, overwrite=True)
    assert not list(demo.report.parent.parent.glob(".*")), "nothing stays beside it"
