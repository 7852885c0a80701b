"""Which files of a folder a run wrote, so that they, and nothing of the user's, can be taken away again."""

import json
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rscc_hf.files import write_text
from rscc_hf.training import checkpoints

LOG = "training_log.jsonl"
LAST = "last"
TRACKER = "tracker"
RECORD = ".training_run"  # hidden, and no .json: nothing of the model
PARTIAL_MODEL = ".partial-model"
COMPLETE_MODEL, COMPLETE_LAST = ".complete-model", ".complete-last"

# What versions before the record wrote beside a recipe.yaml: a model, its adapters, its processor.
_MODEL_FILE = re.compile(
    r"(config|generation_config|adapter_config|processor_config|preprocessor_config|video_preprocessor_config"
    r"|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template|model\.safetensors\.index"
    r"|training_summary)\.json|merges\.txt|tokenizer\.model|chat_template\.jinja"
    r"|(adapter_)?model(-\d{5}-of-\d{5})?\.safetensors"
)
# What of these makes a folder hold a model.
_WEIGHTS = re.compile(r"(adapter_)?model(-\d{5}-of-\d{5})?\.safetensors|pytorch_model(-\d{5}-of-\d{5})?\.bin")
_PACKAGE = Path(checkpoints.__file__).resolve().parents[1]
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
        """Writes it into the folder of the run."""
        write_text(folder / RECORD, json.dumps({"about": "what training wrote here", **asdict(self)}, indent=1))


def read_record(folder: Path) -> Record:
    """The record of a folder, without what was deleted since; of an older version's folder a reckoned one."""
    try:
        content: Any = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        record = Record(dict(content["model"]), dict(content["last"]), content["start"])
    except (OSError, ValueError, KeyError, TypeError):
        record = Record()
        if (folder / checkpoints.RECIPE).is_file():
            record = Record(_model_files(folder), _model_files(folder / LAST))
    record.model = {name: digest for name, digest in record.model.items() if _is_plain(folder, name)}
    record.last = {name: digest for name, digest in record.last.items() if _is_plain(folder / LAST, name)}
    return record


def foreign_weights(folder: Path, record: Record) -> str | None:
    """The name of weights at the top of a folder that no run wrote there; None: there are none."""
    if not folder.is_dir():
        return None
    names = sorted(path.name for path in folder.iterdir() if _WEIGHTS.fullmatch(path.name))
    return next((name for name in names if name not in record.model), None)


def remove_run(folder: Path) -> None:
    """Empties a folder of all that runs wrote into it."""
    record = read_record(folder)
    remove_files(folder, record.model)
    remove_last(folder, record)
    checkpoints.remove_all(folder / "checkpoints")
    remove_traces(folder)
    for name in (checkpoints.RECIPE, RECORD):
        (folder / name).unlink(missing_ok=True)


def remove_last(folder: Path, record: Record) -> None:
    """Takes `last/` away, but for what is the user's in it."""
    last = folder / LAST
    remove_files(last, record.last)
    if last.is_dir() and not any(last.iterdir()):
        last.rmdir()


def remove_traces(folder: Path) -> None:
    """Takes away the log, the tracker's files, and models that a killed process left half-written."""
    (folder / LOG).unlink(missing_ok=True)
    for name in (PARTIAL_MODEL, COMPLETE_MODEL, COMPLETE_LAST):
        shutil.rmtree(folder / name, ignore_errors=True)
    tracker = folder / TRACKER
    if tracker.is_dir() and not tracker.is_symlink():
        for path in sorted(tracker.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                if not any(path.iterdir()):
                    path.rmdir()
            elif _TRACKER_FILE.fullmatch(path.name):
                path.unlink()
        if not any(tracker.iterdir()):
            tracker.rmdir()


def remove_files(folder: Path, names: Any) -> None:
    """Deletes files by their names in a folder, and folders that this leaves empty."""
    for name in names:
        path = folder / name
        path.unlink(missing_ok=True)
        while path.parent != folder and path.parent.is_dir() and not any(path.parent.iterdir()):
            path = path.parent
            path.rmdir()


def _model_files(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        return {}
    code = {path.name for room in ("modeling", "processing") for path in _PACKAGE.glob(f"{room}/*.py")}
    return {
        path.name: "" for path in sorted(folder.iterdir()) if _MODEL_FILE.fullmatch(path.name) or path.name in code
    }


def _is_plain(folder: Path, name: str) -> bool:
    """Whether a name of a record is that of a file within the folder."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts and (folder / name).is_file()
