"""A site on this machine that speaks https, with a certificate of its own making; answers are functions of a path."""

import shutil
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import watched

NAME = "images.test"
Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Site:
    """What runs.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        trust: Takes its certificate, which is of `NAME`.
        answers: By the path, without the query.
        asked: The requests so far: path and headers.
    """

    port: int
    trust: ssl.SSLContext
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def address(self, path: str, name: str = NAME) -> str:
        """Return the address of a path."""
        return f"https://{name}:{self.port}{path}"


def send(content: bytes = b"", status: int = 200, **headers: object) -> Answer:
    """Return the answer with this content; a header's underscores are dashes."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        stated = {"Content-Length": len(content)} | {name.replace("_", "-"): it for name, it in headers.items()}
        for name, value in stated.items():
            if value is not None:
                request.send_header(name, str(value))
        request.end_headers()
        request.wfile.write(content)

    return answer


@contextmanager
def https_site(folder: Path) -> Iterator[Site]:
    """Run a site, with its certificate in `folder`; skip the test where there is no openssl to make one."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={NAME}"]
    command += ["-addext", f"subjectAltName=DNS:{NAME}", "-keyout", str(key), "-out", str(certificate)]
    watched.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append((self.path, dict(self.headers)))
            try:
                site.answers.get(self.path.partition("?")[0], send(status=404))(self)
            except OSError:  # who asked has gone away, as is meant where a limit is tested
                self.close_connection = True

        def log_message(self, *given: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def finish_request(self, request: object, client: object) -> None:
            try:
                super().finish_request(context.wrap_socket(request, server_side=True), client)  # type: ignore[arg-type]
            except OSError:  # the certificate was not trusted, or who asked has gone away
                return

    server = Server(("127.0.0.1", 0), Handler)
    site = Site(server.server_address[1], ssl.create_default_context(cafile=str(certificate)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
