"""Options that have no effect in the mode that runs are usage errors: every command, every option."""

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from rscc_hf.commands.app import app
from rscc_hf.commands.modes import Mode, Modes, by_mode
from rscc_hf.synthetic.style import Nuisances

# A command line that runs in another mode, then the options that are nothing there, with the value that each has when
# it is not typed (or some value, where it has none), and what the sentence says.
PAIR, LIST = ("a.png", "b.png"), ("--pairs", "list.csv", "--output", "out.jsonl")
STRENGTHS = [f"--{name.replace('_', '-')}={value}" for name, value in vars(Nuisances()).items()]
CASES: list[tuple[tuple[str, ...], list[tuple[str, ...]], str]] = [
    (
        ("caption", *PAIR),
        [
            ("--output", "out.jsonl"),
            ("--split", "test"),
            ("--semantic-coverage", "full"),
            ("--without-maps",),
            ("--on-error", "raise"),
            ("--overwrite",),
            ("--batch-size", "8"),
        ],
        "it belongs to --pairs",
    ),
    (
        ("caption", *LIST),
        [("--semantic-before", "a.png"), ("--semantic-after", "b.png")],
        "it belongs to one pair (BEFORE AFTER)",
    ),
    (("caption", *LIST), [("--semantic-coverage", "full")], "it belongs to a data set; name its --split"),
    (
        ("caption", *LIST, "--split", "test", "--without-maps"),
        [("--semantic-coverage", "full")],
        "it belongs to the maps",
    ),
    (("evaluate", "out.jsonl"), [("--seed", "0")], "it belongs to --bootstrap"),
    (("evaluate", "out.jsonl", "--bootstrap", "0"), [("--seed", "0")], "it belongs to --bootstrap"),
    (
        ("card", "folder"),
        [
            ("--dataset", "LEVIR-CC"),
            ("--split", "test"),
            ("--dataset-id", "o/levir"),
            ("--predictions", "out.jsonl"),
        ],
        "it belongs to --results",
    ),
    (("push", "folder", "o/name", "--dry-run"), [("--message", "new")], "it belongs to a push"),
    (("data push", "folder", "o/name", "--dry-run"), [("--message", "new")], "it belongs to a push"),
    (
        ("data synthesize", "out", "--changed-fraction", "0"),
        [("--max-events", "3")],
        "it belongs to pairs that change",
    ),
    (("data synthesize", "out", *STRENGTHS), [("--no-nuisances",)], "it belongs to nuisances that are not given"),
    (("data vocabulary", "folder", "out"), [("--vocab-size", "4000")], "it belongs to --unigram"),
    (("data vocabulary", "folder", "out", "--unigram"), [("--min-frequency", "1")], "it belongs to words"),
    (
        ("convert llava-onevision", "o/llava", "out", "--no-integration"),
        [("--vision-levels", "1,2"), ("--num-integration-layers", "2"), ("--seed", "42")],
        "it belongs to the Difference-aware Integration Module",
    ),
    (("convert llava-onevision", ".", "out"), [("--revision", "main")], "it belongs to a model on the Hub"),
]


def run(command: tuple[str, ...], *options: str) -> Result:
    name, *arguments = command
    return CliRunner().invoke(app, [*name.split(), *arguments, *options], terminal_width=200)


def sentence(result: Result) -> str:
    """The message out of its box."""
    return " ".join(result.stderr.replace("│", " ").split())


def commands() -> dict[str, Any]:
    """Every command by its words, without the groups."""
    root: Any = typer.main.get_command(app)
    found: dict[str, Any] = {}
    for name, command in root.commands.items():
        inner = getattr(command, "commands", None)
        found |= {name: command} if inner is None else {f"{name} {leaf}": c for leaf, c in inner.items()}
    return found


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_option_of_every_command_is_in_the_table() -> None:
    for name, command in commands().items():
        table = command.callback.modes
        assert isinstance(table, Modes), f"`rscc {name}` needs @by_mode"
        options = {parameter.name for parameter in command.params} - {"help"}
        told = table.always.union(*(mode.options.split() for mode in table.modes))
        assert options == told, name


def test_every_option_of_a_mode_has_a_case_here() -> None:
    of_modes = {
        (name, option)
        for name, command in commands().items()
        for mode in command.callback.modes.modes
        for option in mode.options.split()
    }
    tried = {(command[0], option[0][2:].replace("-", "_")) for command, options, _ in CASES for option in options}
    assert of_modes == tried


@pytest.mark.parametrize(
    ("command", "option", "message"),
    [
        pytest.param(command, option, message, id=f"{' '.join(command[:1])} {option[0]} {number}")
        for number, (command, options, message) in enumerate(CASES)
        for option in options
    ],
)
def test_an_option_of_another_mode_is_a_usage_error(command, option, message, tmp_path: Path) -> None:
    result = run(command, *option)
    assert result.exit_code == 2 and result.stdout == ""
    assert f"Invalid value for {option[0]}: {message}" in sentence(result)
    assert list(tmp_path.iterdir()) == []


def test_a_default_that_was_not_typed_is_no_use() -> None:
    def command(wide: bool = False, far: int = 3) -> None:
        typer.echo(f"{wide} {far}")

    small = typer.Typer()
    small.command()(by_mode(Mode("--wide", "far", lambda it: it.wide), always="wide")(command))
    for arguments, answer in (([], "False 3"), (["--wide"], "True 3"), (["--wide", "--far", "3"], "True 3")):
        assert CliRunner().invoke(small, arguments).stdout == f"{answer}\n"
    assert CliRunner().invoke(small, ["--far", "3"]).exit_code == 2


def test_what_is_known_of_the_model_only_is_told_when_it_is_loaded(tiny_checkpoints, write_image, tmp_path) -> None:
    images = [str(write_image(tmp_path / f"{name}.png")) for name in ("a", "b", "c", "d")]
    (tmp_path / "list.csv").write_text(f"before,after\n{images[0]},{images[1]}\n")
    none = str(tiny_checkpoints["none"])
    pair, many = ("caption", *images[:2], "--model", none), ("caption", *LIST, "--model", none)
    for command, option in (
        (pair, ("--semantic-before", images[2], "--semantic-after", images[3])),
        (many, ("--without-maps",)),
    ):
        result = run(command, *option)
        assert result.exit_code == 2 and "takes no semantic maps" in sentence(result), result.output
    assert not (tmp_path / "out.jsonl").exists()
    for command in (pair, many):
        result = run(command, "--revision", "main")
        assert result.exit_code == 2 and "it belongs to a model on the Hub" in sentence(result)


@pytest.mark.parametrize("kind", ["push", "data push"])
def test_a_licence_for_a_card_that_stays(kind, tmp_path) -> None:
    (tmp_path / "README.md").write_text("# By somebody else")
    result = run((kind, str(tmp_path), "o/name"), "--license", "mit")
    assert result.exit_code == 2 and "it belongs to cards of rscc_hf" in sentence(result)


def test_an_option_without_a_mode_is_found_at_import() -> None:
    with pytest.raises(TypeError, match="put late into a mode"):

        @by_mode(always="early")
        def forgotten(early: int = 1, late: int = 2) -> None: ...

    with pytest.raises(TypeError, match="put gone into a mode"):

        @by_mode(Mode("nothing", "gone", lambda it: True), always="early")
        def renamed(early: int = 1) -> None: ...
