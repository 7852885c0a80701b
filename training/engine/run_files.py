"""Which files of a folder a run wrote, so that they, and nothing of the user's, can be taken away again."""

import json
import logging
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rscc_hf.checkpoint_folder import shipped_code
from rscc_hf.errors import InputError, RecipeError
from rscc_hf.files import write_text
from rscc_hf.formats.recipes import RECIPE
from rscc_hf.formats.training import LogLine, TrainingSummary
from rscc_hf.training.engine import checkpoints
from rscc_hf.training.engine.recipe import LoopRecipe, read_recipe, recipe_to_yaml
from rscc_hf.training.engine.recipe_files import BASE

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
LAST = "last"
TRACKER = "tracker"
RECORD = ".training_run"  # hidden, and no .json: nothing of the model
PARTIAL_MODEL = ".partial-model"
COMPLETE_MODEL, COMPLETE_LAST = ".complete-model", ".complete-last"

# What versions before the record wrote beside a recipe.yaml: a model, its adapters, its processor.
_MODEL_FILE = re.compile(
    r"(config|generation_config|adapter_config|processor_config|preprocessor_config|video_preprocessor_config"
    r"|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template|model\.safetensors\.index)\.json"
    rf"|{re.escape(TrainingSummary.NAME)}|merges\.txt|tokenizer\.model|chat_template\.jinja"
    r"|(adapter_)?model(-\d{5}-of-\d{5})?\.safetensors"
)
# What of these makes a folder hold a model.
_WEIGHTS = re.compile(r"(adapter_)?model(-\d{5}-of-\d{5})?\.safetensors|pytorch_model(-\d{5}-of-\d{5})?\.bin")
_TRACKER_FILE = re.compile(r"events\.out\.tfevents\..*|hparams\.ya?ml")


@dataclass
class Record:
    """What a run wrote beside its checkpoints, its log and its tracker.

    Attributes:
        model: Files of the model at the top, by their names in the folder, each with its SHA-256.
        last: The same of `last/`.
        start: The checkpoint of another folder that the run went on from.
    """

    model: dict[str, str] = field(default_factory=dict)
    last: dict[str, str] = field(default_factory=dict)
    start: str | None = None

    def write(self, folder: Path) -> None:
        """Write it into the folder of the run."""
        write_text(folder / RECORD, json.dumps({"about": "what training wrote here", **asdict(self)}, indent=1))


def read_record(folder: Path) -> Record:
    """Return the record of a folder, with what was deleted since; of an older version's folder a reckoned one."""
    try:
        content: Any = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        record = Record(dict(content["model"]), dict(content["last"]), content["start"])
    except (OSError, ValueError, KeyError, TypeError):
        record = Record()
        if (folder / RECIPE).is_file() and is_of_a_run(folder):
            record = Record(_model_files(folder), _model_files(folder / LAST))
    record.model = {name: digest for name, digest in record.model.items() if _is_within(name)}
    record.last = {name: digest for name, digest in record.last.items() if _is_within(name)}
    return record


def is_of_a_run(folder: Path) -> bool:
    """Return whether a run wrote into the folder, which a `recipe.yaml` alone, perhaps the user's, does not show."""
    marks = (folder / RECORD, folder / LogLine.NAME)
    return any(path.is_file() for path in marks) or bool(checkpoints.steps_in(folder / CHECKPOINTS))


def is_there(folder: Path, names: Iterable[str]) -> bool:
    """Return whether any of a record's files still lies in the folder."""
    return any((folder / name).is_file() for name in names)


def is_whole(folder: Path, names: Collection[str]) -> bool:
    """Return whether there is a model: a record's files, none of which was deleted."""
    return bool(names) and all((folder / name).is_file() for name in names)


def check_places(folder: Path, record: Record, recipe: LoopRecipe) -> None:
    """Look whether a run can write its files and folders, before it has trained for hours.

    Raises:
        RecipeError: A file lies where a folder will be written, or a folder where a file will; or a folder is closed.
    """
    wanted = {CHECKPOINTS: recipe.save_unit != "never", TRACKER: recipe.tracker != "none", LAST: recipe.keeps_last}
    folders = [*(name for name in wanted if wanted[name]), PARTIAL_MODEL, COMPLETE_MODEL, COMPLETE_LAST]
    elsewhere = "move it away, or name another output_dir."
    for path in (folder / name for name in folders):
        if path.is_dir():
            try:
                with tempfile.TemporaryFile(dir=path):
                    pass
            except OSError as error:
                reason = error.strerror or error
                raise RecipeError(f"{path} cannot be written ({reason}); {elsewhere}") from error
        elif path.exists() or path.is_symlink():
            raise RecipeError(f"{path} is no folder, and training writes one there; {elsewhere}")
    own = {folder: {RECIPE, RECORD, LogLine.NAME, *record.model}}
    if recipe.keeps_last:
        own[folder / LAST] = set(record.last)
    for place, names in own.items():
        there = {path.name for path in place.iterdir()} if place.is_dir() else set()
        for name in sorted(names | {name for name in there if _MODEL_FILE.fullmatch(name)}):
            if (place / name).is_dir():
                raise RecipeError(f"{place / name} is a folder, and training writes a file there; {elsewhere}")


def refuse_foreign(folder: Path, record: Record, recipe: LoopRecipe) -> None:
    """Look for what no run wrote and this one would write over.

    Raises:
        RecipeError: There are weights, or a recipe with other settings.
    """
    places = {folder: record.model} | ({folder / LAST: record.last} if recipe.keeps_last else {})
    for place, names in places.items():
        for path in sorted(place.iterdir()) if place.is_dir() else []:
            if _WEIGHTS.fullmatch(path.name) and path.name not in names:
                raise RecipeError(
                    f"{place} holds {path.name}, which no training run wrote; choose another output_dir."
                )
    file = folder / RECIPE
    if file.exists() and not is_of_a_run(folder) and not says_the_same(file, recipe):
        raise RecipeError(
            f"{file} is of no run in that folder, and training would write its own settings there, which are others; "
            "move it away, or choose another output_dir."
        )


def says_the_same(path: Path, recipe: LoopRecipe) -> bool:
    """Return whether a recipe's file leads to the weights of `recipe`, where it says `auto` also chosen by it."""
    try:
        theirs = asdict(read_recipe(type(recipe), path))
    except RecipeError:
        return False
    free = recipe.free_on_resume
    return all(name in free or theirs[name] in (value, "auto") for name, value in asdict(recipe).items())


def write_recipe(folder: Path, recipe: LoopRecipe) -> None:
    """Write the resolved recipe; one by hand that says the same by itself, with its comments, stays as it is."""
    path = folder / RECIPE
    if says_the_same(path, recipe):
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        if BASE in (content or {}):
            logger.warning("%s is replaced by every key as it is used: its base could move, or be left behind.", path)
        elif yaml.safe_dump(content, sort_keys=False, allow_unicode=True) != text:
            return
    write_text(path, recipe_to_yaml(recipe))


def known_lines(log: Path, state: dict[str, Any]) -> str:
    """Return the lines of a log that a checkpoint of this state knows of."""
    evaluated = {entry["step"] for entry in state["history"]}
    kept = []
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else []:
        try:
            entry = LogLine.parse(line, str(log))
        except InputError:
            continue  # the last line of a killed process
        if entry.step <= state["step"] and (entry.loss is not None or entry.step in evaluated):
            kept.append(line + "\n")
    return "".join(kept)


def remove_run(folder: Path, events: Iterable[str]) -> None:
    """Empty a folder of all that runs wrote into it, but for recipe and record, which the next one replaces.

    Args:
        folder: Of the run.
        events: Files of its tracker, see `tracker_files`.
    """
    record = read_record(folder)
    remove_files(folder, record.model)
    remove_last(folder, record)
    checkpoints.remove_all(folder / CHECKPOINTS)
    remove_traces(folder, events)


def remove_last(folder: Path, record: Record) -> None:
    """Take `last/` away, but for what is the user's in it."""
    last = folder / LAST
    remove_files(last, record.last)
    if last.is_dir() and not any(last.iterdir()):
        last.rmdir()


def tracker_files(folder: Path) -> list[str]:
    """Return the files that trackers wrote into the folder of a run, by their names in it."""
    tracker = folder / TRACKER
    if not tracker.is_dir() or tracker.is_symlink():
        return []
    found = [path for path in sorted(tracker.rglob("*")) if _TRACKER_FILE.fullmatch(path.name) and not path.is_dir()]
    return [path.relative_to(folder).as_posix() for path in found]


def remove_traces(folder: Path, events: Iterable[str]) -> None:
    """Take away the log, these files of a tracker, and models that a killed process left half-written."""
    (folder / LogLine.NAME).unlink(missing_ok=True)
    for name in (PARTIAL_MODEL, COMPLETE_MODEL, COMPLETE_LAST):
        shutil.rmtree(folder / name, ignore_errors=True)
    remove_files(folder, events)


def remove_files(folder: Path, names: Iterable[str]) -> None:
    """Delete files by their names in a folder, where they are there, and folders that this leaves empty."""
    for name in names:
        path = folder / name
        if not path.is_file() and not path.is_symlink():
            continue
        path.unlink()
        while path.parent != folder and path.parent.is_dir() and not any(path.parent.iterdir()):
            path = path.parent
            path.rmdir()


def _model_files(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        return {}
    code = shipped_code()
    return {
        path.name: "" for path in sorted(folder.iterdir()) if _MODEL_FILE.fullmatch(path.name) or path.name in code
    }


def _is_within(name: str) -> bool:
    """Return whether a name of a record cannot lead out of the folder."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts
