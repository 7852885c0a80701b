"""The endpoints of the small Hub of the tests: what is asked, and what huggingface.co answers to it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from toys.local_hub_http import Exchange, Refusal
from toys.local_hub_repos import LARGE, Blob, Commit, Repo, describe_folder, is_large, read_front_matter

if TYPE_CHECKING:
    from toys.local_hub import LocalHub

GIT_ATTRIBUTES = "".join(f"*{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in LARGE).encode()
KINDS = {"models": "model", "datasets": "dataset"}
OPERATIONS = (
    *("revision", "tree", "paths-info", "refs", "commits", "preupload", "commit", "branch", "tag", "settings"),
    "auth-check",
)


def make_handler(hub: LocalHub, host: str) -> type[BaseHTTPRequestHandler]:
    """The handler of a Hub's own host or of its store for large files."""
    return type(f"{host.title()}Handler", (_Handler,), {"hub": hub, "host": host})


class _Handler(Exchange):
    # --- what is asked

    def _route(self) -> None:
        parts = self.parts
        match parts:
            case ["api", "whoami-v2"]:
                self._whoami()
            case ["api", "validate-yaml"]:
                self._validate_card()
            case ["api", "repos", "create"]:
                self._create()
            case ["api", "repos", "delete"]:
                self._delete()
            case ["api", ("models" | "datasets") as kinds, *rest] if rest:
                long = len(rest) > 1 and rest[1] not in OPERATIONS
                repo = self._find_repo(KINDS[kinds], "/".join(rest[: 1 + long]))
                self._route_repo(repo, rest[1 + long :])
            case _:
                self._route_files()

    def _route_files(self) -> None:
        is_dataset = self.parts[0] == "datasets"
        kind, parts = ("dataset", self.parts[1:]) if is_dataset else ("model", self.parts)
        if self.name.endswith(".git/info/lfs/objects/batch"):
            repo_id = "/".join(parts[:-4]).removesuffix(".git")
            self._plan_uploads(self._find_repo(kind, repo_id))
        elif self.parts == ["lfs", "verify"] or self.parts == ["lfs", "complete"]:
            self._finish_upload()
        elif "resolve" in parts[1:3]:
            place = parts.index("resolve", 1)
            repo = self._find_repo(kind, "/".join(parts[:place]))
            self._download(repo, parts[place + 1], "/".join(parts[place + 2 :]))
        else:
            raise Refusal(404, f"Sorry, we can't find {self.command} {self.path}.")

    def _route_repo(self, repo: Repo, rest: list[str]) -> None:
        match self.command, rest:
            case "GET", []:
                self._send_json(repo.describe(self._find(repo, "main"), blobs="blobs" in self.query))
            case "GET", ["revision", revision]:
                self._send_json(repo.describe(self._find(repo, revision), blobs="blobs" in self.query))
            case "GET", ["tree", revision, *folder]:
                commit = self._find(repo, revision)
                options = {key: self.query.get(key, "").lower() == "true" for key in ("recursive", "expand")}
                entries = repo.tree(commit, "/".join(folder), **options)
                if entries is None:
                    raise Refusal(404, f"{'/'.join(folder)} does not exist", "EntryNotFound")
                self._send_json(entries)
            case "POST", ["paths-info", revision]:
                self._describe_paths(repo, self._find(repo, revision))
            case "GET", ["refs"]:
                kinds = {"branches": ("heads", repo.branches), "tags": ("tags", repo.tags)}
                refs = {
                    key: [{"name": n, "ref": f"refs/{where}/{n}", "targetCommit": sha} for n, sha in named.items()]
                    for key, (where, named) in kinds.items()
                }
                self._send_json({"converts": [], "pullRequests": []} | refs)
            case "GET", ["commits", revision]:
                self._list_commits(repo, self._find(repo, revision))
            case "GET", ["auth-check", *_]:
                self._check_gate(repo)
                self._send_json({})
            case "POST", ["branch" | "tag" as what, name]:
                self._check_may_write(repo.id.split("/")[0])
                asked = self._read_json()
                target = self._find(repo, asked.get("startingPoint") or ("main" if what == "branch" else name))
                self._name(repo, what, asked.get("tag", name), target)
            case "POST", ["preupload", revision]:
                self._choose_stores(repo, self._find(repo, revision))
            case "POST", ["commit", revision]:
                self._commit(repo, revision)
            case "PUT", ["settings"]:
                self._check_may_write(repo.id.split("/")[0])
                asked = self._read_json()
                repo.private = asked.get("visibility", asked.get("private")) in ("private", True)
                self._send_json({"private": repo.private})
            case _:
                raise Refusal(404, f"Sorry, we can't find {self.command} {self.path}.")

    def _find_repo(self, kind: str, repo_id: str) -> Repo:
        repo = self.hub.repos.get((kind, repo_id))
        if repo is None or (repo.private and self._token() is None):
            # who has not said who they are is not told whether it exists
            status, message = (401, "Invalid username or password.") if self._token() is None else (404, "not found")
            raise Refusal(status, f"Repository {message}" if status == 404 else message, "RepoNotFound")
        return repo

    def _find(self, repo: Repo, revision: str) -> Commit:
        commit = repo.find(revision)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def _check_gate(self, repo: Repo) -> None:
        if repo.gated and not (repo.granted and self._token()):
            status = 401 if self._token() is None else 403
            message = f"Access to {repo.kind} {repo.id} is restricted and you are not in the authorized list."
            raise Refusal(status, f"{message} Visit {self.hub.url}/{repo.id} to ask for access.", "GatedRepo")

    # --- accounts and repositories

    def _whoami(self) -> None:
        if self._token() is None:
            raise Refusal(401, "Invalid username or password.")
        role = "write" if self._token() == self.hub.token else "read"
        organisations = [{"type": "org", "id": name, "name": name, "fullname": name, "isEnterprise": False,
                          "roleInOrg": "admin"} for name in self.hub.organisations]  # fmt: skip
        self._send_json(
            {"type": "user", "id": "0" * 24, "name": self.hub.user, "fullname": "Tester", "email": "tester@localhost",
             "emailVerified": True, "isPro": False, "orgs": organisations,
             "auth": {"type": "access_token", "accessToken": {"displayName": "local", "role": role}}}
        )  # fmt: skip

    def _validate_card(self) -> None:
        asked = self._read_json()
        try:
            found = read_front_matter(asked["content"].encode())
        except ValueError as error:
            body = {"errors": [{"message": str(error)}], "warnings": []}
            raise Refusal(400, "Invalid metadata", body=body) from error
        empty = [] if found else [{"message": "empty or missing yaml metadata in repo card"}]
        self._send_json({"errors": [], "warnings": empty})

    def _create(self) -> None:
        asked = self._read_json()
        kind, owner = asked.get("type") or "model", asked.get("organization") or self.hub.user
        self._check_may_write(owner)
        repo_id = f"{owner}/{asked['name']}"
        url = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{repo_id}"
        if (kind, repo_id) in self.hub.repos:
            message = f"You already created this {kind} repo"
            raise Refusal(409, message, body={"error": message, "url": url})
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        with self.hub.lock:
            self.hub.add_repo(repo_id, kind, {".gitattributes": GIT_ATTRIBUTES}, private=private)
        self._send_json({"url": url, "name": repo_id, "id": repo_id, "private": private})

    def _delete(self) -> None:
        asked = self._read_json()
        kind, owner = asked.get("type") or "model", asked.get("organization") or self.hub.user
        self._check_may_write(owner)
        repo = self._find_repo(kind, f"{owner}/{asked['name']}")
        del self.hub.repos[kind, repo.id]
        self._send_json({})

    def _name(self, repo: Repo, what: str, name: str, target: Commit) -> None:
        named = repo.branches if what == "branch" else repo.tags
        if name in named:
            raise Refusal(409, f"Reference already exists: {name}")
        named[name] = target.sha
        self._send_json({})

    def _list_commits(self, repo: Repo, commit: Commit | None) -> None:
        found = []
        while commit is not None:
            found.append(
                {"id": commit.sha, "title": commit.message, "message": "", "date": commit.date, "authors": []}
            )
            commit = repo.commits[commit.parent] if commit.parent else None
        self._send_json(found)

    def _describe_paths(self, repo: Repo, commit: Commit) -> None:
        body = self._read_body()
        if "json" in self.headers.get("Content-Type", ""):
            asked = json.loads(body)
            paths, expand = asked["paths"], asked.get("expand")
        else:
            form = parse_qs(body.decode())
            paths, expand = form.get("paths", []), form.get("expand", ["false"])[-1].lower() == "true"
        last = {"lastCommit": {"id": commit.sha, "title": commit.message, "date": commit.date}} if expand else {}
        found = []
        for path in (path.strip("/") for path in paths):
            if path in commit.files:
                found.append(commit.files[path].describe(path) | last)
            elif any(name.startswith(f"{path}/") for name in commit.files):
                found.append(describe_folder(path) | last)
        self._send_json(found)

    # --- files out

    def _download(self, repo: Repo, revision: str, path: str) -> None:
        self._check_gate(repo)
        commit = self._find(repo, revision)
        if path not in commit.files:
            raise Refusal(404, "Entry not found", "EntryNotFound", commit=commit.sha)
        blob = commit.files[path]
        headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
        if blob.large:
            # the store is another host: the client asks there without its token
            headers |= {"X-Linked-Size": str(len(blob.content)), "X-Linked-Etag": f'"{blob.sha256}"'}
            location = f"{self.hub.store_url}/{blob.sha256}/{path}"
            self._send(302, b"Found. Redirecting", headers | {"Location": location})
        else:
            self._send_content(blob.content, headers)

    def _send_content(self, content: bytes, headers: dict[str, str]) -> None:
        """A file or the range of it that is asked for; a planned break cuts it."""
        status, total = 200, len(content)
        headers = {"Content-Type": "application/octet-stream"} | headers
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if asked and any(asked.groups()):
            start = int(asked[1]) if asked[1] else max(total - int(asked[2]), 0)
            end = min(int(asked[2]) + 1 if asked[1] and asked[2] else total, total)
            if start >= end:
                headers = {"Content-Range": f"bytes */{total}"}
                return self._send(416, b"", headers)
            status, content = 206, content[start:end]
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{total}"
        planned = self.hub.next_break("GET", self.name, failing=False) if self.command == "GET" else None
        self._send(status, content, headers, None if planned is None else planned.after)

    def _answer_store(self) -> None:
        if self.headers.get("Authorization"):  # as S3 does, beside a signed address
            raise Refusal(400, "Only one auth mechanism allowed")
        if self.command == "PUT":
            return self._take_upload()
        sha256 = self.parts[0]
        if self.command not in ("GET", "HEAD") or sha256 not in self.hub.store:
            raise Refusal(403, "Access denied")
        self._send_content(self.hub.store[sha256], {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"})

    # --- files in

    def _choose_stores(self, repo: Repo, commit: Commit) -> None:
        self._check_may_write(repo.id.split("/")[0])
        answer = []
        for file in self._read_json()["files"]:
            large = is_large(file["path"], base64.b64decode(file["sample"]))
            chosen = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if file["path"] in commit.files:
                chosen["oid"] = commit.files[file["path"]].etag
            answer.append(chosen)
        self._send_json({"files": answer, "commitOid": commit.sha})

    def _plan_uploads(self, repo: Repo) -> None:
        self._check_may_write(repo.id.split("/")[0])
        objects = []
        for asked in self._read_json()["objects"]:
            oid, size, part = asked["oid"], asked["size"], self.hub.part_bytes
            planned = {"oid": oid, "size": size}
            if oid not in self.hub.store:
                upload: dict[str, object] = {"href": f"{self.hub.store_url}/upload/{oid}"}
                if part is not None and size > part:
                    count = -(-size // part)
                    addresses = {f"{n:05d}": f"{self.hub.store_url}/upload/{oid}/{n}" for n in range(1, count + 1)}
                    header = {"chunk_size": str(part)} | addresses
                    upload = {"href": f"{self.hub.url}/lfs/complete", "header": header}
                planned["actions"] = {"upload": upload, "verify": {"href": f"{self.hub.url}/lfs/verify"}}
            objects.append(planned)
        self._send_json({"transfer": "basic" if self.hub.part_bytes is None else "multipart", "objects": objects})

    def _take_upload(self) -> None:
        match self.parts:
            case ["upload", oid, *part]:
                pass
            case _:
                raise Refusal(403, "Access denied")
        planned = self.hub.next_break("PUT", self.name, failing=False)
        if planned is not None:
            self._read_body(planned.after)
            self._note(0)
            self.close_connection = True
            return
        content = self._read_body()
        sha256 = hashlib.sha256(content).hexdigest()
        if part:
            self.hub.parts[oid, int(part[0])] = content
        elif sha256 != oid:
            raise Refusal(400, "The SHA256 you specified did not match the calculated SHA256.")
        else:
            self.hub.store[oid] = content
        self._send(200, b"", {"ETag": f'"{sha256}"'})

    def _finish_upload(self) -> None:
        asked = self._read_json()
        oid = asked["oid"]
        if self.parts[1] == "complete":
            numbers = [part["partNumber"] for part in asked["parts"]]
            content = b"".join(self.hub.parts.pop((oid, number), b"") for number in sorted(numbers))
            if hashlib.sha256(content).hexdigest() != oid:
                raise Refusal(400, "The parts do not make the file.")
            self.hub.store[oid] = content
        elif len(self.hub.store.get(oid, b"")) != asked["size"] or oid not in self.hub.store:
            raise Refusal(404, f"Object {oid} was not uploaded.")
        self._send_json({"success": True})

    def _commit(self, repo: Repo, branch: str) -> None:
        self._check_may_write(repo.id.split("/")[0])
        base = self._find(repo, branch)
        if branch not in repo.branches:
            raise Refusal(400, f"{branch} is no branch: only a branch takes commits.")
        files, message = dict(base.files), ""
        for line in self._read_body().splitlines():
            item = json.loads(line)
            value = item["value"]
            match item["key"]:
                case "header":
                    message = value["summary"]
                    if value.get("parentCommit") not in (None, base.sha):
                        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
                case "file":
                    content = base64.b64decode(value["content"])
                    files[value["path"]] = Blob(content, large=False)
                case "lfsFile":
                    if value["oid"] not in self.hub.store:
                        raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {value['path']}")
                    files[value["path"]] = Blob(self.hub.store[value["oid"]], large=True)
                case "deletedFile":
                    if files.pop(value["path"], None) is None:
                        raise Refusal(400, f"A file with the name {value['path']} does not exist")
                case "deletedFolder":
                    folder = value["path"].rstrip("/") + "/"
                    files = {path: blob for path, blob in files.items() if not path.startswith(folder)}
                case key:
                    raise Refusal(400, f"{key} is unknown")
        with self.hub.lock:
            commit = repo.commit(files, message, branch, base.sha)
        url = f"{self.hub.url}/{'datasets/' if repo.kind == 'dataset' else ''}{repo.id}/commit/{commit.sha}"
        self._send_json({"success": True, "commitOid": commit.sha, "commitUrl": url, "hookOutput": ""})
