"""A small Hub on loopback: what `huggingface_hub` asks of huggingface.co, as far as loading and pushing need it.

Models and data sets with branches, tags and commits; private and gated ones; downloads by range, with large files on
a host of their own as the Hub has them; uploads by the large-file protocol, in one piece or in parts; and connections
that break on demand. A process uses it by the environment that `LocalHub.environment` gives (the client reads
`HF_ENDPOINT` when it is imported).
"""

import threading
from collections.abc import Mapping
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

from toys.local_hub_api import make_handler
from toys.local_hub_repos import Blob, Break, Commit, Repo, Request, is_large


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # a client uploads and lists with many threads


class LocalHub:
    """The server; a context manager, or `start` and `stop`.

    Attributes:
        url: The endpoint, `http://127.0.0.1:PORT`.
        token: A token that may write to `user` and to the organisations.
        read_token: A token of the same user that may only read.
        requests: All requests so far, in order.
        part_bytes: Large files are to be sent in parts of this size; None: in one piece.
    """

    user = "tester"
    organisations = ("org",)
    token = "hf_localWriteToken"
    read_token = "hf_localReadToken"

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.store: dict[str, bytes] = {}  # large files by their SHA-256
        self.parts: dict[tuple[str, int], bytes] = {}
        self.requests: list[Request] = []
        self.part_bytes: int | None = None
        self._breaks: list[Break] = []
        self.lock = threading.RLock()
        self._servers = [_Server(("127.0.0.1", 0), make_handler(self, host)) for host in ("hub", "store")]
        self.url, self.store_url = (f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers)

    def start(self) -> "LocalHub":
        """Starts to answer."""
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Stops answering; again does nothing."""
        for server in self._servers[:]:
            server.shutdown()
            server.server_close()
            self._servers.remove(server)

    def __enter__(self) -> "LocalHub":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def environment(self, home: Path, token: str | None = token) -> dict[str, str]:
        """What a process needs in its environment to use this Hub, with an empty cache of its own in `home`."""
        settings = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",  # the endpoints here are those that a client without it uses
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_ETAG_TIMEOUT": "30",
            "HF_HUB_DOWNLOAD_TIMEOUT": "30",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }
        return settings | ({"HF_TOKEN": token} if token else {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"})

    def add_repo(
        self,
        repo_id: str,
        kind: str = "model",
        files: Mapping[str, bytes] | Path | None = None,
        gated: bool = False,
        private: bool = False,
    ) -> str:
        """Makes a repository; the name of its first commit.

        Args:
            repo_id: `owner/name`.
            kind: "model" or "dataset".
            files: Content by path, or a folder that is taken whole.
            gated: Whether its files are refused with 403 until `grant`.
            private: Whether it does not exist for those without a token.
        """
        self.repos[kind, repo_id] = Repo(repo_id, kind, gated, private)
        return self.add_commit(repo_id, files or {}, kind=kind, message="initial commit")

    def add_commit(
        self,
        repo_id: str,
        files: Mapping[str, bytes] | Path,
        revision: str = "main",
        kind: str | None = None,
        message: str = "Update",
    ) -> str:
        """Adds or replaces files on a branch (made from main where it is new); the name of the commit."""
        repo = self.repo(repo_id, kind)
        if isinstance(files, Path):
            folder = files
            files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        base = repo.find(revision) or repo.find("main")
        blobs = {path: Blob(content, is_large(path, content[:512])) for path, content in files.items()}
        with self.lock:
            self.store |= {blob.sha256: blob.content for blob in blobs.values() if blob.large}
            files_before, parent = (base.files, base.sha) if base else ({}, None)
            return repo.commit(files_before | blobs, message, revision, parent).sha

    def add_tag(self, repo_id: str, tag: str, revision: str = "main", kind: str | None = None) -> None:
        """Names a commit."""
        self.repo(repo_id, kind).tags[tag] = self.commit(repo_id, revision, kind).sha

    def grant(self, repo_id: str, kind: str | None = None) -> None:
        """Lets the user into a gated repository."""
        self.repo(repo_id, kind).granted = True

    def repo(self, repo_id: str, kind: str | None = None) -> Repo:
        """The repository; of any kind where that is not said.

        Raises:
            KeyError: There is none.
        """
        for one in ("model", "dataset") if kind is None else (kind,):
            if (one, repo_id) in self.repos:
                return self.repos[one, repo_id]
        raise KeyError(f"there is no repository {repo_id}")

    def exists(self, repo_id: str, kind: str | None = None) -> bool:
        """Whether there is such a repository."""
        return any(name == repo_id and kind in (None, other) for other, name in self.repos)

    def commit(self, repo_id: str, revision: str = "main", kind: str | None = None) -> Commit:
        """A commit of a repository.

        Raises:
            KeyError: There is no such repository or revision.
        """
        found = self.repo(repo_id, kind).find(revision)
        if found is None:
            raise KeyError(f"{repo_id} has no revision {revision}")
        return found

    def files(self, repo_id: str, revision: str = "main", kind: str | None = None) -> dict[str, bytes]:
        """Content by path."""
        return {path: blob.content for path, blob in self.commit(repo_id, revision, kind).files.items()}

    def commits(self, repo_id: str, kind: str | None = None) -> list[Commit]:
        """The commits of main, newest first."""
        repo, found = self.repo(repo_id, kind), []
        sha: str | None = repo.branches["main"]
        while sha is not None:
            found.append(repo.commits[sha])
            sha = repo.commits[sha].parent
        return found

    def break_downloads(self, name: str = "", after: int = 1000, times: int = 1) -> None:
        """The next downloads of files whose path ends with `name` lose their connection after so many bytes."""
        self._breaks.append(Break("GET", name, after, times))

    def break_uploads(self, after: int = 1000, times: int = 1) -> None:
        """The next uploads of large files lose their connection after so many bytes."""
        self._breaks.append(Break("PUT", "", after, times))

    def fail(self, method: str, name: str, status: int, times: int = 1) -> None:
        """The next requests whose path ends with `name` (without the query) get this status, 503 say."""
        self._breaks.append(Break(method, name, 0, times, status))

    def next_break(self, method: str, name: str, failing: bool) -> Break | None:
        """What is to go wrong with this request, counted off; `failing`: a status, else a lost connection."""
        with self.lock:
            for planned in self._breaks:
                fits = planned.method == method and name.endswith(planned.name) and planned.times > 0
                if fits and (planned.status is not None) == failing:
                    planned.times -= 1
                    return planned
        return None
