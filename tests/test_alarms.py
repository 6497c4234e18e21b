"""Alarms of a stage reach people as notices, a few at a time, and hold nobody up."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from videollava import alarm_notices
from videollava.alarm_notices import alarms_told
from videollava.alarms import alarm


@pytest.fixture
def inbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What a real server got at the address of VIDEOLLAVA_WEBHOOK."""
    got: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("VIDEOLLAVA_WEBHOOK", f"http://127.0.0.1:{server.server_address[1]}/hook")
    monkeypatch.delenv("RANK", raising=False)
    yield got
    server.shutdown()
    server.server_close()


def test_the_first_is_sent_at_once_and_those_after_it_together(inbox: list[Any], tmp_path: Path) -> None:
    with alarms_told("finetune", "videollava", tmp_path):
        alarm("the loss of step 7 jumps")
        until = time.monotonic() + 20
        while not inbox and time.monotonic() < until:
            time.sleep(0.01)
        assert [one["text"] for one in inbox] == ["videollava: finetune: the loss of step 7 jumps"]
        for step in range(8, 15):
            alarm(f"step {step}")
    assert (inbox[0]["event"], inbox[0]["model"]) == ("alarm", "videollava")
    assert len(inbox) == 2  # those of the quiet minute, when the stage ends
    assert inbox[1]["text"].endswith("step 8; step 9; step 10; step 11; step 12; and 2 more")


def test_nobody_listens_outside_and_on_other_ranks(
    inbox: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alarm("nobody hears it")
    monkeypatch.setenv("RANK", "1")
    with alarms_told("finetune", "videollava", tmp_path):
        alarm("rank 0 says it")
    assert inbox == []


def test_an_address_that_cannot_be_reached_is_said_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("VIDEOLLAVA_WEBHOOK", "ftp://nowhere")
    with alarms_told("align", "videollava", tmp_path):
        alarm("rank 3 lags")
    assert (
        "no notice of an alarm was sent: VIDEOLLAVA_WEBHOOK: holds what is no https:// address"
        in capsys.readouterr().err
    )


def test_a_stage_without_an_alarm_starts_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarm_notices, "_addresses", None)  # would fail if it were asked
    with alarms_told("index", "videollava", tmp_path):
        assert "alarms" not in {one.name for one in threading.enumerate()}
