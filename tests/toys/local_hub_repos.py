"""What the small Hub of the tests keeps: repositories with commits, branches and tags; requests; planned breaks."""

import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime

import yaml

# What the Hub keeps outside git, by its usual .gitattributes; and whatever is no text.
LARGE = (".safetensors", ".parquet", ".bin", ".arrow", ".npy", ".npz", ".zip", ".tar", ".gz", ".pt", ".pth", ".ckpt")
FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)\r?\n---\s*(?:\r?\n|\Z)", re.DOTALL)


def is_large(path: str, sample: bytes) -> bool:
    """Whether a file goes to the large-file store; `sample` are its first bytes, 512 at most."""
    if path.endswith(LARGE) or b"\0" in sample:
        return True
    try:
        sample.decode()
    except UnicodeDecodeError as error:
        return error.start < len(sample) - 3  # a character that the sample cuts is none
    return False


@dataclass(frozen=True)
class Request:
    """A request that arrived: where, what for, which bytes, with whose token, and the status of the answer."""

    host: str
    method: str
    path: str
    range: str | None
    token: str | None
    status: int


@dataclass
class Break:
    """What goes wrong: `times` requests of `method` whose file ends with `name` break after `after` bytes."""

    method: str
    name: str
    after: int
    times: int
    status: int | None = None


@dataclass(frozen=True)
class Blob:
    """The content of one file.

    Attributes:
        content: Its bytes.
        large: Whether it is in the large-file store.
    """

    content: bytes
    large: bool

    @property
    def sha256(self) -> str:
        """Checksum, the name in the large-file store."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def git_oid(self) -> str:
        """What git calls it; of a large file its pointer."""
        stored = self.pointer if self.large else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def pointer(self) -> bytes:
        """What stands in git in place of a large file."""
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return text.encode()

    @property
    def etag(self) -> str:
        """What names the content to a client."""
        return self.sha256 if self.large else self.git_oid

    def describe(self, path: str) -> dict[str, object]:
        """An entry of the Hub's tree listing."""
        entry: dict[str, object] = {
            "type": "file", "oid": self.git_oid, "size": len(self.content), "path": path,
        }  # fmt: skip
        if self.large:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": len(self.pointer)}
        return entry


@dataclass(frozen=True)
class Commit:
    """One state of a repository."""

    sha: str
    files: dict[str, Blob]
    message: str
    parent: str | None
    date: str


@dataclass
class Repo:
    """A repository: commits by name, and branches and tags that point to them."""

    id: str
    kind: str
    gated: bool = False
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    granted: bool = False

    def find(self, revision: str) -> Commit | None:
        """The commit of a branch, a tag, or a (shortened) name of a commit."""
        sha = self.branches.get(revision) or self.tags.get(revision)
        if sha is None and re.fullmatch(r"[0-9a-f]{7,40}", revision):
            sha = next((name for name in self.commits if name.startswith(revision)), None)
        return None if sha is None else self.commits[sha]

    def commit(self, files: dict[str, Blob], message: str, branch: str, parent: str | None) -> Commit:
        """Makes `files` the whole content of a branch."""
        listing = "".join(f"{path} {blob.git_oid}\n" for path, blob in sorted(files.items()))
        name = hashlib.sha1(f"{self.kind} {self.id} {len(self.commits)} {parent} {message}\n{listing}".encode())
        date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        commit = Commit(name.hexdigest(), dict(files), message, parent, date)
        self.commits[commit.sha] = commit
        self.branches[branch] = commit.sha
        return commit

    def describe(self, commit: Commit, blobs: bool = False) -> dict[str, object]:
        """What the Hub tells of a model or data set."""
        card = read_front_matter(commit.files["README.md"].content) if "README.md" in commit.files else None
        dates = [other.date for other in self.commits.values()]
        described: dict[str, object] = {
            "_id": hashlib.md5(self.id.encode(), usedforsecurity=False).hexdigest()[:24],
            "id": self.id,
            "author": self.id.split("/")[0],
            "sha": commit.sha,
            "private": self.private,
            "gated": "manual" if self.gated else False,
            "disabled": False,
            "createdAt": dates[0],
            "lastModified": commit.date,
            "downloads": 0,
            "likes": 0,
            "tags": list((card or {}).get("tags") or ()),
            "siblings": [
                {"rfilename": path}
                | ({"size": len(blob.content), "blobId": blob.git_oid} if blobs else {})
                | ({"lfs": blob.describe(path)["lfs"] | {"sha256": blob.sha256}} if blobs and blob.large else {})
                for path, blob in sorted(commit.files.items())
            ],
            "spaces": [],
        }
        if card is not None:
            described["cardData"] = card
        if self.kind == "model":
            described["modelId"] = self.id
            described |= {key: card[key] for key in ("pipeline_tag", "library_name") if card and key in card}
        return described

    def tree(self, commit: Commit, folder: str, recursive: bool, expand: bool) -> list[dict[str, object]] | None:
        """The listing of a folder; None where there is no such folder."""
        prefix = f"{folder}/" if folder else ""
        inside = {path: blob for path, blob in sorted(commit.files.items()) if path.startswith(prefix)}
        if folder and not inside:
            return None
        entries: dict[str, dict[str, object]] = {}
        for path, blob in inside.items():
            parts = path[len(prefix) :].split("/")
            for depth in range(1, len(parts) if recursive else min(2, len(parts))):
                above = prefix + "/".join(parts[:depth])
                entries.setdefault(above, describe_folder(above))
            if recursive or len(parts) == 1:
                entries[path] = blob.describe(path)
        last = {"id": commit.sha, "title": commit.message, "date": commit.date}
        return [entry | ({"lastCommit": last} if expand else {}) for entry in entries.values()]


def describe_folder(path: str) -> dict[str, object]:
    """A folder's entry of the Hub's tree listing."""
    return {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}


def read_front_matter(content: bytes) -> dict | None:
    """The metadata of a card; None where there is none.

    Raises:
        ValueError: It is no YAML, or no mapping.
    """
    found = FRONT_MATTER.match(content.decode())
    if found is None:
        return None
    try:
        data = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        raise ValueError(f"the metadata is no YAML: {error}") from error
    if not isinstance(data, dict):
        raise ValueError("the metadata must be a mapping")
    return data
