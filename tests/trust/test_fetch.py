"""The HTTP client and its limits, against real servers on loopback."""

from __future__ import annotations

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from securepacs.errors import Unavailable
from securepacs.trust import fetch
from securepacs.trust.cache import DiskCache
from securepacs.trust.fetch import Fetcher
from tests.support.http import ScriptedServer, body, redirect

LISTED = ("127.0.0.1",)


def test_get_post_and_memory() -> None:
    with ScriptedServer({"/a?x=1": body(b"answer"), "/p": body(b"reply")}) as server:
        fetcher = Fetcher(allowed_hosts=LISTED)
        assert fetcher.get(f"{server.url}/a?x=1") == b"answer"
        assert fetcher.get(f"{server.url}/a?x=1") == b"answer"
        assert fetcher.post(f"{server.url}/p", b"question", content_type="application/ocsp-request") == b"reply"
        assert server.asked == [("GET", "/a?x=1", b""), ("POST", "/p", b"question")]


def test_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_REMEMBER_SECONDS", 0.0)
    with ScriptedServer({"/a": body(b"answer")}) as server:
        fetcher = Fetcher(allowed_hosts=LISTED)
        fetcher.get(f"{server.url}/a")
        fetcher.get(f"{server.url}/a")
        assert len(server.asked) == 2


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_REMEMBER_ENTRIES", 2)
    with ScriptedServer({f"/{name}": body(b"answer") for name in "abc"}) as server:
        fetcher = Fetcher(allowed_hosts=LISTED)
        for name in "abcab":
            fetcher.get(f"{server.url}/{name}")
        assert [path for _, path, _ in server.asked] == ["/a", "/b", "/c", "/a", "/b"]


def test_failures_are_remembered_too() -> None:
    with ScriptedServer({"/a": body(b"", status=500)}) as server:
        fetcher = Fetcher(allowed_hosts=LISTED)
        for _ in range(2):
            with pytest.raises(Unavailable, match="HTTP status 500"):
                fetcher.get(f"{server.url}/a")
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "0.0.0.0",
        "10.1.2.3",
        "169.254.169.254",
        "[::ffff:192.168.0.1]",
        "[fe80::1]",
        "[2002:a00:1::]",
    ],
)
def test_hosts_that_are_not_public_are_refused_unless_listed(host: str) -> None:
    with pytest.raises(Unavailable, match="not a public host") as caught:
        Fetcher().get(f"http://{host}:9/x")
    assert not caught.value.retryable


def test_listed_host_by_name_in_any_case() -> None:
    with ScriptedServer({"/a": body(b"answer")}) as server:
        url = server.url.replace("127.0.0.1", "LocalHost")
        assert Fetcher(allowed_hosts=["LOCALHOST"]).get(f"{url}/a") == b"answer"


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ldap://127.0.0.1/x",
        "ftp://127.0.0.1/x",
        "http:///x",
        "http://user:secret@127.0.0.1/",
        "http://127.0.0.1:0/",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/\r\nX: y",
        "http://127.0.0.1/é",
        "http://[::1/",
        "http://127.0.0.1/" + "x" * 3000,
        "",
    ],
)
def test_addresses_that_are_not_fetched(url: str) -> None:
    with pytest.raises(Unavailable) as caught:
        Fetcher(allowed_hosts=LISTED).get(url)
    assert not caught.value.retryable or "secret" not in str(caught.value)


def test_redirect_is_followed_and_checked_again() -> None:
    with ScriptedServer({"/a": redirect("/b"), "/b": body(b"answer")}) as server:
        assert Fetcher(allowed_hosts=LISTED).get(f"{server.url}/a") == b"answer"
    port = server.url.rpartition(":")[2]
    for target in (f"http://localhost:{port}/b", "file:///etc/passwd", ""):
        with ScriptedServer({"/a": redirect(target)}) as server, pytest.raises(Unavailable):
            Fetcher(allowed_hosts=LISTED).get(f"{server.url}/a")


def test_endless_redirects() -> None:
    with ScriptedServer({"/a": redirect("/a")}) as server:
        with pytest.raises(Unavailable, match="too many redirects"):
            Fetcher(allowed_hosts=LISTED).get(f"{server.url}/a")
        assert len(server.asked) == fetch.MAX_REDIRECTS + 1


def test_redirect_of_a_post_is_not_followed() -> None:
    with ScriptedServer({"/a": redirect("/b", 307), "/b": body(b"answer")}) as server:
        with pytest.raises(Unavailable, match="redirects a POST"):
            Fetcher(allowed_hosts=LISTED).post(f"{server.url}/a", b"x", content_type="text/plain")
        assert len(server.asked) == 1


@pytest.mark.parametrize("length", [None, -1])
def test_answers_over_the_limit(length: int | None) -> None:
    with ScriptedServer({"/a": body(b"x" * 200_000, length=length)}) as server, pytest.raises(Unavailable, match="bytes"):
        Fetcher(allowed_hosts=LISTED, max_bytes=100_000).get(f"{server.url}/a")


def test_answer_of_exactly_the_limit() -> None:
    with ScriptedServer({"/a": body(b"x" * 1000)}) as server:
        assert len(Fetcher(allowed_hosts=LISTED, max_bytes=1000).get(f"{server.url}/a")) == 1000


def test_answer_that_is_cut_off() -> None:
    with ScriptedServer({"/a": body(b"half", length=8)}) as server, pytest.raises(Unavailable):
        Fetcher(allowed_hosts=LISTED).get(f"{server.url}/a")


def test_trickling_server_meets_the_deadline() -> None:
    stop = threading.Event()

    def trickle(handler: BaseHTTPRequestHandler, request: bytes) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n")
        while not stop.wait(0.05):
            handler.wfile.write(b"X-More: of the same\r\n")

    started = time.monotonic()
    with ScriptedServer({"/a": trickle}) as server:
        with pytest.raises(Unavailable, match="in time"):
            Fetcher(allowed_hosts=LISTED, seconds=0.5).get(f"{server.url}/a")
        stop.set()
    assert time.monotonic() - started < 5


def test_silent_server_meets_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(Unavailable):
        Fetcher(allowed_hosts=LISTED, seconds=0.3).get(f"http://127.0.0.1:{listener.getsockname()[1]}/")


def test_deadline_spans_redirects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_REDIRECTS", 1_000_000)
    with ScriptedServer({"/a": redirect("/a")}) as server, pytest.raises(Unavailable, match="in time"):
        Fetcher(allowed_hosts=LISTED, seconds=0.3).get(f"{server.url}/a")


def test_nobody_listens_and_name_unknown() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Unavailable, match="no answer"):
        Fetcher(allowed_hosts=LISTED).get(f"http://127.0.0.1:{port}/")
    with pytest.raises(Unavailable, match="does not resolve"):
        Fetcher(allowed_hosts=LISTED).get("http://name.invalid/")


def test_https_needs_a_certificate_of_the_system() -> None:
    with ScriptedServer({"/a": body(b"answer")}) as server, pytest.raises(Unavailable):
        Fetcher(allowed_hosts=LISTED, seconds=3).get(server.url.replace("http:", "https:") + "/a")


def test_not_http_at_all() -> None:
    def nonsense(handler: BaseHTTPRequestHandler, request: bytes) -> None:
        handler.wfile.write(b"SSH-2.0-nonsense\r\n\r\n")

    with ScriptedServer({"/a": nonsense}) as server, pytest.raises(Unavailable, match="BadStatusLine"):
        Fetcher(allowed_hosts=LISTED).get(f"{server.url}/a")


def test_host_that_does_not_answer_is_left_in_peace_also_by_other_processes(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    first = Fetcher(allowed_hosts=LISTED, cache=DiskCache(tmp_path))
    with pytest.raises(Unavailable, match="no answer"):
        first.get(f"http://127.0.0.1:{port}/a")
    with ScriptedServer({"/b": body(b"answer")}, port=port) as server:
        for fetcher in (first, Fetcher(allowed_hosts=LISTED, cache=DiskCache(tmp_path))):
            with pytest.raises(Unavailable, match="no answer"):
                fetcher.get(f"http://127.0.0.1:{port}/b")
        assert server.asked == []
        assert Fetcher(allowed_hosts=LISTED).get(f"{server.url}/b") == b"answer"


def test_budget_spans_several_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        fetcher = Fetcher(allowed_hosts=LISTED, seconds=30)
        started = time.monotonic()
        with fetcher.budget(0.4):
            for path in "abc":
                with fetcher.budget(60), pytest.raises(Unavailable, match="in time"):
                    fetcher.get(f"{url}/{path}")
        assert time.monotonic() - started < 5
    with ScriptedServer({"/a": body(b"answer")}) as server:
        assert fetcher.get(f"{server.url}/a") == b"answer"


def test_redirect_to_a_private_host_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first host is listed; what it points to is not, whatever its name is."""
    with ScriptedServer({"/b": body(b"secret")}) as inner:
        port = inner.url.rpartition(":")[2]
        for target in (f"http://localhost:{port}/b", f"http://[::ffff:127.0.0.1]:{port}/b", f"http://127.1:{port}/b"):
            with ScriptedServer({"/a": redirect(target)}) as server, pytest.raises(Unavailable):
                Fetcher(allowed_hosts=LISTED).get(f"{server.url}/a")
        assert inner.asked == []


def test_name_that_changes_its_address_between_check_and_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the name is resolved once; the connection goes to the address that was checked."""
    real, asked = socket.getaddrinfo, []

    def rebinding(host: str, *arguments: object, **options: object) -> object:
        if host == "rebind.example":
            asked.append(host)
            address = "192.0.2.1" if len(asked) > 1 else "127.0.0.1"
            return real(address, *arguments, **options)  # type: ignore[arg-type]
        return real(host, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    with ScriptedServer({"/a": body(b"answer")}) as server:
        url = server.url.replace("127.0.0.1", "rebind.example")
        assert Fetcher(allowed_hosts=["rebind.example"]).get(f"{url}/a") == b"answer"
        with pytest.raises(Unavailable, match="not a public host"):
            Fetcher().get(f"{url}/a")
    assert asked == ["rebind.example"] * 2
