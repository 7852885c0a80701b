"""Images by their address: the one rule by which every way in takes an address for an image.

`data:` addresses hold their bytes in base64 and are decoded. From the web nothing is fetched unless the call says
`allow_web=True`, which no file of a checkpoint can say; then:

- `https://` only, at its own port, with the server's certificate checked; no name and password in the address;
- the name is looked up once, and all of its addresses must be public ones: not private, loopback, link-local, shared,
  reserved or multicast, also where one of IPv6 stands for one of IPv4. The connection goes to the very address that
  was checked, so a second answer of DNS leads nowhere else;
- at most `MOST_REDIRECTS` redirects, each checked by the same rule; no cookies and no credentials are sent;
- at most `MOST_BYTES` for one image and `MOST_SECONDS` for all of it, names and redirects included; nothing that was
  compressed on its way is read. The limits of pixels are those of any image file;
- behind a proxy no address can be checked: where the environment names one for https, that is an error.
"""

import base64
import http.client
import io
import ipaddress
import queue
import re
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from pathlib import PurePath
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

MOST_BYTES = 2**28  # of one image
MOST_SECONDS = 60.0  # for one image
MOST_REDIRECTS = 5
PORT = 443
_MOST_PLACES = 8  # of one name that are tried
_MOST_TOLD = 200  # signs of what a server says
_REDIRECTS = (301, 302, 303, 307, 308)
_DOWNLOAD = "download it and give the path"
# What `ipaddress` calls public, in some of its versions or in all: relays to addresses of IPv4, benchmarks, examples.
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)
_UNICAST, _NAT64 = ipaddress.ip_network("2000::/3"), ipaddress.ip_network("64:ff9b::/96")
Error = Callable[[str], ValueError]


def read_address(name: str, allow_web: bool, error: Error, seconds: float = MOST_SECONDS) -> bytes | None:
    """Return the bytes of an image that is given by its address, or None where it is a path.

    Args:
        name: A path or an address.
        allow_web: Whether it may be fetched from the web; of the call, never of a checkpoint.
        error: Makes the error that says a reason; its sentence names the image by `shown_address`.
        seconds: For all of it.

    Raises:
        ValueError: Of `error`: it is an address that is not read, or its bytes cannot be had. Or `allow_web` is no
            bool.
    """
    reason = refusal(name, allow_web)
    if reason is not None:
        raise error(reason)
    scheme = _scheme(name)
    if scheme is None:
        return None
    return _decoded(name, error) if scheme == "data" else fetch(name, error, seconds=seconds)


def is_address(name: Any) -> bool:
    """Return whether an image is given by an address, and not by a path or by itself."""
    return isinstance(name, str) and _scheme(name) is not None


def refusal(name: str, allow_web: bool) -> str | None:
    """Return why an address is not read, by how it begins; None where it may be, and for a path.

    Args:
        name: A path or an address.
        allow_web: See `read_address`.

    Raises:
        ValueError: `allow_web` is no bool.
    """
    if not isinstance(allow_web, bool):
        raise ValueError(f"allow_web is {allow_web!r}; give True or False.")
    scheme = _scheme(name)
    if scheme in (None, "data"):
        return None
    if scheme == "http":
        return f"is an http address, which is not fetched, for only https is; give that, or {_DOWNLOAD}"
    if scheme != "https":
        return f"is an address ({name.partition('://')[0]}://), which is not fetched; give the path of a file"
    if allow_web:
        return None
    return (
        "is an address on the web, which is not fetched unless it is asked for; give allow_web=True (on the command "
        f"line --allow-web), or {_DOWNLOAD}"
    )


def file_name(name: str) -> str:
    """Return the last part of a path, or of an address without its query."""
    return PurePath(re.split(r"[?#]", shown_address(name), maxsplit=1)[0] if is_address(name) else name).name


def shown_address(name: str) -> str:
    """Return a path as it is, and of an address what may be printed: no password, no key in a query, no data."""
    scheme = _scheme(name)
    if scheme is None:
        return name
    if scheme == "data":
        return f"{name.partition(',')[0][:60]},..."
    start = len(scheme) + len("://")
    authority = re.split(r"[/?#\\]", name[start:], maxsplit=1)[0]
    place = name[start:]
    if "@" in authority or re.search(r":(?!\d*$)", re.sub(r"^\[[^]]*\]", "", authority)):
        place = "***@" + place.rpartition("@")[2]  # to the last one: a password may hold any character
    kept = re.split(r"[?#]", place, maxsplit=1)[0]
    return name[:start] + kept + ("" if kept == place else f"{place[len(kept)]}...")


def is_public(address: str) -> bool:
    """Return whether an IP address is one that anybody on the internet could ask.

    Args:
        address: As a resolver gives it; one with a zone is of a link.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if found.version == 6:
        if found.scope_id is not None:
            return False
        if found in _NAT64:  # how a network of IPv6 alone reaches IPv4
            return is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
        if found not in _UNICAST:  # others stand for IPv4, or lead nowhere
            return False
    return found.is_global and not found.is_multicast and not any(found in network for network in _NOT_PUBLIC)


def resolve(host: str) -> list[str]:
    """Return the IP addresses of a name.

    Raises:
        OSError: It has none.
    """
    found = socket.getaddrinfo(host, PORT, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(place[4][0]) for place in found))


def fetch(
    address: str,
    error: Error,
    *,
    seconds: float = MOST_SECONDS,
    most_bytes: int = MOST_BYTES,
    port: int = PORT,
    resolver: Callable[[str], list[str]] = resolve,
    allowed: Callable[[str], bool] = is_public,
    context: ssl.SSLContext | None = None,
) -> bytes:
    """Return what an https address gives, by the rule of this file.

    Args:
        address: The address.
        error: Makes the error that says a reason.
        seconds: For all of it.
        most_bytes: That are read.
        port: The only one that is asked.
        resolver: Gives the IP addresses of a name.
        allowed: Whether an IP address may be asked.
        context: Checks certificates; None: by the authorities that the system trusts.

    Raises:
        ValueError: Of `error`: it is refused, or cannot be fetched.
    """
    clock = _Clock(seconds)
    about = error
    try:
        for _ in range(MOST_REDIRECTS + 1):
            host, target = _parts(address, port, about)
            places = _checked(host, resolver, allowed, clock, about)
            with _connected(places, host, port, context or ssl.create_default_context(), clock) as connection:
                answer = _asked(connection, host, port, target, clock)
                if answer.status not in _REDIRECTS:
                    return _body(answer, most_bytes, about)
                address = _next(address, answer, about)
            about = _redirected(address, error)
        raise error(f"is redirected more than {MOST_REDIRECTS} times; {_DOWNLOAD}")
    except ssl.SSLCertVerificationError as err:
        raise about(f"has a certificate that is not trusted ({err.verify_message}); {_DOWNLOAD}") from err
    except (OSError, http.client.HTTPException) as err:
        if clock.is_over():
            raise about(f"takes longer than {seconds:g} seconds; {_DOWNLOAD}") from err
        reason = _told((str(err).splitlines() or [""])[0].rstrip(".") or type(err).__name__)
        raise about(f"cannot be fetched ({reason}); check the address and the connection") from err


class _Clock:
    """The time that is left for one image."""

    def __init__(self, seconds: float):
        self.end = time.monotonic() + seconds

    def is_over(self) -> bool:
        return time.monotonic() >= self.end

    def left(self) -> float:
        """Return the seconds that are left.

        Raises:
            TimeoutError: There are none.
        """
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError("no time is left")
        return left

    def within(self, call: Callable[[], Any]) -> Any:
        """Return what a call gives that takes no limit of time, as a look-up of names.

        Raises:
            TimeoutError: It takes longer than is left; it goes on by itself then.
        """
        answers: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

        def run() -> None:
            try:
                answers.put((call(), None))
            except Exception as err:  # noqa: BLE001 (raised where it is waited for)
                answers.put((None, err))

        threading.Thread(target=run, daemon=True).start()
        try:
            answer, err = answers.get(timeout=self.left())
        except queue.Empty:
            raise TimeoutError("no answer in time") from None
        if err is not None:
            raise err
        return answer


class _Socket:
    """As `http.client` wants a socket, with every wait within the time that is left for all."""

    def __init__(self, connected: ssl.SSLSocket, clock: _Clock):
        self.connected = connected
        self.clock = clock

    def sendall(self, content: Any) -> None:
        self.connected.settimeout(self.clock.left())
        self.connected.sendall(content)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Received(self.connected, self.clock))

    def close(self) -> None:
        """Leave it to who opened the socket."""


class _Received(io.RawIOBase):
    """What a socket receives."""

    def __init__(self, connected: ssl.SSLSocket, clock: _Clock):
        self.connected = connected
        self.clock = clock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.connected.settimeout(self.clock.left())
        return self.connected.recv_into(buffer)


def _scheme(name: str) -> str | None:
    """Return what an address begins with, in small letters; None for a path."""
    found = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+)://|(data):", name, re.IGNORECASE)
    return None if found is None else (found[1] or found[2]).lower()


def _decoded(name: str, error: Error) -> bytes:
    header, _, content = name.partition(",")
    if not header.lower().endswith(";base64"):
        raise error("cannot be read (it is not in base64); give a data URL in base64, or the bytes")
    try:
        return base64.b64decode(content, validate=True)
    except ValueError as err:
        raise error(f"cannot be read ({err}); give a data URL in base64, or the bytes") from err


def _parts(address: str, port: int, error: Error) -> tuple[str, str]:
    """Return the host of an address and what it is asked for, where both are as they should be."""
    if re.search(r"[\x00-\x20\x7f\\]", address):
        raise error("has a space, a backslash or a control character; write it with %, as %20")
    try:
        parts = urlsplit(address)
        asked = parts.port
    except ValueError as err:
        raise error(f"is no address that can be read ({_told(str(err))}); {_DOWNLOAD}") from err
    if parts.scheme.lower() != "https":
        raise error(f"is not of https ({parts.scheme}), and only https is fetched; {_DOWNLOAD}")
    if "@" in parts.netloc:
        raise error(f"holds a user's name or password, which are sent to nobody; {_DOWNLOAD}")
    if asked not in (None, port):
        raise error(f"names port {asked}, and only port {port} is asked; {_DOWNLOAD}")
    host = (parts.hostname or "").removesuffix(".")
    is_ip = _is_ip(host)
    if parts.netloc.startswith("[") != (is_ip and ":" in host) or not (
        is_ip or re.fullmatch(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*", host)
    ):
        raise error("has no name of a host that can be asked; give one of letters, digits, dots and dashes (xn--)")
    if not is_ip and re.fullmatch(r"\d+|0x[0-9a-f]*", host.rpartition(".")[2]):
        raise error("has an IP address in an odd form; write it as four numbers with dots")
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~") + (
        "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~?[]{}|^") if parts.query else ""
    )
    return host, target


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _checked(
    host: str, resolver: Callable[[str], list[str]], allowed: Callable[[str], bool], clock: _Clock, error: Error
) -> list[str]:
    """Return the IP addresses of a host, of which each may be asked."""
    if {"https", "all"} & set(urllib.request.getproxies()) and not urllib.request.proxy_bypass(host):
        raise error(
            "would go through the proxy that this machine names for https, behind which no address can be checked; "
            f"name its host in NO_PROXY where it can be reached without, or {_DOWNLOAD}"
        )
    places = [host] if _is_ip(host) else clock.within(lambda: resolver(host))
    if not places or not all(allowed(place) for place in places):
        raise error(f"leads to an address that is not public, from which nothing is fetched; {_DOWNLOAD}")
    return places[:_MOST_PLACES]


def _connected(places: list[str], host: str, port: int, context: ssl.SSLContext, clock: _Clock) -> ssl.SSLSocket:
    """Return a connection to the first of these places that answers, which has shown the host's certificate."""
    for number, place in enumerate(places):
        plain = None
        try:
            plain = socket.create_connection((place, port), timeout=clock.left() / (len(places) - number))
            plain.settimeout(clock.left())
            return context.wrap_socket(plain, server_hostname=host)
        except OSError:
            if plain is not None:
                plain.close()
            if number == len(places) - 1:
                raise
    raise OSError("it has no address")


def _asked(connection: ssl.SSLSocket, host: str, port: int, target: str, clock: _Clock) -> http.client.HTTPResponse:
    client = http.client.HTTPConnection(host, port)
    client.default_port = PORT  # which is not named then
    client.auto_open = 0  # never to a place that was not checked
    client.sock = _Socket(connection, clock)
    client.request("GET", target, headers={"Accept-Encoding": "identity", "User-Agent": "rscc_hf"})
    return client.getresponse()


def _next(address: str, answer: http.client.HTTPResponse, error: Error) -> str:
    place = answer.getheader("Location")
    if not place:
        raise error(f"is redirected to nowhere (status {answer.status}); {_DOWNLOAD}")
    try:
        return urljoin(address, place)
    except ValueError as err:
        raise error(f"is redirected to what is no address ({_told(str(err))}); {_DOWNLOAD}") from err


def _redirected(address: str, error: Error) -> Error:
    return lambda reason: error(f"is redirected to {_told(shown_address(address))}, which {reason}")


def _told(words: str) -> str:
    """Return words that may be a server's with signs that control a terminal as escapes, cut where they are long."""
    escaped = words.encode("unicode_escape").decode()
    return escaped if len(escaped) <= _MOST_TOLD else f"{escaped[:_MOST_TOLD]}..."


def _body(answer: http.client.HTTPResponse, most_bytes: int, error: Error) -> bytes:
    """Return what an answer holds."""
    if answer.status != HTTPStatus.OK:
        told = answer.status
        words = f" {HTTPStatus(told).phrase}" if told in set(HTTPStatus) else ""  # the server's could be anything
        raise error(f"cannot be fetched (status {told}{words}); check the address")
    for header, plain in (("Content-Encoding", ("", "identity")), ("Transfer-Encoding", ("", "chunked"))):
        if (answer.getheader(header) or "").strip().lower() not in plain:
            raise error(f"is sent compressed ({header}), which is not read; {_DOWNLOAD}")
    too_large = f"is larger than {most_bytes} bytes, the limit for an image from the web; {_DOWNLOAD}"
    stated = answer.length
    if stated is not None and stated > most_bytes:
        raise error(too_large)
    read = bytearray()
    while part := answer.read(2**16):
        read += part
        if len(read) > most_bytes:
            raise error(too_large)
    if stated is not None and len(read) < stated:
        raise error(f"ends after {len(read)} of {stated} bytes; try again, or {_DOWNLOAD}")
    return bytes(read)
