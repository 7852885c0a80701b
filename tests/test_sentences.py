"""The form of what errors say, "what is wrong; what to do.", one sentence, as far as reading the code can tell it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import rscc_hf.errors

ROOT = Path(__file__).parents[1]
OURS = {name for name, kind in vars(rscc_hf.errors).items() if isinstance(kind, type) and issubclass(kind, ValueError)}
OURS |= {"StartMissing", "BadParameter"}
ERRORS = {
    "rscc_hf": OURS,
    "training": OURS,
    "processing": {"ValueError", "TypeError", "PairError"},
    "modeling": {"ValueError", "TypeError"},
}
"""What a user meets in each room; in the first two a bare ValueError is a fault of ours."""

PARTS = re.compile(r"conversion/pickle_reader|hub/pickle|_trial\.py|trial_script|processing/change_pair_files")
"""Where errors are the reason in another one's sentence, which ends it."""
WRITTEN = "processing/chat_templates_ccexpert.py"  # its texts stand in checkpoints and must stay as they are
HELP = {"option", "Option", "Argument"}  # say "never: keep the last"

VERBS = "|".join(
    (
        *("add", "ask", "change", "check", "choose", "clip", "continue", "convert", "crop", "delete", "download"),
        *("draw", "fetch", "fill", "give", "install", "keep", "leave", "make", "mend", "move", "name", "open", "put"),
        *("raise", "remove", "rename", "resize", "run", "save", "say", "scale", "set", "shorten", "start", "take"),
        *("translate", "try", "turn", "unset", "upgrade", "use", "wait", "write"),
    )
)
COLON = re.compile(rf": ({VERBS})\b")
SECOND = re.compile(rf"[.!?] ([A-Z][a-z]+|{VERBS})\b|; ({VERBS.title()})\b")


def problem(text: str) -> str | None:
    """Say what is wrong with the form of an error's whole text."""
    if COLON.search(text):
        return "a colon before the remedy, where a semicolon belongs"
    if SECOND.search(text):
        return "it is more than one sentence"
    if "; " in text and not text.endswith((".", "{}")):
        return "it has a remedy and no full stop"
    if text.endswith((":", ";", ",", " ", "..")):
        return "it has no end"
    return None


def text_of(node: ast.AST | None) -> str | None:
    """Return a literal text with {} for each value in it; None: it is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join("{}" if (text := text_of(part)) is None else text for part in node.values)
    return None


def name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def problems(source: str, kinds: set[str]) -> tuple[int, list[str]]:
    """Return how many texts of errors there are, and what is wrong with them or with any other text."""
    tree = ast.parse(source)
    apart: set[ast.AST] = set()  # what is no text of an error: docstrings, help, what stands inside of an f-string
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) or (isinstance(node, ast.Call) and name_of(node) in HELP):
            apart |= set(ast.walk(node)) - {node}
        if isinstance(node, ast.JoinedStr):
            apart |= {part for part in node.values if isinstance(part, ast.Constant)}
    said = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and name_of(node) in kinds and node.args]
    texts = {node.args[0]: text for node in said if (text := text_of(node.args[0])) is not None}
    wrong = [(node.lineno, what, text) for node, text in texts.items() if (what := problem(text)) is not None]
    for node in set(ast.walk(tree)) - apart - set(texts):  # reasons, which become errors elsewhere
        if (text := text_of(node)) is not None and COLON.search(text):
            wrong.append((node.lineno, "a colon before the remedy, where a semicolon belongs", text))
    return len(texts), [f"line {line}: {what}: {text}" for line, what, text in sorted(wrong)]


def files(room: str) -> Iterator[Path]:
    for file in sorted((ROOT / room).rglob("*.py")):
        if not PARTS.search(file.as_posix()) and not file.match(WRITTEN):
            yield file


@pytest.mark.parametrize("room", ERRORS)
def test_errors_are_one_sentence_with_the_remedy(room):
    found, wrong = 0, []
    for file in files(room):
        count, said = problems(file.read_text(encoding="utf-8"), ERRORS[room])
        found += count
        wrong += [f"{file.relative_to(ROOT)}, {line}" for line in said]
    assert not wrong, "\n".join(wrong)
    assert found > 40  # it looked at something


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('raise InputError(f"{path} is a file: name a folder.")', "a colon"),
        ('raise InputError(f"{path} is a file; name a folder")', "no full stop"),
        ('raise InputError("It is a file. Name a folder.")', "more than one sentence"),
        ('raise InputError("it is a file; Name a folder.")', "more than one sentence"),
        ('raise errors.InputError(f"{path} is a file;")', "no end"),
        ('reason = f"is a file: name {a} folder"', "a colon"),
        ('raise InputError(f"{path} is a file; name {a} folder.")', None),
        ('raise InputError(f"{path}: {key} is {value}, {two: name}; give {words}")', None),
        ('raise InputError(f"{path} cannot be read ({error}); name a folder: the one that holds {it}.")', None),
        ('raise ValueError("a fault: name it")', "a colon"),
        ('def f(): "Do a thing: name it."', None),
        ('value = option(None, "never: keep it")', None),
    ],
)
def test_the_rule_itself(line, what):
    _, said = problems(line, OURS)
    assert (what in said[0]) if what else not said
