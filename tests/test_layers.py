"""Imports go down the layers that `pyproject.toml` names, also those within functions."""

from pathlib import Path

import pytest

linter = pytest.importorskip("importlinter.cli", reason="import-linter is installed with the extra dev")

ROOT = Path(__file__).resolve().parents[1]


def test_imports_go_down(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    failed = linter.lint_imports(config_filename="pyproject.toml", no_cache=True)
    assert not failed, capsys.readouterr().out


def test_an_import_against_them_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    package = tmp_path / "layered_toy"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "upper.py").touch()
    (package / "lower.py").write_text("def work():\n    import layered_toy.upper\n")
    (tmp_path / "pyproject.toml").write_text(
        '[tool.importlinter]\nroot_package = "layered_toy"\n[[tool.importlinter.contracts]]\nname = "down"\n'
        'type = "layers"\ncontainers = ["layered_toy"]\nlayers = ["upper", "lower"]\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert linter.lint_imports(config_filename="pyproject.toml", no_cache=True)
    assert "layered_toy.lower -> layered_toy.upper" in capsys.readouterr().out
