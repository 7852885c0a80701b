"""A LLaVA-OneVision checkpoint (transformers format) -> a CCExpert to start training from.

LLaVA-OneVision: arXiv 2408.03326; its checkpoints carry licences of their own. Only the Difference-aware Integration
Module is new, drawn from a seed; everything else is checked to be the checkpoint's, number by number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors import SafetensorError
from transformers import AutoConfig

from rscc_hf.checkpoint_folder import new_checkpoint
from rscc_hf.conversion.ccexpert_release import (
    CONFIG_ERRORS,
    HEAD,
    OUR_EMBEDDING,
    Converted,
    check_room,
    holds_tokenizer,
    load_tokenizer,
    tokenizer_sources,
    weight_sources,
    why,
)
from rscc_hf.conversion.checks import check_complete, check_depth
from rscc_hf.conversion.output import check_unchanged, stamps, write_provenance
from rscc_hf.conversion.shards import (
    MAX_FILE_BYTES,
    WeightFile,
    all_tensors,
    check_finite,
    digest,
    find_weight_files,
    read_json,
)
from rscc_hf.errors import InputError, input_errors
from rscc_hf.hub.cards import write_model_card
from rscc_hf.modeling import CCExpertConfig, CCExpertForConditionalGeneration
from rscc_hf.modeling.loading_ccexpert import may_be_left_out, our_name, translate_config
from rscc_hf.processing.processing_ccexpert import CCExpertProcessor
from rscc_hf.text import reason_of
from rscc_hf.trial import run_a_pair

MODEL_TYPE = "llava_onevision"
_NEW = "integration."
_WANTED = ["*.json", "*.safetensors", "merges.txt", "tokenizer.model"]


@dataclass(frozen=True)
class Module:
    """Settings of the new module; what is None is the paper's.

    Attributes:
        integration: whether there is one.
        vision_levels: ascending indices into the tower's hidden states.
        num_integration_layers: change-aware transformer layers.
        seed: of its first weights.
    """

    integration: bool = True
    vision_levels: Sequence[int] | None = None
    num_integration_layers: int | None = None
    seed: int = 42

    def fields(self) -> dict[str, Any]:
        """Return the choices as fields of the configuration."""
        given: dict[str, Any] = {"integration": self.integration}
        if self.vision_levels is not None:
            given["vision_levels"] = list(self.vision_levels)
        if self.num_integration_layers is not None:
            given["num_integration_layers"] = self.num_integration_layers
        return given


def convert_llava_onevision(
    path_or_id: str,
    out: Path,
    *,
    module: Module | None = None,
    tokenizer: Path | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    verify: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Converted:
    """Make a CCExpert of a LLaVA-OneVision; the whole model is held in memory once.

    Args:
        path_or_id: folder, or id on the Hub, of a checkpoint in any of the namings that transformers has written.
        out: the checkpoint to make; it appears when it is whole.
        module: settings of the new module.
        tokenizer: folder of another tokenizer than the checkpoint's own; where there is none, only the model is made.
        revision: branch, tag or commit on the Hub.
        overwrite: whether a checkpoint at `out` is replaced.
        verify: load the result in a new process without this package, and run a pair through it.
        progress: called with the number of weights compared with what was read, and of all.

    Raises:
        ValueError: naming the file or field and the remedy; nothing is left at `out`.
    """
    module = module or Module()
    is_folder = Path(path_or_id).is_dir()
    if is_folder and revision is not None:
        raise InputError(f"revision belongs to a model on the Hub, and {path_or_id} is a folder; leave it out.")
    given = [Path(path_or_id)] if is_folder else []
    if tokenizer is not None:
        given.append(tokenizer)
    with new_checkpoint(out, overwrite=overwrite, sources=given) as new:
        folder = Path(path_or_id) if is_folder else _download(path_or_id, revision)
        before = stamps(folder) if tokenizer is None else stamps(folder, tokenizer)
        if (kind := read_json(folder / "config.json").get("model_type")) != MODEL_TYPE:
            raise InputError(
                f"{path_or_id} has model_type={kind!r}; give a LLaVA-OneVision checkpoint ({MODEL_TYPE!r})."
            )
        files = find_weight_files(folder)
        if files[0].path.suffix == ".bin":
            raise InputError(f"{path_or_id} has its weights in .bin files; give one with safetensors.")
        if tokenizer is None and holds_tokenizer(folder):
            tokenizer = folder
        words = None if tokenizer is None else load_tokenizer(tokenizer)
        fields = module.fields()
        if words is not None:
            fields["image_token_id"] = words.convert_tokens_to_ids("<image>")
        left_out = _check(path_or_id, folder, all_tensors(files), fields)
        check_room(out, sum(tensor.nbytes for tensor in all_tensors(files).values()))

        model = _load(path_or_id, folder, fields, module.seed)
        if words is not None:
            model.generation_config.update(eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id)
            with input_errors(where=str(tokenizer)):
                CCExpertProcessor.for_config(model.config, words).save_pretrained(new)
        model.save_pretrained(new, max_shard_size=MAX_FILE_BYTES)
        parameters = model.num_parameters()
        del model
        _verify(new, files, progress)
        details: dict[str, Any] = {
            "converter": "rscc convert llava-onevision",
            "format": "LLaVA-OneVision of transformers",
            "new_weights": f"{_NEW}* (Difference-aware Integration Module)" if module.integration else None,
            "seed": module.seed if module.integration else None,
            "dropped": left_out,
            "tokenizer": words is not None,
        }
        if not is_folder:
            details |= {"base_model": path_or_id, "revision": folder.name}
        sources = weight_sources(folder, files) + ([] if tokenizer is None else tokenizer_sources(tokenizer))
        write_provenance(new, sources, details)
        check_unchanged(before)
        write_model_card(new, name=out.resolve().name)
        caption = run_a_pair(new) if verify else None
    return Converted(out, parameters, left_out, words is not None, verify, caption)


def _download(repo_id: str, revision: str | None) -> Path:
    """Fetch the files of a repository into the cache of the Hub."""
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=_WANTED))
    except GatedRepoError as error:
        raise InputError(f"{repo_id} is gated; accept its terms on its page, then `hf auth login`.") from error
    except RevisionNotFoundError as error:
        raise InputError(f"{repo_id} has no revision {revision}; see its page for branches and tags.") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"there is neither a folder {repo_id} nor a public model of that name on the Hub; give one of both."
        ) from error
    except (HTTPError, OSError, ValueError) as error:
        raise InputError(
            f"there is no folder {repo_id}, and the Hub cannot be asked for it ({reason_of(error)}); try again."
        ) from error


def _check(name: str, folder: Path, weights: Mapping[str, torch.Tensor], fields: Mapping[str, Any]) -> list[str]:
    """Check every name and shape on the meta device, and return the names that have no use here."""
    parts = [read_json(folder / "config.json").get(part) for part in ("text_config", "vision_config")]
    depths = [part.get("num_hidden_layers") for part in parts if isinstance(part, dict)]
    try:
        for depth in (*depths, fields.get("num_integration_layers")):
            check_depth(depth, len(weights))
        source = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        config: CCExpertConfig = translate_config(CCExpertConfig, source, fields)
        left_out = sorted(weight for weight in weights if may_be_left_out(weight, config.vision.num_hidden_layers))
        found = {our_name(weight): tensor for weight, tensor in weights.items() if weight not in set(left_out)}
        if config.tie_word_embeddings and OUR_EMBEDDING in found:
            found.setdefault(HEAD, found[OUR_EMBEDDING])
        with torch.device("meta"):
            expected = CCExpertForConditionalGeneration(config).state_dict()
        module = {weight: tensor for weight, tensor in expected.items() if weight.startswith(_NEW)}
        check_complete(found | module, CCExpertForConditionalGeneration, config)
    except (*CONFIG_ERRORS, OSError) as error:
        raise InputError(f"{name} cannot be converted: {why(error)}") from error
    return left_out


def _load(name: str, folder: Path, fields: Mapping[str, Any], seed: int) -> CCExpertForConditionalGeneration:
    """Return the model, with the module drawn from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return CCExpertForConditionalGeneration.from_llava_onevision(folder, dtype="auto", **fields)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            reason = reason_of(error, whole=True)[:300]
            raise InputError(f"{name} cannot be loaded ({reason}); give a whole checkpoint.") from error


def _verify(new: Path, files: Sequence[WeightFile], progress: Callable[[int, int], None] | None) -> None:
    """Check that what was written is what was read, in the written type, tensor by tensor."""
    written = {name: file for file in find_weight_files(new) for name in file.tensors}
    done, total = 0, sum(len(file.tensors) for file in files)
    for file in files:
        with file.reader() as read:
            for name in file.tensors:
                ours = our_name(name)
                done += 1
                if progress is not None:
                    progress(done, total)
                if ours not in written:
                    continue  # has no use here, or is tied: names were checked before
                weight = read(name)
                check_finite(name, weight)
                with written[ours].reader() as read_again:
                    again = read_again(ours)
                    if digest(weight.to(again.dtype)) != digest(again):
                        raise InputError(f"{name} was not written as it was read; convert it again.")
