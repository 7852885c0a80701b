"""Names of files that the package leaves stand in `rscc_hf/formats` alone."""

import ast
from collections.abc import Iterator
from pathlib import Path

import rscc_hf
from rscc_hf.formats.recipes import RECIPE
from rscc_hf.formats.records import AdapterBase, Conversion, Evaluation
from rscc_hf.formats.training import LogLine, TrainingSummary

NAMES = (RECIPE, *(kind.NAME for kind in (TrainingSummary, LogLine, Conversion, AdapterBase, Evaluation)))
PACKAGE = Path(rscc_hf.__file__).parent


def names_spelt(path: Path) -> Iterator[str]:
    """Texts of a module that name such a file; prose (doc strings, helps, sentences) may."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
            if any(name in text for name in NAMES) and len(text.split()) == 1:
                yield f"{path.relative_to(PACKAGE).as_posix()}, line {node.lineno}: {text}"


def test_no_other_module_spells_the_name_of_a_file_that_the_package_leaves() -> None:
    own = PACKAGE / "formats"
    found = [text for path in sorted(PACKAGE.rglob("*.py")) if own not in path.parents for text in names_spelt(path)]
    assert found == []
    assert any(names_spelt(own / "records.py"))  # it looks


def test_the_names_of_the_files_are_those_of_version_0_1() -> None:
    assert (
        *("recipe.yaml", "training_summary.json", "training_log.jsonl"),
        *("conversion.json", "adapter_base.json", "results.jsonl"),
    ) == NAMES
