"""The Hub's side of a push: what is there, what would change, and the upload.

`HfApi.upload_folder` does the work. It is there in every version of huggingface_hub that this package supports (its
sister `upload_large_folder` is gone since version 2, where `upload_folder` took over its manner), it can remove stale
files in the same commit, and it resumes: what has arrived of an upload that broke off is not sent again.
All of this was tested with Xet off (HF_HUB_DISABLE_XET=1) only.
"""

from __future__ import annotations

import glob
import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of whichever client huggingface_hub uses
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from rscc_hf.errors import PushError

Kind = Literal["model", "dataset"]
_ATTEMPTS = 4
_FIRST_WAIT = 1.0  # seconds before the second attempt; doubled each time
# Weights and shards of an earlier push would be read along with the new ones.
_STALE: dict[str, tuple[str, ...]] = {
    "model": (
        r"[^/]*\.safetensors",
        r"[^/]*\.index\.json",
        r"pytorch_model[^/]*\.bin",
        r"adapter_config\.json",
        r"adapter_model\.[^/]*",
    ),
    "dataset": (r"(data/)?[^/]*\.parquet",),
}


@dataclass(frozen=True)
class FileChange:
    """A file of the folder or of the repository.

    Attributes:
        name: In the repository.
        size: In bytes, after the push; of a removed or kept one, now.
        what: "new", "changed" or "same"; of those that are in the repository alone "removed" or "kept".
    """

    name: str
    size: int
    what: Literal["new", "changed", "same", "removed", "kept"]


@dataclass
class PushPlan:
    """What a push does.

    Attributes:
        repo_id: `owner/name`.
        kind: "model" or "dataset".
        revision: The branch.
        exists: Whether the repository is there already.
        private: Whether it is private, or will be; None: as its owner's default is.
        changes: Every file.
        left_out: What stays here, with the reasons.
        notes: What else the user should know.
        url: Where it is, after the push.
    """

    repo_id: str
    kind: Kind
    revision: str
    exists: bool
    private: bool | None
    changes: list[FileChange]
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    url: str | None = None

    @property
    def is_needed(self) -> bool:
        """Whether anything would change."""
        return not self.exists or any(change.what in ("new", "changed", "removed") for change in self.changes)


def full_repo_id(repo_id: str, api: HfApi) -> str:
    """Return `repo_id` with its owner, which is the user where none is named.

    Raises:
        PushError: It is no id, or nobody is logged in.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise PushError(f"{repo_id} is no id of a repository ({reason}); give OWNER/NAME.") from error
    if "/" in repo_id:
        return repo_id
    try:
        return f"{api.whoami()['name']}/{repo_id}"
    except _HUB_ERRORS as error:
        raise PushError(f"{repo_id} names no owner and the Hub does not say who you are ({_reason(error)}); "
                        "give OWNER/NAME, or log in with `hf auth login`.") from error  # fmt: skip


def plan_push(stage: Path, repo_id: str, kind: Kind, *, private: bool, revision: str | None, api: HfApi) -> PushPlan:
    """Compare a folder with the repository; nothing is changed.

    Args:
        stage: Exactly what is to be there.
        repo_id: `owner/name`.
        kind: "model" or "dataset".
        private: Whether the repository must be private.
        revision: The branch; main when omitted.
        api: The Hub.

    Raises:
        PushError: The repository cannot be read, or is public and must not be.
    """
    branch = revision or "main"
    exists, is_private, there = True, None, {}
    try:
        info = api.repo_info(repo_id, repo_type=kind)
        is_private = bool(info.private)
        there = _listed(api, repo_id, kind, branch)
    except GatedRepoError as error:
        raise PushError(f"{repo_id} is gated and you have no access to it; ask its owner on the Hub.") from error
    except RepositoryNotFoundError:
        exists = False
    except _HUB_ERRORS as error:
        raise PushError(_told(repo_id, error)) from error
    if exists and private and not is_private:
        raise PushError(f"{repo_id} exists and is public; make it private in its settings, or leave out --private.")
    return PushPlan(
        repo_id=repo_id,
        kind=kind,
        revision=branch,
        exists=exists,
        private=is_private if exists else (private or None),
        changes=_compare(stage, there, kind),
    )


def upload(
    stage: Path,
    plan: PushPlan,
    *,
    message: str | None,
    api: HfApi,
    on_retry: Callable[[str], None] | None = None,
) -> str:
    """Make the repository and the branch where they are missing, and upload what is new or changed.

    A transfer that breaks off is taken up again a few times; after that the same command continues.

    Args:
        stage: What `plan_push` saw.
        plan: What it said.
        message: Of the commit.
        api: The Hub.
        on_retry: Told why an attempt failed, before the next one.

    Returns:
        The address of the repository.

    Raises:
        PushError: The Hub refuses, or cannot be reached.
    """
    if get_token() is None and api.token is None:
        raise PushError(
            "nobody is logged in to the Hub; run `hf auth login`, or set HF_TOKEN to a token that may write."
        )
    gone = [change.name for change in plan.changes if change.what == "removed"]
    try:
        url = api.create_repo(plan.repo_id, repo_type=plan.kind, private=plan.private or None, exist_ok=True)
        if plan.revision != "main" and not plan.revision.startswith("refs/"):
            api.create_branch(plan.repo_id, repo_type=plan.kind, branch=plan.revision, exist_ok=True)
    except _HUB_ERRORS as error:
        raise PushError(_told(plan.repo_id, error)) from error
    wait = _FIRST_WAIT
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            api.upload_folder(
                repo_id=plan.repo_id,
                repo_type=plan.kind,
                folder_path=stage,
                revision=plan.revision,
                commit_message=message or f"Upload the {'model' if plan.kind == 'model' else 'data set'} with rscc_hf",
                delete_patterns=[glob.escape(name) for name in gone] or None,
            )
            break
        except (*_HUB_ERRORS, RuntimeError) as error:
            if attempt == _ATTEMPTS or not _is_passing(error):
                raise PushError(_told(plan.repo_id, error, uploading=True)) from error
            if on_retry is not None:
                on_retry(_reason(error))
            time.sleep(wait)
            wait *= 2
    return str(url)


def _listed(api: HfApi, repo_id: str, kind: Kind, branch: str) -> dict[str, RepoFile]:
    def read(revision: str) -> dict[str, RepoFile]:
        tree = api.list_repo_tree(repo_id, repo_type=kind, revision=revision, recursive=True)
        return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}

    try:
        return read(branch)
    except RevisionNotFoundError:
        return read("main")  # the branch will be made from it


def _compare(stage: Path, there: Mapping[str, RepoFile], kind: Kind) -> list[FileChange]:
    changes: list[FileChange] = []
    here = {path.relative_to(stage).as_posix(): path for path in sorted(stage.rglob("*")) if path.is_file()}
    for name, path in here.items():
        what: Any = "new"
        if name in there:
            what = "same" if _is_same(path, there[name]) else "changed"
        changes.append(FileChange(name, path.stat().st_size, what))
    for name, entry in sorted(there.items()):
        if name not in here and name != ".gitattributes":
            stale = any(re.fullmatch(pattern, name) for pattern in _STALE[kind])
            changes.append(FileChange(name, entry.size, "removed" if stale else "kept"))
    return changes


def _is_same(path: Path, entry: RepoFile) -> bool:
    """Compare by size, then by what the Hub knows a file by: SHA-256 of a large one, git's name of a small one."""
    size = path.stat().st_size
    if size != entry.size:
        return False
    if entry.lfs is not None:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == entry.lfs.sha256
    digest = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    digest.update(path.read_bytes())
    return digest.hexdigest() == entry.blob_id


_HUB_ERRORS = (HfHubHTTPError, HTTPError, OSError, ValueError, OfflineModeIsEnabled)


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _is_passing(error: BaseException) -> bool:
    """Tell whether it is worth another try: the connection or the Hub failed, not the request."""
    status = _status(error)
    if status is not None:
        return status >= 500 or status in (408, 429)
    return not isinstance(error, ValueError | FileNotFoundError | OfflineModeIsEnabled)


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def _told(repo_id: str, error: BaseException, uploading: bool = False) -> str:
    """Say it in one sentence with the remedy."""
    status = _status(error)
    if status == 401:
        return f"the Hub does not know your token ({_reason(error)}); run `hf auth login`."
    if status == 403:
        return f"your token may not write to {repo_id} ({_reason(error)}); use one that may, or another repository."
    if status == 404:
        return f"{repo_id} is not there for you ({_reason(error)}); look at its name and at who is logged in."
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it to reach the Hub."
    if (status is not None and status < 500) or (status is None and isinstance(error, ValueError)):
        return f"the Hub refuses {repo_id} ({_reason(error)})."
    if uploading:
        return f"the upload to {repo_id} broke off ({_reason(error)}); the same command goes on where it stopped."
    return f"the Hub cannot be asked for {repo_id} ({_reason(error)}); try again."
