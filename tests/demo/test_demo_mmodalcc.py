"""The demo as a whole, on few pairs and steps: its files, its table, its page, and what it refuses."""

import io
import json

import pytest
from rich.console import Console
from toys.page_reading import Page

from rscc_hf import ChangeCaptioner
from rscc_hf.demo.answers import CONDITIONS, content_shares
from rscc_hf.demo.common import DEMO, DemoResult, score_tables
from rscc_hf.demo.run_mmodalcc import run_mmodalcc
from rscc_hf.files import check_replaceable

EVENT = {
    "kind": "appear",
    "object": "house",
    "replaced": None,
    "count": 3,
    "place": "top left",
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> DemoResult:
    out = tmp_path_factory.mktemp("demo") / "out"
    overrides = {
        "max_epochs": 2,
        "changed_coverage_epochs": 1,
        "global_batch_size": 8,
        "per_device_batch_size": 8,
        "logging_steps": 1,
        "torch_threads": 1,
    }
    console = Console(file=io.StringIO(), width=100)
    return run_mmodalcc(out, seed=3, pairs=50, console=console, recipe_overrides=overrides)


def test_the_page_needs_no_other_file_and_shows_pairs_and_scores(demo):
    page = Page(demo.report.read_text(encoding="utf-8"))
    assert page.sources
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in page.sources)
    text = " ".join(page.words)
    first = json.loads((demo.report.parent / "predictions_maps.jsonl").read_text().splitlines()[0])
    assert first["pair_id"] in text
    assert first["references"][0] in text
    for row in demo.rows:
        assert row.name in text


def test_every_row_is_there_and_the_oracle_is_always_right(demo):
    rows = {row.name: row for row in demo.rows}
    assert len(rows) == len(CONDITIONS) + 3
    oracle = rows["oracle"]
    assert oracle.accuracy == {"changed": 100.0, "unchanged": 100.0}
    assert {key: oracle.content[key] for key in ("kind", "object", "place")} == dict.fromkeys(
        ("kind", "object", "place"), 100.0
    )
    constant = rows["best constant caption"]
    assert sorted(constant.accuracy.values()) == [0.0, 100.0]


def test_tables_fit_a_terminal_of_eighty_columns(demo):
    console = Console(file=io.StringIO(), width=80)
    for table in score_tables(demo.rows):
        console.print(table)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    assert any(demo.rows[0].name in line and f"{demo.rows[0].scores['s_m']:.1f}" in line for line in lines)


def test_the_model_answers_through_the_captioner(demo):
    captioner = ChangeCaptioner.from_pretrained(demo.model)
    assert captioner.trained_on == "synthetic"
    assert captioner.semantic_maps == "optional"


def test_an_earlier_demo_is_kept_unless_told_otherwise(demo):
    before = demo.report.read_bytes()
    with pytest.raises(ValueError, match="--overwrite"):
        run_mmodalcc(demo.report.parent, pairs=50)
    assert demo.report.read_bytes() == before


def test_a_folder_with_other_files_is_never_emptied(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"thesis\.tex"):
        run_mmodalcc(tmp_path, pairs=50, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_shares_count_what_is_stated():
    record = {"events": [EVENT]}
    right = "three houses are built in the top left corner"
    wrong = "three lakes are built in the bottom right corner"
    shares = content_shares([right, right, right, wrong], [record] * 4)
    assert shares["place"] == 75.0
    assert shares["object"] == 75.0


def test_it_leaves_nothing_that_it_would_not_replace(demo):
    assert DEMO.foreign(demo.report.parent) == []
    check_replaceable(demo.report.parent, DEMO, overwrite=True)
    assert not list(demo.report.parent.parent.glob(".*")), "nothing stays beside it"
