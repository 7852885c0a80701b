"""The authors' CCExpert folder -> a checkpoint of ours, at the memory of one weight at a time.

A released folder holds `config.json` (`model_type` `llava_qwen_cc`) and weights in one or several files
(github.com/Meize0729/CCExpert, Apache-2.0). All that can be wrong with it is found from headers, before a weight is
read; what was written is read again and compared.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoTokenizer

from rscc_hf.checkpoint_folder import new_checkpoint
from rscc_hf.conversion.ccexpert import carried, official_to_ours, rename_state_dict, translate_config
from rscc_hf.conversion.checks import check_complete
from rscc_hf.conversion.output import check_unchanged, source_of, stamps, write_provenance
from rscc_hf.conversion.shards import (
    MAX_FILE_BYTES,
    WeightFile,
    all_tensors,
    check_finite,
    digest,
    find_weight_files,
    plan_files,
    read_json,
    write_index,
    write_safetensors,
)
from rscc_hf.errors import InputError, input_errors
from rscc_hf.formats.records import Source
from rscc_hf.hub.cards import write_model_card
from rscc_hf.modeling import CCExpertConfig, CCExpertForConditionalGeneration
from rscc_hf.processing.chat_templates_ccexpert import RELEASE_PROMPT, prepare_tokenizer
from rscc_hf.processing.processing_ccexpert import CCExpertProcessor
from rscc_hf.trial import run_a_pair

_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "tokenizer.model"),
    *("added_tokens.json", "special_tokens_map.json"),
)
OUR_EMBEDDING, HEAD = "language_model.embed_tokens.weight", "lm_head.weight"
_EMBEDDING = "model.embed_tokens.weight"

# What transformers and torch raise where a configuration makes no sense.
CONFIG_ERRORS = (
    *(ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, StrictDataclassError),
)


@dataclass(frozen=True)
class Converted:
    """What a conversion did.

    Attributes:
        folder: the new checkpoint.
        parameters: how many numbers it learned.
        dropped: official names that were not carried on, sorted.
        has_processor: whether it can read images and write words.
        ran: whether it was loaded in a new process.
        caption: what it said of a made-up pair there.
    """

    folder: Path
    parameters: int
    dropped: list[str]
    has_processor: bool
    ran: bool = False
    caption: str | None = None


def convert_ccexpert(
    folder: Path,
    out: Path,
    *,
    tokenizer: Path | None = None,
    overwrite: bool = False,
    verify: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Converted:
    """Convert a released CCExpert.

    Peak memory is that of one weight (safetensors) or what is mapped of one file (`.bin`), beside the libraries.

    Args:
        folder: the release's, with `config.json` and weights.
        out: the checkpoint to make; it appears when it is whole.
        tokenizer: folder of the tokenizer that the release was trained with; `None` is the one in `folder`, and where
            there is none, only the model is made.
        overwrite: whether a checkpoint at `out` is replaced.
        verify: load the result in a new process without this package, and run a pair through it.
        progress: called with the number of tensors that were written and checked, and of all.

    Raises:
        ValueError: naming the file or field and the remedy; nothing is left at `out`.
    """
    sources = [folder] if tokenizer is None else [folder, tokenizer]
    with new_checkpoint(out, overwrite=overwrite, sources=sources) as new:
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}; give the folder of the release.")
        before = stamps(folder) if tokenizer is None else stamps(folder, tokenizer)
        release = read_json(folder / "config.json")
        files = find_weight_files(folder)
        if tokenizer is None and holds_tokenizer(folder):
            tokenizer = folder
        words = None if tokenizer is None else load_tokenizer(tokenizer)
        config, moves = _plan(folder, release, all_tensors(files), words)
        _check_ties(files, config)
        model = _empty_model(config, _common_dtype(files))
        check_room(out, sum(move.target.nbytes for move in moves.values()))

        _set_ends(model, folder, release, words)
        model.save_pretrained(new, state_dict={})  # all but the weights
        if words is not None:
            with input_errors(where=str(tokenizer)):
                CCExpertProcessor.for_config(config, words, prompt=RELEASE_PROMPT).save_pretrained(new)
        steps = _Steps(progress, 2 * len(moves))
        digests = _write(new, files, moves, steps)
        verify_folder(new, config, digests, steps)

        dropped = sorted(set(all_tensors(files)) - {move.official for move in moves.values()})
        write_provenance(
            new,
            weight_sources(folder, files) + ([] if tokenizer is None else tokenizer_sources(tokenizer)),
            {
                "converter": "rscc convert ccexpert",
                "format": "released CCExpert (llava_qwen_cc)",
                "dtypes": dict(Counter(str(move.target.dtype).removeprefix("torch.") for move in moves.values())),
                "weights": len(moves),
                "dropped": dropped,
                "tokenizer": words is not None,
                "prompt": RELEASE_PROMPT if words is not None else None,
            },
        )
        check_unchanged(before)
        write_model_card(new, name=out.resolve().name)
        caption = run_a_pair(new) if verify else None
    parameters = sum(move.target.numel() for move in moves.values())
    return Converted(out, parameters, dropped, words is not None, verify, caption)


# --- the plan -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Move:
    """Where a weight comes from, and what becomes of it (on the meta device)."""

    official: str
    target: torch.Tensor


def _plan(
    folder: Path, release: Mapping[str, Any], weights: Mapping[str, torch.Tensor], words: Any
) -> tuple[CCExpertConfig, dict[str, _Move]]:
    """Return our configuration, and the weights by our names; every name and shape is checked."""
    settings = {} if words is None else {"image_token_id": words.convert_tokens_to_ids("<image>")}
    try:
        config = translate_config(release, weights, **settings)
        rename_state_dict(weights, config)
    except CONFIG_ERRORS as error:
        raise InputError(f"{folder} cannot be converted: {why(error)}") from error
    names = official_to_ours(weights, config)
    return config, {ours: _Move(name, carried(ours, weights[name])) for name, ours in names.items() if ours}


def _empty_model(config: CCExpertConfig, dtype: torch.dtype) -> CCExpertForConditionalGeneration:
    """Return the model on the meta device."""
    with torch.device("meta"):
        model: Any = CCExpertForConditionalGeneration(config)
    return model.to(dtype)


def _common_dtype(files: Sequence[WeightFile]) -> torch.dtype:
    """Return the type of most bytes, in which the model is loaded by default."""
    sizes: Counter[torch.dtype] = Counter()
    for tensor in all_tensors(files).values():
        sizes[tensor.dtype] += tensor.nbytes
    return sizes.most_common(1)[0][0]


def _set_ends(model: CCExpertForConditionalGeneration, folder: Path, release: Mapping[str, Any], words: Any) -> None:
    """End generation at the tokenizer's end of a turn and wherever the release's own settings end it."""
    path = folder / "generation_config.json"
    ends: list[int] = [] if words is None else [words.eos_token_id]
    for source in (release, read_json(path) if path.is_file() else {}):
        given = source.get("eos_token_id")
        for end in given if isinstance(given, list) else [given]:
            if isinstance(end, int) and not isinstance(end, bool) and end not in ends:
                ends.append(end)
    settings = model.generation_config
    if ends:
        settings.eos_token_id = ends if len(ends) > 1 else ends[0]
    if words is not None:
        settings.pad_token_id = words.pad_token_id
    elif settings.pad_token_id is None and ends:
        settings.pad_token_id = ends[0]


# --- writing and checking -------------------------------------------------------------------------------------------


class _Steps:
    """Counts what was done, for a bar."""

    def __init__(self, progress: Callable[[int, int], None], total: int):
        self.progress, self.total, self.done = progress, total, 0

    def step(self) -> None:
        self.done += 1
        self.progress(self.done, self.total)


def _write(new: Path, files: Sequence[WeightFile], moves: Mapping[str, _Move], steps: _Steps) -> dict[str, str]:
    """Write the weights, each file of the release into its own, and return the digest of each as it was read."""
    targets = {name: move.target for name, move in moves.items()}
    runs: list[tuple[WeightFile, list[str]]] = []
    for file in files:
        mine = [name for name, move in moves.items() if move.official in file.tensors]
        runs += [(file, names) for names in plan_files(mine, targets, MAX_FILE_BYTES)]
    written: dict[str, list[str]] = {}
    digests: dict[str, str] = {}
    for number, (file, names) in enumerate(runs, start=1):
        part = "" if len(runs) == 1 else f"-{number:05d}-of-{len(runs):05d}"
        with file.reader() as read:

            def next_weight(name: str, read: Callable[[str], torch.Tensor] = read) -> torch.Tensor:
                steps.step()
                weight = read(moves[name].official)
                check_finite(moves[name].official, weight)
                return carried(name, weight)

            path = new / f"model{part}.safetensors"
            digests |= write_safetensors(path, {name: targets[name] for name in names}, next_weight)
        written[path.name] = names
    if len(runs) > 1:
        write_index(new, written, sum(target.nbytes for target in targets.values()))
    return digests


def verify_folder(new: Path, config: CCExpertConfig, digests: Mapping[str, str], steps: _Steps) -> None:
    """Check a written checkpoint against the model and against what was read, tensor by tensor.

    Args:
        new: the checkpoint's folder.
        config: of its model, which is built on the meta device.
        digests: of the weights as they were read, by our names.
        steps: counts the weights.

    Raises:
        ValueError: a weight is not there, has another shape or other values.
    """
    files = find_weight_files(new)
    found = all_tensors(files)
    if config.tie_word_embeddings and OUR_EMBEDDING in found:
        found.setdefault(HEAD, found[OUR_EMBEDDING])
    check_complete(found, CCExpertForConditionalGeneration, config)
    for file in files:
        with file.reader() as read:
            for name in file.tensors:
                if digest(read(name)) != digests[name]:
                    raise InputError(f"{name} was not written as it was read; see to the disk, and convert it again.")
                steps.step()


def _check_ties(files: Sequence[WeightFile], config: CCExpertConfig) -> None:
    """Refuse a head beside tied embeddings that is not the embedding: the release would overwrite it when it loads."""
    if not config.tie_word_embeddings or HEAD not in all_tensors(files):
        return
    digests: dict[str, str] = {}
    for file in files:
        with file.reader() as read:
            digests |= {name: digest(read(name)) for name in (_EMBEDDING, HEAD) if name in file.tensors}
    if digests[_EMBEDDING] != digests[HEAD]:
        raise InputError(
            f"{HEAD} differs from {_EMBEDDING}, but config.json has tie_word_embeddings=true; say false there if the "
            "head was trained."
        )


# --- what converters of CCExpert share ------------------------------------------------------------------------------


def load_tokenizer(folder: Path) -> Any:
    """Read the tokenizer of a folder, with what CCExpert needs added; no code of the folder is run.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give the folder of the tokenizer.")
    try:
        with tempfile.TemporaryDirectory() as apart:  # from a config.json or code that lie beside it
            for path in _tokenizer_files(folder):
                shutil.copyfile(path, Path(apart) / path.name)
            tokenizer = AutoTokenizer.from_pretrained(apart, trust_remote_code=False, local_files_only=True)
        tokenizer.name_or_path = ""
        return prepare_tokenizer(tokenizer)
    except Exception as error:  # whatever the libraries trip over in a damaged file
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{folder} holds no tokenizer that can be read ({reason}); give another folder.") from error


def why(error: Exception) -> str:
    """Say what is wrong in a sentence; errors other than `ValueError` are a library's, over numbers of config.json."""
    reason = " ".join(str(error).split())
    if type(error) is ValueError:
        return reason
    return f"its config.json makes no model ({type(error).__name__}: {reason[:300]}); fetch it again."


def holds_tokenizer(folder: Path) -> bool:
    """Tell whether a tokenizer lies in a folder."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json"))


def check_room(out: Path, size: int) -> None:
    """Refuse at once what the disk cannot hold.

    Args:
        out: the folder to make.
        size: of the weights in bytes.

    Raises:
        ValueError: there is less room.
    """
    existing = next(parent for parent in out.resolve().parents if parent.is_dir())
    free = shutil.disk_usage(existing).free
    if free < size:
        raise InputError(f"{out} needs {size / 1e9:.1f} GB and its disk has {free / 1e9:.1f} GB free; make room.")


def weight_sources(folder: Path, files: Sequence[WeightFile]) -> list[Source]:
    """Tell what was read of a checkpoint's folder but its tokenizer, with SHA-256."""
    index = f"{'pytorch_model.bin' if files[0].path.suffix == '.bin' else 'model.safetensors'}.index.json"
    read = [*(folder / name for name in ("config.json", "generation_config.json", index)), *(f.path for f in files)]
    return [source_of(path) for path in read if path.is_file()]


def tokenizer_sources(folder: Path) -> list[Source]:
    """Return the files of a folder that say how words become tokens, with SHA-256."""
    return [source_of(path, f"tokenizer/{path.name}") for path in _tokenizer_files(folder)]


def _tokenizer_files(folder: Path) -> list[Path]:
    """Return those that are there."""
    return [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]
