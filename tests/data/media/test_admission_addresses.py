"""Addresses that strangers give: what is fetched, from where, and how much of it."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from videollava.data.media.admission import addresses
from videollava.data.media.admission.addresses import (
    Limits,
    fetch_address,
    is_address,
    is_allowed,
    read_data_address,
)
from videollava.errors import InputError

OWN = Limits(private=True, seconds=5.0)
Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def server(answer: Answer) -> Iterator[tuple[str, list[str]]]:
    """A server on loopback, its address, and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.path} {self.headers.get('Host')} {self.headers.get('Authorization')}")
            answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}", asked
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


def gives(data: bytes, status: int = 200, **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in ({"Content-Length": str(len(data))} | named).items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(data)

    return answer


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.9.9.9",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "192.0.0.192",
        "168.63.129.16",
        "100.100.100.200",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd00:ec2::254",
        "fec0::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::1",
        "2002:c0a8:101::",
        "2001:db8::1",
        "2001:0:4136:e378:8000:63bf:80ff:fffe",
    ],
)
def test_only_the_public_internet(address: str) -> None:
    assert not is_allowed(address, private=False)


def test_what_is_allowed() -> None:
    for address in ("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"):
        assert is_allowed(address, private=False)
    for address in (
        "127.0.0.1",
        "10.1.2.3",
        "192.168.1.1",
        "fd12::1",
        "::1",
        "::ffff:10.0.0.1",
        "100.64.0.1",
    ):
        assert is_allowed(address, private=True)
    for address in ("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16", "0.0.0.0"):
        assert not is_allowed(address, private=True)  # a cloud's credentials


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "2130706433", "0x7f.1", "127.1", "localhost", "[::1]", "[::ffff:7f00:1]"]
)
def test_no_spelling_of_loopback_is_connected_to(host: str) -> None:
    with server(gives(b"secret")) as (url, asked):
        port = url.rpartition(":")[2]
        with pytest.raises(InputError, match=r"not on the public internet|no such host"):
            fetch_address(f"http://{host}:{port}/x.png", Limits())
    assert asked == []


def test_a_host_with_one_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(2, 1, 6, "", (host, 80)) for host in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pairs)
    with pytest.raises(InputError, match=r"leads to 10\.0\.0\.1, which is not on the public"):
        fetch_address("http://two.example/x.png", Limits())


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is looked up once; the server is asked in that name."""
    looked: list[str] = []

    def look_up(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        looked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    dialled: list[Any] = []
    dial = socket.create_connection

    def connect(place: Any, **options: Any) -> Any:
        dialled.append(place)
        monkeypatch.setattr(socket, "getaddrinfo", plain)
        return dial(place, **options)

    plain = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket, "create_connection", connect)
    with server(gives(b"ok")) as (url, asked):
        port = int(url.rpartition(":")[2])
        assert fetch_address(f"http://pictures.example:{port}/a b.png?x=1", OWN) == b"ok"
    assert looked == ["pictures.example"]
    assert dialled == [("127.0.0.1", port)]
    assert asked == [f"/a%20b.png?x=1 pictures.example:{port} None"]


def test_redirects_are_checked_each_and_bounded() -> None:
    for place in ("http://169.254.169.254/latest", "http://[fd00:ec2::254]/", "http://0.0.0.0/"):
        with (
            server(gives(b"", 302, Location=place)) as (url, _),
            pytest.raises(InputError, match="not on the public internet"),
        ):
            fetch_address(url, OWN)
    for place in ("file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/"):
        with (
            server(gives(b"", 301, Location=place)) as (url, _),
            pytest.raises(InputError, match="only http and https"),
        ):
            fetch_address(url, OWN)
    with (
        server(gives(b"", 307, Location="/again")) as (url, asked),
        pytest.raises(InputError, match="5 redirects"),
    ):
        fetch_address(url, OWN)
    assert len(asked) == 6


def test_redirects_are_followed_and_logins_stay_where_they_belong() -> None:
    with server(gives(b"picture")) as (far, far_asked):
        with server(gives(b"", 303, Location=f"{far}/b.png")) as (url, asked):
            login = url.replace("http://", "http://me:p%40ss@")
            assert fetch_address(f"{login}/a.png", OWN) == b"picture"
        assert asked[0].endswith("Basic " + base64.b64encode(b"me:p@ss").decode())
        assert far_asked[0].endswith("None")
        with pytest.raises(InputError) as caught:
            fetch_address(far.replace("http://", "https://me:p%40ss@"), OWN)
        assert "p%40ss" not in str(caught.value)


def test_bytes_are_counted_as_they_come() -> None:
    few = Limits(size=1000, seconds=5.0, private=True)
    with server(gives(bytes(2000))) as (url, _), pytest.raises(InputError, match="over 0 MiB"):
        fetch_address(url, few)

    def without_end(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        for _ in range(100):
            request.wfile.write(bytes(100))

    with server(without_end) as (url, _), pytest.raises(InputError, match="over 0 MiB"):
        fetch_address(url, few)
    with (
        server(gives(b"half", Content_Length="10")) as (url, _),
        pytest.raises(InputError, match="only 4 of 10"),
    ):
        fetch_address(url, few)
    with (
        server(gives(b"x", Content_Encoding="gzip")) as (url, _),
        pytest.raises(InputError, match="compressed"),
    ):
        fetch_address(url, few)


@pytest.mark.parametrize("part", ["head", "body"])
def test_time_is_counted_over_everything(part: str) -> None:
    """A server that sends a byte now and then never waits long enough for a socket's time-out."""

    def drip(request: BaseHTTPRequestHandler) -> None:
        if part == "body":
            request.send_response(200)
            request.end_headers()
        for _ in range(200):
            try:
                request.wfile.write(b"a")
                time.sleep(0.02)
            except OSError:
                return

    with server(drip) as (url, _):
        started = time.monotonic()
        with pytest.raises(InputError, match=r"did not come within 0\.3 s"):
            fetch_address(url, Limits(seconds=0.3, private=True))
        assert time.monotonic() - started < 2


def test_refusals_are_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(gives(b"", 404)) as (url, _), pytest.raises(InputError, match="answers 404 Not Found"):
        fetch_address(url, OWN, "image 1")
    for url, reason in {
        "http://": "names no host",
        "http://a:b/": "no valid address",
        "s3://bucket/x": "only http and https",
        "http://[::1": "no valid address",
    }.items():
        with pytest.raises(InputError, match=reason):
            fetch_address(url, OWN)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with server(gives(b"ok")) as (url, _):
        assert fetch_address(url, OWN) == b"ok"  # proxies are not used


def test_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Limits.from_environment().private
    monkeypatch.setenv(addresses.PRIVATE, "1")
    assert Limits.from_environment().private
    monkeypatch.setenv(addresses.PRIVATE, "0")
    assert not Limits.from_environment().private


def test_data_addresses() -> None:
    whole = base64.b64encode(b"\xff\xfe?>").decode()
    for form in (
        whole,
        whole.rstrip("="),
        whole.replace("/", "_").replace("+", "-"),
        whole[:3] + "\n" + whole[3:],
    ):
        assert read_data_address(f"data:image/png;base64,{form}") == b"\xff\xfe?>"
    assert read_data_address("data:,a%20b") == b"a b"
    for broken in ("data:image/png;base64", "data:;base64,a*b", "data:;base64,abcde"):
        with pytest.raises(InputError, match=r"holds no data|its base64 is broken"):
            read_data_address(broken)


def test_what_is_an_address() -> None:
    assert all(map(is_address, ("http://a", "HTTPS://a", "data:,x", "s3://b/c", "file:///x", "https:/a")))
    assert not any(map(is_address, ("a.png", "C:\\x.png", "v_0:10-0:20.mp4", "/a/b:c", "./x", "")))
