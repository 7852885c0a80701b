"""The command as a whole: help, version, the demo's options, and how errors are shown."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import watched
from typer.testing import CliRunner

import rscc_hf
from rscc_hf.commands.app import app
from rscc_hf.errors import MeteorError
from rscc_hf.inference.default_model import find_demo_model

COMMANDS = (
    *([], ["caption"], ["evaluate"], ["demo"], ["card"], ["push"]),
    *(["data"], ["data", "synthesize"], ["data", "vocabulary"], ["data", "push"]),
    *(["convert"], ["convert", "mmodalcc"], ["convert", "ccexpert"], ["convert", "llava-onevision"]),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_fits_eighty_columns(command) -> None:
    result = CliRunner().invoke(app, [*command, "-h"], terminal_width=80)
    assert result.exit_code == 0
    assert "Usage:" in result.stdout and all(len(line) <= 80 for line in result.stdout.splitlines())


def test_version_and_wrong_commands() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"rscc_hf {rscc_hf.__version__}\n"
    assert CliRunner().invoke(app, ["capton"]).exit_code == 2


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MeteorError("METEOR needs Java;\n install it."), "METEOR needs Java; install it."),
        (FileNotFoundError(2, "No such file or directory", "a.jsonl"), "a.jsonl: No such file or directory."),
        (OSError("the disk is full"), "the disk is full"),
    ],
)
def test_what_is_wrong_with_the_input_is_one_line(monkeypatch, error, line) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("rscc_hf.evaluation.evaluate_file", broken)
    result = CliRunner().invoke(app, ["evaluate", "a.jsonl"])
    assert result.exit_code == 1 and result.stdout == "" and result.stderr == f"Error: {line}\n"


@pytest.fixture
def fake_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple]:
    """The demo takes minutes; what the command does with it takes none."""
    calls: list[tuple] = []

    def run_demo(model: str, out: Path, *, seed: int, overwrite: bool) -> SimpleNamespace:
        calls.append((model, out, seed, overwrite))
        (out / "model").mkdir(parents=True)
        (out / "model" / "config.json").write_text("{}")
        return SimpleNamespace(report=out / "report.html", model=out / "model")

    module = ModuleType("rscc_hf.demo.run")
    module.run_demo = run_demo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rscc_hf.demo.run", module)
    monkeypatch.delenv("RSCC_MODEL", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return calls


def test_the_demo_leaves_its_model_to_caption(fake_demo, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["demo", "--output", "shown", "--seed", "7", "--overwrite"])
    assert result.exit_code == 0, result.output
    assert fake_demo == [("mmodalcc", Path("shown"), 7, True)]
    assert "shown/report.html" in result.stdout
    monkeypatch.chdir("/")
    assert find_demo_model() == str(tmp_path / "shown" / "model")


def test_each_demo_has_a_folder_of_its_own(fake_demo, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (["demo"], ["demo", "--model", "ccexpert"]):
        assert CliRunner().invoke(app, arguments).exit_code == 0
    assert [call[:2] for call in fake_demo] == [
        ("mmodalcc", Path("demo_output")),
        ("ccexpert", Path("demo_output_ccexpert")),
    ]


def test_the_demo_says_which_package_it_lacks(monkeypatch) -> None:
    class Missing:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "rscc_hf.demo.run":
                raise ModuleNotFoundError("No module named 'jinja2'", name="jinja2")

    monkeypatch.delitem(sys.modules, "rscc_hf.demo.run", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 1
    assert result.stderr == "Error: the demo needs jinja2; install it with `pip install 'rscc_hf[demo,eval]'`.\n"


def test_the_command_line_itself_imports_nothing_heavy() -> None:
    """Help and completion must not wait for torch; the package around the command line is not judged here."""
    code = (
        "import sys, types; package = types.ModuleType('rscc_hf'); package.__path__ = [sys.argv[1]]; "
        "sys.modules['rscc_hf'] = package; import rscc_hf.commands.app; "
        "print({'torch', 'transformers', 'datasets'} & set(sys.modules))"
    )
    folder = str(Path(rscc_hf.__file__).parent)
    done = watched.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
