"""Images by their address: what is refused unasked, and what of the web is let in where it is asked for."""

import gzip
import socket
import ssl
import time
from functools import partial

import pytest
from toys.https_site import NAME, https_site, send

from rscc_hf.processing.change_pair_web import fetch, file_name, is_address, is_public, read_address, shown_address

CONTENT = b"\x89PNG and so on" * 100


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with https_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def site(running, monkeypatch):
    """The site, asked for the first time, and no proxy."""
    running.answers.clear()
    running.asked.clear()
    without_proxies(monkeypatch)
    running.answers["/a.png"] = send(CONTENT)
    return running


def without_proxies(monkeypatch):
    for name in ("https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def ask(site, path, *, name=NAME, **settings):
    """What the site gives, where 127.0.0.1 alone counts as public."""
    known = {"resolver": lambda host: ["127.0.0.1"], "allowed": lambda place: place == "127.0.0.1"}
    settings = {"port": site.port, "context": site.trust, "seconds": 20, **known, **settings}
    return fetch(path if "://" in path else site.address(path, name), ValueError, **settings)


def refused(site, path, words, **settings):
    with pytest.raises(ValueError, match=words) as caught:
        ask(site, path, **settings)
    told = str(caught.value)
    assert "\n" not in told and "; " in told  # what is wrong; what to do
    return told


@pytest.fixture
def no_connections(monkeypatch):
    """No socket is opened and no name is looked up."""

    def opened(*given, **settings):
        raise AssertionError(f"the network was asked: {given}")

    without_proxies(monkeypatch)
    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, opened)


NOT_PUBLIC = (
    *("127.0.0.1", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "100.100.100.200"),
    *("0.0.0.0", "255.255.255.255", "224.0.0.1", "240.0.0.1", "192.0.2.1", "198.18.0.1", "192.0.0.8", "192.88.99.1"),
    *("::", "::1", "fe80::1", "fe80::1%25eth0", "2606:4700:4700::1111%25eth0", "fc00::1", "fd00:ec2::254", "ff02::1"),
    *("fec0::1", "2001:db8::1", "2001::1", "2002:7f00:1::", "2002:808:808::", "3fff::1", "100::1", "5f00::1"),
    *("::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "64:ff9b::a00:1"),
    *("64:ff9b:1::808:808", "64:ff9b::808:808%25eth0"),
)
ODD = {
    **dict.fromkeys(
        ("2130706433", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1", "127.0.0.01", "1.2.3.4.5", "134744072"),
        "an IP address in an odd form",
    ),
    **dict.fromkeys(("user@host", "user:secret@host", "@host", "example.org@127.0.0.1"), "user's name or password"),
    **dict.fromkeys(("host:80", "host:8443", "[::1]:22"), "names port"),
    **dict.fromkeys(("host:65536", "host:x", "[::1", "[x]"), "no address that can be read"),
    **dict.fromkeys(
        ("", ":443", "a..b", "%31%32%37.0.0.1", "x" * 64, "\uff11\uff12\uff17.0.0.1", "münchen.de", "[v1.x]"),
        "no name of",
    ),
    **dict.fromkeys(("ho st", "host\\@other", "ho\tst", "host\n", "host\0", "host/a b.png"), "a space, a backslash"),
}  # fmt: skip


@pytest.mark.usefixtures("no_connections")
@pytest.mark.parametrize(
    ("host", "words"),
    [
        *((f"[{place}]" if ":" in place else place, "leads to an address that is not public") for place in NOT_PUBLIC),
        *ODD.items(),
    ],
)
def test_what_is_refused_without_any_connection(host, words):
    words = f"{words}|no name" if host in ("[x]", "[v1.x]") else words  # versions of Python differ in who refuses it
    with pytest.raises(ValueError, match=words) as caught:
        read_address(f"https://{host}/a.png", True, ValueError)
    told = str(caught.value)
    assert "secret" not in told and "\n" not in told


@pytest.mark.usefixtures("no_connections")
@pytest.mark.parametrize(
    ("address", "allow_web", "words"),
    [
        ("https://example.org/a.png", False, r"not fetched unless it is asked for; give allow_web=True .*--allow-web"),
        ("HTTPS://example.org/a.png", False, "allow_web=True"),
        ("https://127.0.0.1/a.png", False, "allow_web=True"),
        ("http://example.org/a.png", False, "is an http address, which is not fetched, for only https is"),
        ("http://example.org/a.png", True, "is an http address"),
        *((f"{scheme}://host/a.png", True, rf"is an address \({scheme}://\)") for scheme in ("ftp", "file", "s3")),
        ("https://example.org/a.png", "yes", "allow_web is 'yes'; give True or False"),
        ("https://example.org/a.png", 1, "allow_web is 1"),
        ("data:image/png,abc", False, "not in base64"),
        ("data:image/png;base64,?", False, "cannot be read"),
    ],
)  # fmt: skip
def test_what_is_refused_by_how_it_begins(address, allow_web, words):
    with pytest.raises(ValueError, match=words):
        read_address(address, allow_web, ValueError)


@pytest.mark.usefixtures("no_connections")
def test_what_is_no_address_on_the_web():
    for path in (
        "a.png",
        "/a/https://b.png",
        "C:/a.png",
        "c://a.png",
        "https:/a.png",
        " https://a.png",
        "//host/a.png",
    ):
        assert read_address(path, True, ValueError) is None
        assert not is_address(path)
    for begin in ("data:image/png", "DATA:", "data:image/png;charset=utf-8"):
        assert read_address(f"{begin};base64,YWJj", False, ValueError) == b"abc"


@pytest.mark.usefixtures("no_connections")
def test_every_address_of_a_name_must_be_public():
    for places in (["10.0.0.1"], ["93.184.216.34", "10.0.0.1"], ["2606:4700::1", "::1"], ["fe80::1%eth0"], ["x"], []):
        with pytest.raises(ValueError, match="leads to an address that is not public"):
            fetch("https://example.org/a.png", ValueError, resolver=lambda host, places=places: places)
    for place in ("8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "64:ff9b::808:808"):
        assert is_public(place)


def test_it_gives_what_the_site_gives_and_tells_it_little(site):
    assert ask(site, "/a.png") == CONTENT
    site.answers["/ä b.png"] = send(b"other")
    assert ask(site, "/a.png?sig=%2Fx&y=z#top") == CONTENT
    site.answers["/%C3%A4.png"] = send(b"an umlaut")
    assert ask(site, "/ä.png") == b"an umlaut"
    asked = [path for path, _ in site.asked]
    assert asked == ["/a.png", "/a.png?sig=%2Fx&y=z", "/%C3%A4.png"]
    headers = site.asked[0][1]
    assert set(headers) == {"Host", "Accept-Encoding", "User-Agent"}
    assert headers["Host"] == f"{NAME}:{site.port}" and headers["Accept-Encoding"] == "identity"


def test_redirects_are_checked_by_the_same_rule(site):
    site.answers["/to"] = send(status=302, Location="/a.png")
    site.answers["/whole"] = send(status=308, Location=site.address("/to"))
    assert ask(site, "/whole") == CONTENT
    other = "https://[2001:db8::1]:443"
    for place, words in {
        site.address("/a.png", "127.0.0.2"): "leads to an address that is not public",
        site.address("/a.png", "[::1]"): "leads to an address that is not public",
        f"http://{NAME}/a.png": r"is not of https \(http\)",
        f"//user:secret@{NAME}:{site.port}/a.png": "user's name or password",
        "file:///etc/passwd": r"is not of https \(file\)",
        other: "names port 443",
        "https://[": "is redirected to what is no address",
        "": "is redirected to nowhere",
    }.items():
        site.answers["/from"] = send(status=301, Location=place)
        told = refused(site, "/from", words)
        assert "secret" not in told
        assert told.startswith("is redirected to ")
    assert [path for path, _ in site.asked][:3] == ["/whole", "/to", "/a.png"]
    assert {path for path, _ in site.asked[3:]} == {"/from"}


def test_redirects_come_to_an_end(site):
    site.answers["/round"] = send(status=302, Location="/round")
    refused(site, "/round", "is redirected more than 5 times")
    assert len(site.asked) == 6
    for number in range(6):
        site.answers[f"/{number}"] = send(status=302, Location=f"/{number - 1}" if number else "/a.png")
    assert ask(site, "/4") == CONTENT
    refused(site, "/5", "more than 5 times")


def test_a_second_answer_of_dns_leads_nowhere_else(site):
    answers = iter([["127.0.0.1"], ["127.0.0.2"], ["127.0.0.2"]])
    site.answers["/to"] = send(status=302, Location="/a.png")
    resolver = lambda host: next(answers)  # noqa: E731
    assert ask(site, "/a.png", resolver=resolver) == CONTENT  # which asked once
    answers = iter([["127.0.0.1"], ["127.0.0.2"]])
    refused(site, "/to", "leads to an address that is not public", resolver=resolver)
    assert [path for path, _ in site.asked] == ["/a.png", "/to"]


def test_what_lasts_too_long(site):
    def slowly(request, head=b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"):
        request.wfile.write(head)
        for _ in range(200):
            request.wfile.write(b"x")
            time.sleep(0.02)

    site.answers |= {"/body": slowly, "/head": partial(slowly, head=b"HTTP/1.1 200 O")}
    for path in ("/body", "/head"):
        refused(site, path, "takes longer than 0.3 seconds", seconds=0.3)
    refused(site, "/a.png", "takes longer than 0.1 seconds", seconds=0.1, resolver=lambda host: time.sleep(1))
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes the connection, and says nothing
        port = silent.getsockname()[1]
        refused(site, f"https://{NAME}:{port}/", "takes longer than 0.2 seconds", seconds=0.2, port=port)


def test_what_is_too_large_or_not_what_it_says(site):
    def endless(request):
        request.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            request.wfile.write(bytes(10_000))

    def in_chunks(request):
        request.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            request.wfile.write(b"2710\r\n" + bytes(10_000) + b"\r\n")

    def half_a_chunk(request):
        request.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc")

    site.answers |= {
        "/endless": endless,
        "/in-chunks": in_chunks,
        "/stated": send(b"", Content_Length=10**12),
        "/short": send(b"abc", Content_Length=5),
        "/half": half_a_chunk,
        "/long": send(b"abcde", Content_Length=3),
        "/negative": send(b"abcde", Content_Length=-3),
        "/gzip": send(gzip.compress(bytes(10**6)), Content_Encoding="gzip"),
        "/coded": send(b"abc", Content_Length=None, Transfer_Encoding="gzip, chunked"),
        "/exact": send(bytes(100_000)),
    }
    for path in ("/endless", "/in-chunks", "/stated", "/exact"):
        refused(site, path, "is larger than 99999 bytes", most_bytes=99_999)
    assert ask(site, "/exact", most_bytes=100_000) == bytes(100_000)
    assert ask(site, "/long") == b"abc"
    assert ask(site, "/negative") == b"abcde"
    refused(site, "/short", "ends after 3 of 5 bytes")
    refused(site, "/half", r"cannot be fetched \(IncompleteRead")
    refused(site, "/gzip", r"is sent compressed \(Content-Encoding\)")
    refused(site, "/coded", r"is sent compressed \(Transfer-Encoding\)")


def test_what_the_site_does_not_give(site):
    refused(site, "/none.png", r"cannot be fetched \(status 404 Not Found\)")
    site.answers["/odd"] = lambda request: request.wfile.write(b"HTTP/1.1 299 \x1b[31m\r\n\r\n")
    refused(site, "/odd", r"cannot be fetched \(status 299\)")
    site.answers["/other"] = lambda request: request.wfile.write(b"SSH-2.0\r\n\r\n")
    refused(site, "/other", "cannot be fetched")

    def unknown(host):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    refused(site, "/a.png", r"cannot be fetched \(.*Name or service not known", resolver=unknown)


def test_what_a_server_says_is_told_as_plain_signs_and_not_at_length(site):
    for answer in (
        b"SSH\x1b[31m evil \xe9" + b"x" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: https://other.test/\x1b[31m evil \xe9" + b"x" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: javascript:\x1b[31m evil \xe9" + b"x" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: https://[\x9b31m evil \xe9" + b"x" * 5000 + b"\r\n\r\n",
    ):
        site.answers["/said"] = lambda request, answer=answer: request.wfile.write(answer)
        with pytest.raises(ValueError) as refusal:
            ask(site, "/said")
        said = str(refusal.value)
        assert said.isascii() and said.isprintable() and len(said) < 600, said


def test_the_certificate_is_of_the_name(site):
    refused(site, "/a.png", "has a certificate that is not trusted", context=None)
    refused(site, "/a.png", "has a certificate that is not trusted", name="other.test")
    refused(site, "/a.png", "has a certificate that is not trusted", name="127.0.0.1")
    plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # knows no authorities
    refused(site, "/a.png", "not trusted", context=plain)
    assert site.asked == []


def test_the_next_place_is_tried_where_one_does_not_answer(site):
    settings = {"resolver": lambda host: ["::1", "127.0.0.1"], "allowed": lambda place: True}
    assert ask(site, "/a.png", **settings) == CONTENT


def test_behind_a_proxy_nothing_is_fetched(site, monkeypatch):
    for name in ("HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        refused(site, "/a.png", "would go through the proxy .* name its host in NO_PROXY")
        assert site.asked == []
        monkeypatch.setenv("NO_PROXY", NAME)
        assert ask(site, "/a.png") == CONTENT
        site.asked.clear()
        without_proxies(monkeypatch)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("a/b?c.png", "a/b?c.png"),
        ("https://host/a.png", "https://host/a.png"),
        ("https://host:443/a@b.png", "https://host:443/a@b.png"),
        ("https://[2606::1]/a.png", "https://[2606::1]/a.png"),
        ("https://host/a.png?sig=secret#secret", "https://host/a.png?..."),
        ("https://host/a.png#secret", "https://host/a.png#..."),
        ("https://user:secret@host/a.png", "https://***@host/a.png"),
        ("s3://key:secret@bucket/a.png", "s3://***@bucket/a.png"),
        ("https://user:secret/secret?secret#se@cret@host/a.png", "https://***@host/a.png"),
        ("https://user:se\\cret@host/a.png?x", "https://***@host/a.png?..."),
        ("data:image/png;base64,secret", "data:image/png;base64,..."),
    ],
)
def test_no_secret_of_an_address_is_shown(address, shown):
    assert shown_address(address) == shown
    assert shown_address(shown) == shown
    assert "secret" not in file_name(address)
    assert file_name(address).startswith(("a.png", "b?c.png", "a@b.png", "png;base64"))
