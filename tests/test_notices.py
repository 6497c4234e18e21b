"""Notices to a real server: taken, slow, failing, closed; and no address is ever shown."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from videollava import notices
from videollava.errors import InputError
from videollava.notices import Notice, addresses, send
from videollava.scrub import scrub

SECRET = "T0KENT0KENT0KEN"
NOTICE = Notice(
    "moved", "champion: version 4", "videollava", 4, {"gqa": 61.5}, ("passed",), "Ann", "https://m/v/4"
)


@pytest.fixture
def listen() -> Iterator[Callable[..., tuple[str, list[Any]]]]:
    """Starts a server that answers with these statuses in turn, each after some seconds: its address, what it got."""
    running: list[ThreadingHTTPServer] = []
    over = threading.Event()

    def start(*statuses: int, wait: float = 0.0) -> tuple[str, list[Any]]:
        got: list[Any] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                got.append((self.path, body))
                over.wait(wait)
                self.send_response(statuses[min(len(got), len(statuses)) - 1])
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        running.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        running[-1].daemon_threads = True
        threading.Thread(target=running[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{running[-1].server_address[1]}/hooks/{SECRET}", got

    yield start
    over.set()
    for one in running:
        one.shutdown()
        one.server_close()


def test_a_notice_arrives_whole(listen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    address, got = listen(200)
    other, also = listen(204)
    monkeypatch.setenv("VIDEOLLAVA_WEBHOOK", f"{other} {address}")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert send(NOTICE, addresses([address])) == []
    ((path, body),) = got
    assert path == f"/hooks/{SECRET}"
    assert body == {
        "event": "moved",
        "text": "champion: version 4",
        "model": "videollava",
        "version": 4,
        "scores": {"gqa": 61.5},
        "reasons": ["passed"],
        "who": "Ann",
        "link": "https://m/v/4",
    }
    assert [body for _, body in also] == [body]


def test_a_server_that_fails_is_asked_three_times(listen: Any) -> None:
    address, got = listen(500, 503, 200)
    assert send(NOTICE, [address]) == []
    assert len(got) == 3
    address, got = listen(500)
    assert send(NOTICE, [address]) == ["no notice to 127.0.0.1: it answered 500"]
    assert len(got) == 3
    address, got = listen(404)
    assert send(NOTICE, [address]) == ["no notice to 127.0.0.1: it answered 404"]
    assert len(got) == 1
    address, got = listen(302)
    assert send(NOTICE, [address]) == ["no notice to 127.0.0.1: it answered 302"]
    assert len(got) == 1


def test_a_slow_or_closed_server_holds_nobody_up(listen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "SECONDS", 0.2)
    slow, _ = listen(200, wait=60)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{probe.getsockname()[1]}/{SECRET}"
    good, got = listen(200)
    began = time.monotonic()
    told = send(NOTICE, [slow, closed, good])
    assert time.monotonic() - began < 15
    assert told == [
        "no notice to 127.0.0.1: it gave no answer in 0 s",
        "no notice to 127.0.0.1: it cannot be reached",
    ]
    assert len(got) == 1
    monkeypatch.setattr(notices, "SECONDS", 60)
    monkeypatch.setattr(notices, "PATIENCE", 0.3)
    assert send(NOTICE, [slow]) == ["no notice to 127.0.0.1: it does not come to an end"]


def test_addresses_are_held_to_https_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIDEOLLAVA_WEBHOOK", raising=False)
    monkeypatch.setenv("TEAM_HOOK", f"https://hooks.example.org/{SECRET}")
    assert addresses(["TEAM_HOOK", "http://localhost:8065/hooks/x"]) == [
        f"https://hooks.example.org/{SECRET}",
        "http://localhost:8065/hooks/x",
    ]
    assert addresses([]) == []
    for wrong, words in (
        (f"http://mm.example.org/{SECRET}", "mm.example.org would be told over http://"),
        (f"ftp://mm.example.org/{SECRET}", "no https:// address"),
        (f"https://[{SECRET}", "no https:// address"),
        (f"https://mm.example.org:port/{SECRET}", "no https:// address"),
        ("NOT_SET_ANYWHERE", "NOT_SET_ANYWHERE is not set"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            addresses([wrong])
        assert SECRET not in str(caught.value)


def test_the_variable_s_addresses_are_hidden_in_every_text(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = f"https://mm.example.org/hooks/{SECRET}", f"https://chat.example.org/{SECRET[::-1]}"
    monkeypatch.setenv("VIDEOLLAVA_WEBHOOK", f"{one}, {other}")
    assert scrub(f"posting to {one} and {other} failed") == "posting to *** and *** failed"
