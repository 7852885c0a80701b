"""Pushing a model: the folder that `save_pretrained`, training or a converter left."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import HfApi

from rscc_hf.errors import PushError
from rscc_hf.formats.cards import is_ours
from rscc_hf.hub.cards.facts import read_json
from rscc_hf.hub.cards.model import render_model_card
from rscc_hf.hub.cards.rendering import CARD, earlier_metadata, read_card
from rscc_hf.hub.contents import SHORTENED, check_files, choose_files, shortened, staged
from rscc_hf.hub.upload import PushPlan, full_repo_id, plan_push, upload
from rscc_hf.trial import run_a_pair

OnStage = Callable[[str], None]


def push_model(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    revision: str | None = None,
    message: str | None = None,
    license: str | None = None,
    shorten_paths: bool = False,
    load: bool = True,
    on_stage: OnStage | None = None,
) -> PushPlan:
    """Push a checkpoint to the Hub, after a look at whether it may and can be used there.

    Weights, processor, code, recipe, results and the card go; what a training run needs for itself stays here. The
    card is written anew with the lines of code that load `repo_id`, unless somebody else wrote it; the folder itself
    is not changed.

    Args:
        folder: The checkpoint.
        repo_id: `OWNER/NAME`, or `NAME` for the user's own.
        private: Make the repository private.
        dry_run: Only say what would change.
        revision: Branch to push to, made from main where it is missing; main when omitted.
        message: Of the commit.
        license: Of the weights, for the card; that of an earlier card when omitted.
        shorten_paths: Cut absolute paths in `recipe.yaml` and `training_summary.json` to their last part.
        load: Load the checkpoint in a new process and caption a made-up pair first. It runs the code in the folder,
            and takes the memory that the model takes.
        on_stage: Told what is being done.

    Returns:
        What changed, or would change.

    Raises:
        PushError: The folder must not or cannot be pushed; one sentence that names the file and the remedy.
    """
    tell = on_stage or (lambda text: None)
    folder = Path(folder).expanduser()
    _check_is_checkpoint(folder)
    api = HfApi()
    repo_id = full_repo_id(repo_id, api)
    notes: list[str] = []
    contents = choose_files(folder)
    written = _written(folder, contents.files, repo_id, license, shorten_paths, notes)
    with staged(contents.files, written) as stage:
        tell("Looking for pickles, secrets and paths of this machine")
        check_files(
            {path.relative_to(stage).as_posix(): path for path in sorted(stage.rglob("*")) if not path.is_dir()},
            folder,
        )
        if load:
            tell("Loading it in a new process")
            _check_loads(folder, stage)
        tell(f"Comparing with {repo_id}")
        plan = plan_push(stage, repo_id, "model", private=private, revision=revision, api=api)
        plan.left_out, plan.notes = contents.left_out, notes
        if message is not None and not plan.is_needed:
            notes.append("The message was not used: there is nothing to push.")
        if not dry_run and plan.is_needed:
            tell(f"Uploading to {repo_id}")
            plan.url = upload(stage, plan, message=message, api=api, on_retry=lambda why: tell(f"{why}; trying again"))
    return plan


def card_stays(folder: Path) -> bool:
    """Tell whether the folder has a card that goes as it is, because somebody else wrote it."""
    existing = read_card(folder)
    return existing is not None and not is_ours(existing)


def _check_is_checkpoint(folder: Path) -> None:
    if not folder.is_dir():
        raise PushError(f"there is no folder {folder}; give the folder that save_pretrained wrote.")
    if (folder / "adapter_config.json").is_file():
        raise PushError(
            f"{folder} holds adapters (adapter_config.json); write a whole model with `python training/adapters.py "
            f"{folder} OUT` and push that."
        )
    for name, remedy in (
        ("config.json", "give the folder that save_pretrained wrote"),
        ("processor_config.json", "save the processor there too (processor.save_pretrained)"),
    ):
        if not (folder / name).is_file():
            raise PushError(f"{folder} holds no {name}; {remedy}.")
    if not any(folder.glob("*.safetensors")):
        raise PushError(f"{folder} holds no safetensors; save the model there (model.save_pretrained).")
    index = folder / "model.safetensors.index.json"
    try:
        shards = sorted(set((read_json(index).get("weight_map") or {}).values()))
    except ValueError as error:
        raise PushError(str(error)) from error
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise PushError(f"{index.name} names {missing[0]}, which is not there; save the model again.")


def _written(
    folder: Path, files: dict[str, Path], repo_id: str, license: str | None, shorten_paths: bool, notes: list[str]
) -> dict[str, str]:
    """Return the texts that go in another form than they lie here."""
    written: dict[str, str] = {}
    if shorten_paths:
        for name in SHORTENED:
            if name in files:
                text, keys = shortened(files[name])
                if keys:
                    written[name] = text
                    notes.append(f"{name} goes with shortened paths in {', '.join(keys)}.")
    existing = read_card(folder)
    if existing is not None and card_stays(folder):
        if license is not None:
            raise PushError(f"license is for cards of rscc_hf, and {CARD} goes as it is; write the licence there.")
        metadata = earlier_metadata(existing)
        notes.append(f"{CARD} was not written by rscc_hf and goes as it is.")
    else:
        written[CARD] = render_model_card(folder, repo_id=repo_id, license=license)
        metadata = earlier_metadata(written[CARD])
    if "license" not in metadata:
        remedy = "write one there" if CARD not in written else "--license NAME puts one there"
        notes.append(f"The card states no licence of the weights; {remedy}.")
    return written


def _check_loads(folder: Path, stage: Path) -> None:
    try:
        run_a_pair(stage)
    except ValueError as error:
        reason = str(error).rpartition("when it is loaded again: ")[2].rstrip(".")
        raise PushError(
            f"{folder} does not load in a new process ({reason}); save model and processor there again."
        ) from error
