"""The frame of every request to the small Hub of the tests: what is read, who asks, and how an answer is sent."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from toys.local_hub_repos import Request

if TYPE_CHECKING:
    from toys.local_hub import LocalHub


class Refusal(Exception):
    """An answer other than success; `code` is what the client tells errors apart by (`X-Error-Code`)."""

    def __init__(self, status: int, message: str, code: str | None = None, body: object = None, commit: str = ""):
        super().__init__(message)
        self.status, self.code, self.body, self.commit = status, code, body, commit


class Exchange(BaseHTTPRequestHandler):
    """One connection; `_route` and `_answer_store` say what is answered."""

    hub: LocalHub
    host: str
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed: the tests read `LocalHub.requests`."""

    # --- the frame of every request

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self.parts = [unquote(part) for part in url.path.strip("/").split("/")]
        self.query = {key: values[-1] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
        self.name = "/".join(self.parts)
        self.body: bytes | None = None
        try:
            planned = self.hub.next_break(self.command, self.name, failing=True)
            if planned is not None:
                self._read_body()
                raise Refusal(planned.status or 500, "planned by the test")
            if self.host == "store":
                self._answer_store()
            else:
                self._check_token()
                self._route()
        except Refusal as refusal:
            headers = {"X-Error-Message": str(refusal)}
            headers |= {"X-Error-Code": refusal.code} if refusal.code else {}
            headers |= {"X-Repo-Commit": refusal.commit} if refusal.commit else {}
            body = {"error": str(refusal)} if refusal.body is None else refusal.body
            self._send(refusal.status, json.dumps(body).encode(), headers | {"Content-Type": "application/json"})
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client went away

    def _send(self, status: int, content: bytes, headers: dict[str, str], cut: int | None = None) -> None:
        """Sends an answer; with `cut` the connection is lost after so many bytes of it."""
        if self.body is None:
            self._read_body()  # else what is left of it would be read as the next request
        self._note(status)
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(content if cut is None else content[:cut])
        self.close_connection = self.close_connection or cut is not None

    def _note(self, status: int) -> None:
        request = Request(self.host, self.command, self.path, self.headers.get("Range"), self._token(), status)
        with self.hub.lock:
            self.hub.requests.append(request)

    def _send_json(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _read_body(self, most: int | None = None) -> bytes:
        """The body of the request, of known length or in chunks; at most so many bytes."""
        read = bytearray()
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                read += self.rfile.read(size)
                self.rfile.readline()
                if most is not None and len(read) >= most:
                    break
            else:
                self.rfile.readline()
        else:
            length = int(self.headers.get("Content-Length") or 0)
            read += self.rfile.read(length if most is None else min(length, most))
        self.body = bytes(read)
        return self.body

    def _read_json(self) -> Any:
        return json.loads(self._read_body() or b"{}")

    def _token(self) -> str | None:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        return token if scheme == "Bearer" else None

    def _check_token(self) -> None:
        if self._token() not in (None, self.hub.token, self.hub.read_token):
            raise Refusal(401, "Invalid credentials in Authorization header")

    def _check_may_write(self, owner: str) -> None:
        if self._token() is None:
            raise Refusal(401, "Invalid username or password.")
        if self._token() != self.hub.token:
            raise Refusal(403, "Forbidden: pass a token with write access to this repo")
        if owner not in (self.hub.user, *self.hub.organisations):
            raise Refusal(403, f'You don\'t have the rights to create or change a repo under the namespace "{owner}"')

    def _route(self) -> None:
        """Answers what is asked of the Hub itself."""
        raise NotImplementedError

    def _answer_store(self) -> None:
        """Answers what is asked of the store for large files."""
        raise NotImplementedError
