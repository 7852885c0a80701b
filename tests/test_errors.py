"""A user's mistake ends a command and a script with one line; a fault of the program keeps its traceback."""

import pickle

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from rscc_hf.commands.app import app
from rscc_hf.commands.terminal import OneLineErrors
from rscc_hf.errors import InputError, MeteorError, RecipeError, TrainingError, input_errors
from rscc_hf.files import NotReplaced
from rscc_hf.inference.captioner import ChangeCaptioner
from rscc_hf.modeling import MModalCCConfig
from rscc_hf.processing.change_pair_images import PairError
from rscc_hf.training.engine.recipe import read_recipe
from rscc_hf.training.engine.script import run_script
from rscc_hf.training.systems.mmodalcc.recipe import MModalCCRecipe

FAULTS = [KeyError("gone"), ValueError("one of our own"), RuntimeError("torch"), TypeError("a call"), ImportError("x")]
MISTAKES = [
    *(InputError("a is b; give c."), RecipeError("a is b; give c."), TrainingError("a is b; give c.")),
    *(MeteorError("a is b; give c."), NotReplaced("a is b; give c."), FileNotFoundError(2, "a is b; give c", None)),
]


def raising(error):
    def run(*_, **__):
        raise error

    return run


def command_that_raises(error):
    command = typer.Typer(cls=OneLineErrors, pretty_exceptions_enable=False)
    command.command()(lambda: raising(error)())
    command.command("other")(lambda: None)  # a group, as `rscc` is
    return CliRunner().invoke(command, ["<lambda>"])


@pytest.mark.parametrize("error", FAULTS, ids=repr)
def test_a_fault_keeps_its_traceback(error):
    assert command_that_raises(error).exception is error
    with pytest.raises(type(error)) as caught:
        run_script("stage1.py", raising(error))
    assert caught.value is error


@pytest.mark.parametrize("error", MISTAKES, ids=repr)
def test_a_mistake_is_one_line(error):
    result = command_that_raises(error)
    assert (result.exit_code, result.stderr) == (1, "Error: a is b; give c.\n")
    with pytest.raises(SystemExit) as ended:
        run_script("stage1.py", raising(error))
    assert ended.value.code == "stage1.py: a is b; give c."


def test_what_shipped_code_and_libraries_say_of_an_input_keeps_its_words_pair_and_file():
    with pytest.raises(InputError, match=r"^pair 2 is black\.$") as caught, input_errors():
        raise PairError("pair 2 is black.", pair=2, file="x.png")
    assert (caught.value.pair, caught.value.file) == (2, "x.png")
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 (our own)
    assert (str(again), again.pair, again.file) == ("pair 2 is black.", 2, "x.png")
    with pytest.raises(RecipeError, match=r"^init_from a: heads is 0\.$"), input_errors(RecipeError, "init_from a"):
        raise ValueError("heads is 0.")
    with (
        pytest.raises(RecipeError, match=r"^init_from a: d_model=7 must be a multiple [^\n]+$"),
        input_errors(RecipeError, "init_from a"),
    ):
        MModalCCConfig(d_model=7)
    with pytest.raises(RecipeError, match=r"^[^\n]*'d_model'[^\n]*$"), input_errors(RecipeError):
        MModalCCConfig(d_model="seven")
    with pytest.raises(MeteorError, match="Java"), input_errors(RecipeError):
        raise MeteorError("no Java; install it.")
    with pytest.raises(KeyError), input_errors():
        raise KeyError("a fault")


def test_each_kind_of_input_that_cannot_be_used_is_one_line(tiny_checkpoints, tmp_path):
    good, model = tmp_path / "list.csv", tiny_checkpoints["none"]
    (tmp_path / "a.png").write_bytes(b"no image")
    good.write_text("before,after\na.png,a.png\n")
    (tmp_path / "bad.csv").write_text("before,after\na.png\n")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.json").write_text("{")
    output = ["--output", str(tmp_path / "out.jsonl")]
    for arguments, said in (
        (["caption", "--pairs", str(tmp_path / "bad.csv"), "--model", str(model), *output], "line 2: no after"),
        (["caption", "--pairs", str(good), "--model", str(model), *output], "is not an image"),
        (["caption", "--pairs", str(good), "--model", str(tmp_path / "broken"), *output], "broken cannot be loaded"),
        (["evaluate", str(tmp_path / "bad.csv")], "line 1 is no JSON"),
        (["card", str(tmp_path / "broken")], "config.json is no JSON"),
    ):
        result = CliRunner().invoke(app, arguments)
        *_, line = result.stderr.splitlines()
        assert result.exit_code == 1 and line.startswith("Error: ") and said in line, result.output
        assert "Traceback" not in result.output
    path = tmp_path / "recipe.yaml"
    path.write_text("embed_dim: 30\n")
    with pytest.raises(SystemExit, match=r"^mmodalcc\.py: .*recipe\.yaml: 'embed_dim' is no key"):
        run_script("mmodalcc.py", lambda: read_recipe(MModalCCRecipe, path))


def test_what_a_processor_says_of_a_pair_is_an_input_error(tiny_checkpoints, tmp_path):
    captioner = ChangeCaptioner.from_pretrained(tiny_checkpoints["none"], device="cpu")
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"a\.png is not an image"):
        captioner(tmp_path / "a.png", tmp_path / "a.png", pair_ids="west")

    with pytest.raises(InputError, match="max_new_tokens"):
        captioner.caption([], max_new_tokens=0)

    for fault in (KeyError("a fault of the model"), ValueError("a fault of the model")):
        captioner.model.generate = raising(fault)
        with pytest.raises(type(fault)) as caught:
            captioner(Image.new("RGB", (64, 64)), Image.new("RGB", (64, 64)))
        assert caught.value is fault
