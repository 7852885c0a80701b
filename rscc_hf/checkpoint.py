"""Finding and loading a checkpoint: what lies in a folder or on the Hub, made ready to answer."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HTTPError,  # of whichever client it uses
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import safe_open
from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.utils import cached_file

from rscc_hf.errors import InputError, input_errors
from rscc_hf.formats.training import TrainingSummary
from rscc_hf.modeling.checkpoint_code import refuse_adapters
from rscc_hf.precision import quick_dtype, try_dtype
from rscc_hf.reading import is_unreadable
from rscc_hf.text import reason_of

logger = logging.getLogger(__name__)

# A digest of the weights reads this many blocks of this many bytes from each file: enough that two trainings do not
# agree, and still quick for a file of many gigabytes.
_DIGEST_BLOCKS = 64
_DIGEST_BLOCK_BYTES = 65536
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Checkpoint:
    """A model and its processor, and where they come from.

    Attributes:
        model: The model, on its device, in evaluation mode.
        processor: Its processor.
        name: The folder or Hub id as it was given.
        fingerprint: The Hub's commit, or a digest of the settings and of samples of the weights of a local folder.
        trained_on: `trained_on` of the checkpoint's `training_summary.json` ("synthetic", ...), if it has one.
    """

    model: Any
    processor: Any
    name: str
    fingerprint: str | None
    trained_on: str | None


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """Choose the device to run on.

    Args:
        device: A device, its name (`"cuda"`, `"cuda:1"`, `"mps"`, `"cpu"`), or `None` or `"auto"` for the
            first of cuda, mps and cpu that this machine has.

    Raises:
        ValueError: The name means nothing, or this machine has no such device.
    """
    if device is None or device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device {str(device)!r} is unknown; use auto, cpu, cuda, cuda:N or mps.") from error
    missing = (chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count()) or (
        chosen.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        raise InputError(f"device {str(device)!r} is not on this machine; use auto or cpu.")
    return chosen


def choose_dtype(dtype: str | torch.dtype | None = None) -> torch.dtype | str:
    """Choose the number format of the weights.

    Args:
        dtype: A floating `torch.dtype`, its name (`"float32"`, `"bfloat16"`, `"float16"`), or `None` or
            `"auto"` for the one in which the checkpoint was saved, or float32 where that one is emulated on the device
            and float32 fits into its memory; a warning says so. What is asked for is taken, slow or not.

    Raises:
        ValueError: It is no floating-point format of torch.
    """
    if dtype is None or dtype == "auto":
        return "auto"
    chosen = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(chosen, torch.dtype) or not chosen.is_floating_point:
        raise InputError(f"dtype {str(dtype)!r} is unknown; use auto, float32, bfloat16 or float16.")
    return chosen


def load_checkpoint(
    path_or_id: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> Checkpoint:
    """Load a model and its processor from a folder or the Hub.

    Args:
        path_or_id: A folder that `save_pretrained` wrote, or a Hub id.
        device: See `choose_device`.
        dtype: See `choose_dtype`.
        trust_remote_code: Run the Python files that ship with the checkpoint.
        revision: Branch, tag or commit on the Hub; a folder has none.

    Raises:
        ValueError: There is no such checkpoint, it is damaged or incomplete, it cannot write captions, or a folder is
            given with a revision.
    """
    name = os.fspath(path_or_id)
    chosen_device, chosen_dtype = choose_device(device), choose_dtype(dtype)
    _check_there_is(name, revision)
    common: dict[str, Any] = {"trust_remote_code": trust_remote_code, "revision": revision}
    try:
        chosen_dtype = _settle_dtype(chosen_dtype, chosen_device, name, common)
        # Only safetensors: a pickle from elsewhere may run anything when it is opened.
        model, info = AutoModel.from_pretrained(
            name, dtype=chosen_dtype, use_safetensors=True, output_loading_info=True, **common
        )
        processor = AutoProcessor.from_pretrained(name, **common)
    except Exception as error:
        if not is_unreadable(error):
            raise
        raise InputError(_loading_error(name, error)) from error
    # transformers fills what a file lacks with random numbers and goes on: such a model must not answer.
    missing = sorted(info["missing_keys"])
    if missing:
        raise InputError(f"{name} lacks {len(missing)} weights of its model ({missing[0]}, ...); save it again.")
    if not getattr(model, "can_generate", lambda: False)():
        raise InputError(f"{name} is a {type(model).__name__}, which cannot write captions; give a captioning model.")
    return Checkpoint(
        model=model.to(chosen_device).eval(),
        processor=processor,
        name=name,
        fingerprint=source_fingerprint(name, revision),
        trained_on=_trained_on(name, revision),
    )


def _settle_dtype(
    dtype: torch.dtype | str, device: torch.device, name: str, common: dict[str, Any]
) -> torch.dtype | str:
    """Settle what `choose_dtype` left open; say in one sentence what is slow, or is not as it was saved."""
    if isinstance(dtype, torch.dtype):
        if dtype in (torch.bfloat16, torch.float16):
            trial = try_dtype(device, dtype)
            if trial.emulated:
                logger.warning("dtype %s: %s; give float32 where it fits into memory.", trial.name, trial.verdict)
        return dtype
    config = AutoConfig.from_pretrained(name, **common)
    if getattr(config, "quantization_config", None) is not None:
        return dtype
    saved = config.dtype or _dtype_of_weights(name, common["revision"])
    if saved is None:
        return dtype
    chosen, note = quick_dtype(saved, lambda: _weight_bytes(name, common["revision"]), device)
    if note:
        logger.warning("%s: %s.", name, note)
    return dtype if chosen == saved else chosen


def _dtype_of_weights(name: str, revision: str | None) -> torch.dtype | None:
    """Read that of the first floating tensor, as transformers does if config.json says nothing; None: not told."""
    weights = _optional_file(name, "model.safetensors", revision)
    index = _optional_file(name, "model.safetensors.index.json", revision)
    if weights is None and index is not None:
        try:
            shards = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()
            weights = _optional_file(name, min(shards), revision)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None  # loading will say what is wrong with it
    if weights is None:
        return None
    with safe_open(weights, framework="pt") as file:
        kinds = (file.get_slice(key).get_dtype() for key in file.keys())  # noqa: SIM118 (it is no dict)
        return next((_DTYPES[kind] for kind in kinds if kind in _DTYPES), None)


def _weight_bytes(name: str, revision: str | None) -> float:
    """Size of the weights, which are fetched from the Hub if need be; infinity where it cannot be told."""
    index = _optional_file(name, "model.safetensors.index.json", revision)
    if index is not None:
        try:
            return float(json.loads(Path(index).read_text(encoding="utf-8"))["metadata"]["total_size"])
        except (ValueError, KeyError, TypeError):
            return float("inf")  # loading will say what is wrong with it
    weights = _optional_file(name, "model.safetensors", revision)
    return float("inf") if weights is None else Path(weights).stat().st_size


def _check_there_is(name: str, revision: str | None) -> None:
    """Refuse at once what could only fail later: transformers asks a Hub that is out of reach for a minute."""
    path = Path(name)
    if path.is_file():
        raise InputError(f"{name} is a file; give the folder that save_pretrained wrote.")
    if path.is_dir():
        if revision is not None:
            raise InputError(f"revision belongs to a model on the Hub, and {name} is a folder; leave it out.")
        with input_errors():
            refuse_adapters(name, {})
        if not (path / "config.json").is_file():
            raise InputError(f"{name} holds no config.json; give the folder that save_pretrained wrote.")
        return
    if not _HUB_ID.fullmatch(name):
        raise InputError(f"there is no folder {name}; give the folder that save_pretrained wrote, or a Hub id.")
    if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
        return  # was downloaded before: needs no network
    try:
        HfApi().model_info(name, revision=revision, timeout=10)
    except RepositoryNotFoundError as error:
        raise InputError(
            f"there is neither a folder {name} nor a model of that name on the Hub that you may see; give one of both."
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(
            f"{name} has no revision {revision} on the Hub; give one of its branches, tags or commits."
        ) from error
    except (HTTPError, OSError, ValueError) as error:
        raise InputError(
            f"there is no folder {name}, and the Hub cannot be asked for it ({reason_of(error)}); try again."
        ) from error


def _loading_error(name: str, error: Exception) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, GatedRepoError):
            return f"{name} is gated; ask for access on its page on the Hub, then log in (hf auth login)."
        cause = cause.__cause__ or cause.__context__
    reason = reason_of(error, whole=True)
    if "trust_remote_code" in reason:
        return (
            f"{name} needs the Python code that ships with it; if you trust its author, allow it with"
            " trust_remote_code=True (--trust-remote-code)."
        )
    return f"{name} cannot be loaded ({reason}); give a whole checkpoint of a version that is installed here."


def source_fingerprint(name: str, revision: str | None = None) -> str | None:
    """Get the Hub's commit (None where its files are not in the cache), or the digest of a local folder."""
    folder = Path(name)
    if not folder.is_dir():
        # the cache keeps the files of a commit in a folder of its name
        found = try_to_load_from_cache(name, "config.json", revision=revision)
        return Path(found).parent.name[:12] if isinstance(found, str) else None
    return fingerprint_of(folder)


def fingerprint_of(folder: Path) -> str:
    """Digest the settings and samples of the weights of a local checkpoint into twelve digits."""
    digest = hashlib.sha256()
    settings = sorted(path for path in folder.glob("*.json") if path.name != TrainingSummary.NAME)
    weights = [*sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*.bin"))]
    for path in [*settings, *weights]:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size};".encode())
        stride = max(size // _DIGEST_BLOCKS, _DIGEST_BLOCK_BYTES)
        with path.open("rb") as file:
            for offset in range(0, size, stride):
                file.seek(offset)
                digest.update(file.read(_DIGEST_BLOCK_BYTES))
    return digest.hexdigest()[:12]


def _optional_file(name: str, file: str, revision: str | None) -> str | None:
    """Find where a file of a folder or the Hub lies on this machine; None: it has none, or cannot be asked."""
    return cached_file(
        name,
        file,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )


def _trained_on(name: str, revision: str | None) -> str | None:
    """Return what the checkpoint's summary says it was trained on; None: it has none, or a damaged one."""
    found = _optional_file(name, TrainingSummary.NAME, revision)
    try:
        return None if found is None else TrainingSummary.read(Path(found)).trained_on
    except InputError as error:
        logger.warning("What %s was trained on is not known: %s", name, error)
        return None
