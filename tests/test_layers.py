"""Imports go down the layers that `pyproject.toml` names, also those within functions."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import watched

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(find_spec("importlinter") is None, reason="import-linter comes with the extra dev")


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: import-linter switches off the loggers that there are."""
    code = "import sys; from importlinter.cli import lint_imports; sys.path.insert(0, '.'); "
    code += "sys.exit(lint_imports(config_filename='pyproject.toml', no_cache=True))"
    return watched.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folder)


def test_imports_go_down():
    done = lint(ROOT)
    assert done.returncode == 0 and "Contracts: 3 kept, 0 broken" in done.stdout, done.stdout


def test_an_import_against_them_is_found(tmp_path: Path):
    package = tmp_path / "layered_toy"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "upper.py").touch()
    (package / "lower.py").write_text("def work():\n    import layered_toy.upper\n")
    (tmp_path / "pyproject.toml").write_text(
        '[tool.importlinter]\nroot_package = "layered_toy"\n[[tool.importlinter.contracts]]\nname = "down"\n'
        'type = "layers"\ncontainers = ["layered_toy"]\nlayers = ["upper", "lower"]\n'
    )
    done = lint(tmp_path)
    assert done.returncode == 1 and "layered_toy.lower -> layered_toy.upper" in done.stdout
