"""Names of files that the package leaves stand in `rscc_hf/formats` alone."""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import rscc_hf
from rscc_hf.formats.recipes import RECIPE
from rscc_hf.formats.records import AdapterBase, Conversion, Evaluation
from rscc_hf.formats.training import LogLine, TrainingSummary

NAMES = (RECIPE, *(kind.NAME for kind in (TrainingSummary, LogLine, Conversion, AdapterBase, Evaluation)))
PACKAGE = Path(rscc_hf.__file__).parent


def names_spelt(path: Path) -> Iterator[str]:
    """Yield texts of a module that name such a file, also as a pattern; prose (docstrings, sentences) may."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
            plain = re.sub(r"[\\()]", "", text)
            if any(name in plain for name in NAMES) and len(text.split()) == 1:
                yield f"{path.relative_to(PACKAGE).as_posix()}, line {node.lineno}: {text}"


def modules() -> list[Path]:
    """Return every module of the package, those of its linked folders too, which `rglob` would pass by."""
    found = (Path(folder) / name for folder, _, names in os.walk(PACKAGE, followlinks=True) for name in names)
    return sorted(path for path in found if path.suffix == ".py")


def test_no_other_module_spells_the_name_of_a_file_that_the_package_leaves() -> None:
    own = PACKAGE / "formats"
    assert [text for path in modules() if own not in path.parents for text in names_spelt(path)] == []


def test_it_looks_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {path.relative_to(PACKAGE).parts[0] for path in modules()}
    assert {"training", "modeling", "processing", "formats", "hub"} <= folders
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    (tmp_path / "spelt.py").write_text(
        'A = "results.jsonl"\nB = r"(config|training_summary)\\.json"\nC = "No recipe.yaml."'
    )
    assert [text.partition(": ")[0] for text in names_spelt(tmp_path / "spelt.py")] == [
        "spelt.py, line 1",
        "spelt.py, line 2",
    ]


def test_the_names_of_the_files_are_those_of_version_0_1() -> None:
    assert (
        *("recipe.yaml", "training_summary.json", "training_log.jsonl"),
        *("conversion.json", "adapter_base.json", "results.jsonl"),
    ) == NAMES
