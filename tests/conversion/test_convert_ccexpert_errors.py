"""Broken and hostile CCExpert releases: one line that names the reason, nothing run, nothing left."""

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toys.ccexpert_release import (
    MODULE,
    TOWER,
    Weights,
    release_config,
    release_weights,
    write_index,
    write_release,
    write_weights,
)
from typer.testing import CliRunner

from rscc_hf.commands.app import app

WEIGHTS = release_weights()
NORM = "model.layers.{}.input_layernorm.weight"


class Touch:
    """A pickle that makes a file when it is opened carelessly."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def refused(release: object, out: Path, *options: object) -> str:
    """The one line that a conversion ends with."""
    before = set(out.parent.rglob("*"))
    result = CliRunner().invoke(app, ["convert", "ccexpert", str(release), str(out), *map(str, options)])
    lines = result.stderr.splitlines()
    assert result.exit_code == 1 and result.stdout == "", result.output
    assert len(lines) == 1 and lines[0].startswith("Error: ") and "Traceback" not in result.stderr
    assert set(out.parent.rglob("*")) == before  # nor was anything touched
    return lines[0]


def with_config(folder: Path, **changes: Any) -> Path:
    return write_release(folder, WEIGHTS, release_config(**changes), parts=2)


def without(*names: str) -> Weights:
    return {name: tensor for name, tensor in WEIGHTS.items() if name not in names}


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "another model": ({"model_type": "llava_qwen"}, "model_type='llava_qwen'"),
    "width as text": ({"hidden_size": "wide"}, "hidden_size"),
    "no heads": ({"num_attention_heads": 0}, "config.json makes no model"),
    "negative width": ({"intermediate_size": -1}, "config.json makes no model"),
    "another width": ({"hidden_size": 64}, "has shape (60, 32), this config needs (60, 64)"),
    "giant width": ({"hidden_size": 2**60}, "config.json makes no model"),
    "giant depth": ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000, and there are"),
    "too few layers": ({"num_hidden_layers": 1}, "do not belong to this config: language_model.layers.1.input_"),
    "giant module": ({"cc_expert_args": {"per_expert_depth": 10**9}}, f"{MODULE}.layers.1 is missing"),
    "levels": ({"mm_vision_select_layer": "[-9]"}, "Levels [-9] do not exist"),
    "levels of another kind": ({"mm_vision_select_layer": {"a": 1}}, "mm_vision_select_layer"),
    "another tower": ({"vision_tower_config": None, "mm_vision_tower": "clip"}, "mm_vision_tower='clip'"),
    "tower as text": ({"vision_tower_config": "so400m"}, "config.json makes no model"),
    "another activation": ({"hidden_act": "os.system"}, "config.json makes no model"),
    "so400m is another size": ({"vision_tower_config": None, "mm_vision_select_layer": "[-2]"}, "this config needs"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configs(case: str, tmp_path: Path) -> None:
    changes, message = CONFIGS[case]
    assert message in refused(with_config(tmp_path / "release", **changes), tmp_path / "out")


EDITS: dict[str, tuple[Weights, list[str]]] = {
    "missing": (
        without(NORM.format(0), NORM.format(1), "model.norm.weight"),
        ["3 weights are missing", "language_model.layers.{0-1}.input_layernorm.weight", "language_model.norm.weight"],
    ),
    "unexpected": (
        WEIGHTS | {"model.layers.0.mlp.extra": torch.zeros(1), "optimizer.state": torch.zeros(1)},
        ["1 weights do not belong", "language_model.layers.0.mlp.extra", "optimizer.state is no weight"],
    ),
    "mis-shaped": (
        WEIGHTS | {"model.norm.weight": torch.zeros(31), "model.mm_projector.0.weight": torch.zeros(16, 32)},
        ["language_model.norm.weight has shape (31,)", "projector.linear_1.weight has shape (16, 32)"],
    ),
    "no head": (without("lm_head.weight"), ["1 weights are missing", "lm_head.weight"]),
    "no embedding": (without("model.embed_tokens.weight"), ["model.embed_tokens.weight is missing"]),
    "no tower": ({n: t for n, t in WEIGHTS.items() if TOWER not in n}, ["give the checkpoint that holds the vision"]),
    "a layer of the tower": (
        {n: t for n, t in WEIGHTS.items() if ".encoder.layers.1." not in n},
        [f"{TOWER}.encoder.layers.1 is missing"],
    ),
    "integers": (
        WEIGHTS | {"model.norm.weight": torch.zeros(32, dtype=torch.int8)},
        ["model.norm.weight", "quantised"],
    ),
    "a scalar": (WEIGHTS | {"model.norm.weight": torch.tensor(1.0)}, ["norm.weight has shape ()"]),
    "a giant layer": (
        WEIGHTS | {"model.layers.99999999999999999999.mlp.up_proj.weight": torch.zeros(1)},
        ["1 weights do not belong", "99999999999999999999"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("case", EDITS)
def test_weights_that_are_not_a_release(case: str, kind: str, tmp_path: Path) -> None:
    weights, messages = EDITS[case]
    line = refused(write_release(tmp_path / "release", weights, parts=3, kind=kind), tmp_path / "out")
    assert all(message in line for message in messages), line


def stem(kind: str) -> str:
    return {"safetensors": "model", "bin": "pytorch_model"}[kind]


def cut_off(path: Path, kind: str) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path, kind: str) -> None:
    path.write_bytes(b"")


def text(path: Path, kind: str) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")


def no_dict(path: Path, kind: str) -> None:
    if kind == "bin":
        torch.save([torch.zeros(1)], path)
    else:
        path.write_bytes(struct.pack("<Q", 2) + b"[]")


def giant(path: Path, kind: str) -> None:
    if kind == "bin":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/data.pkl", b"\0" * 10**7)
            archive.writestr("a/version", b"3")
    else:
        header = {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
        content = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(content)) + content)


def gone(path: Path, kind: str) -> None:
    path.unlink()


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("damage", [cut_off, empty, text, no_dict, giant, gone], ids=lambda damage: damage.__name__)
def test_a_damaged_file_is_named(damage: Callable[[Path, str], None], kind: str, tmp_path: Path) -> None:
    release = write_release(tmp_path / "release", WEIGHTS, parts=3, kind=kind)
    path = release / f"{stem(kind)}-00002-of-00003.{kind}"
    damage(path, kind)
    assert path.name in refused(release, tmp_path / "out")


INDEXES: dict[str, tuple[Callable[[dict[str, str]], object], str]] = {
    "outside": (lambda index: index | {"model.norm.weight": "../../secret.safetensors"}, "files of its own folder"),
    "absolute": (lambda index: index | {"model.norm.weight": "/etc/passwd"}, "files of its own folder"),
    "windows": (lambda index: index | {"model.norm.weight": "C:\\model.safetensors"}, "files of its own folder"),
    "folder": (lambda index: index | {"model.norm.weight": ".."}, "files of its own folder"),
    "another kind": (lambda index: index | {"model.norm.weight": "training_args.bin"}, "files of its own folder"),
    "number": (lambda index: index | {"model.norm.weight": 3}, "files of its own folder"),
    "not there": (lambda index: index | {"model.norm.weight": "model-9.safetensors"}, "not there: model-9."),
    "wrong file": (
        lambda index: index | {"model.embed_tokens.weight": "model-00002-of-00002.safetensors"},
        "lacks 1 weights that model.safetensors.index.json puts there: model.embed_tokens.weight",
    ),
    "untold": (
        lambda index: {name: file for name, file in index.items() if name != "model.norm.weight"},
        "has 1 weights that model.safetensors.index.json does not put there: model.norm.weight",
    ),
    "no weights": (lambda index: {}, "has no weight_map"),
    "a list": (lambda index: list(index), "has no weight_map"),
}  # fmt: skip


@pytest.mark.parametrize("case", INDEXES)
def test_indexes(case: str, tmp_path: Path) -> None:
    edit, message = INDEXES[case]
    release = write_release(tmp_path / "release", WEIGHTS, parts=2)
    write_weights(tmp_path / "secret.safetensors", {"model.norm.weight": torch.ones(32)})
    (release / "training_args.bin").write_bytes(pickle.dumps(Touch(tmp_path / "touched")))
    path = release / "model.safetensors.index.json"
    write_index(path, edit(json.loads(path.read_text())["weight_map"]))  # type: ignore[arg-type]
    assert message in refused(release, tmp_path / "out")


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("name", ["\x1b[2J", "a`<b>\n# Title", "a b", "w\u00e9ight", "x" * 201, ""], ids=ascii)
def test_names_that_no_weight_has(name: str, parts: int, kind: str, tmp_path: Path) -> None:
    release = write_release(tmp_path / "release", WEIGHTS | {name: torch.zeros(1)}, parts=parts, kind=kind)
    line = refused(release, tmp_path / "out")
    assert "1 weights with names that cannot be" in line and ascii(name)[:-1][:201] in line
    assert line.isascii() and line.isprintable()


def test_a_name_in_an_index_that_no_file_has(tmp_path: Path) -> None:
    release = write_release(tmp_path / "release", WEIGHTS, parts=2)
    path = release / "model.safetensors.index.json"
    weight_map = json.loads(path.read_text())["weight_map"]
    write_index(path, weight_map | {"\x1b[2J": "model-00001-of-00002.safetensors"})
    assert "names that cannot be, such as '\\x1b[2J'" in refused(release, tmp_path / "out")
    write_index(path, weight_map | {"a": "\x1b[2J.safetensors"})
    assert "names a file '\\x1b[2J.safetensors'" in refused(release, tmp_path / "out")


def test_no_line_controls_the_terminal(tmp_path: Path) -> None:
    release = with_config(tmp_path / "release", model_type="\x1b]0;\x07\u202e\u00fc")
    line = refused(release, tmp_path / "out\x9b")
    assert line.isprintable() and r"\u202e" in line and "\u00fc" in line
    (release / "config.json").unlink()
    release.rename(tmp_path / "r\x1b[2J\n\u00fc")
    line = refused(tmp_path / "r\x1b[2J\n\u00fc", tmp_path / "out")
    assert line.isprintable() and "r\\x1b[2J \u00fc" in line


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.mlp.up_proj.weight"])
def test_weights_that_are_no_numbers(name: str, number: float, kind: str, tmp_path: Path) -> None:
    weight = WEIGHTS[name].clone()
    weight.view(-1)[[3, -1]] = number
    release = write_release(tmp_path / "release", WEIGHTS | {name: weight}, parts=2, kind=kind)
    line = refused(release, tmp_path / "out")
    assert f"{name} holds 2 of {weight.numel()} values that are not finite numbers" in line


@pytest.mark.slow
def test_numbers_that_overflow_are_noticed_when_a_pair_is_run(tmp_path: Path) -> None:
    huge = torch.full_like(WEIGHTS["lm_head.weight"], 3e38)
    release = write_release(tmp_path / "release", WEIGHTS | {"lm_head.weight": huge})
    line = refused(release, tmp_path / "out", "--verify")
    assert "a made-up pair gives numbers that are not finite" in line


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, '{"a": NaN', "\xff"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_what_is_no_json(name: str, content: str, tmp_path: Path) -> None:
    release = write_release(tmp_path / "release", WEIGHTS, parts=2)
    (release / name).write_bytes(content.encode("latin-1"))
    assert name in refused(release, tmp_path / "out")


@pytest.mark.parametrize("place", ["dict", "weight", "name"])
def test_a_pickle_runs_nothing(place: str, tmp_path: Path) -> None:
    touch = Touch(tmp_path / "touched")
    weights: Any = {"dict": touch, "weight": {**WEIGHTS, "model.norm.weight": touch}, "name": {touch: WEIGHTS}}[place]
    release = write_release(tmp_path / "release", WEIGHTS, kind="bin")
    torch.save(weights, release / "pytorch_model.bin")
    assert "not unpickled (posix.system)" in refused(release, tmp_path / "out")
    torch.save(weights, release / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    refused(release, tmp_path / "out")
    (release / "pytorch_model.bin").write_bytes(pickle.dumps(weights))
    refused(release, tmp_path / "out")


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"epoch": 3}, "epoch"),
        ({"state_dict": {"a": torch.zeros(1)}}, "state_dict"),
        ({"sparse": torch.eye(2).to_sparse()}, "sparse"),
        ({3: torch.zeros(1)}, "3"),
    ],
)
def test_what_is_no_weight(extra: dict[Any, Any], named: str, tmp_path: Path) -> None:
    release = write_release(tmp_path / "release", WEIGHTS, kind="bin")
    torch.save(WEIGHTS | extra, release / "pytorch_model.bin")
    line = refused(release, tmp_path / "out")
    assert "entries that are no weights" in line and named in line


def test_a_weight_that_promises_more_than_the_file_holds(tmp_path: Path) -> None:
    release = write_release(tmp_path / "release", WEIGHTS, kind="bin")
    one = torch.zeros(1)
    torch.save(WEIGHTS | {"model.norm.weight": one.expand(2**40)}, release / "pytorch_model.bin")
    assert "norm.weight has shape (1099511627776,)" in refused(release, tmp_path / "out")


def test_folders_that_are_no_release(tmp_path: Path) -> None:
    assert "no folder" in refused(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert "config.json" in refused(tmp_path / "empty", tmp_path / "out")
    release = write_release(tmp_path / "release", WEIGHTS, parts=2)
    write_weights(release / "model.safetensors", WEIGHTS)
    assert "both" in refused(release, tmp_path / "out")
    for path in release.glob("model*"):
        path.unlink()
    assert "holds no weights" in refused(release, tmp_path / "out")


def test_out_is_a_file_or_no_checkpoint(tmp_path: Path) -> None:
    release = write_release(tmp_path / "release", WEIGHTS)
    (tmp_path / "file").write_text("keep")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/notes.txt").write_text("keep")
    assert "is a file" in refused(release, tmp_path / "file", "--overwrite")
    assert "is no checkpoint" in refused(release, tmp_path / "folder", "--overwrite")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no tokenizer"),
        ({"tokenizer.json": "{"}, "holds no tokenizer"),
        ({"tokenizer.json": '{"model": {"type": "BPE"}}', "tokenizer_config.json": "[]"}, "holds no tokenizer"),
        (
            {
                "tokenizer_config.json": '{"auto_map": {"AutoTokenizer": ["evil.Evil", null]}}',
                "evil.py": "import pathlib; pathlib.Path(__file__).with_name('touched').touch()",
            },
            "holds no tokenizer",
        ),
    ],
)  # fmt: skip
def test_tokenizers(files: dict[str, str], message: str, tmp_path: Path) -> None:
    release = write_release(tmp_path / "release", WEIGHTS)
    folder = tmp_path / "words"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    assert message in refused(release, tmp_path / "out", "--tokenizer", folder)
    assert "no folder" in refused(release, tmp_path / "out", "--tokenizer", tmp_path / "nowhere")
