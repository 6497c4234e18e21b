from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from videollava.data.acquire import attempts, download
from videollava.data.acquire.download import Download, fetch_url
from videollava.data.acquire.remote import see_url
from videollava.errors import InputError

DATA = np.random.default_rng(0).bytes(300_000)
OTHER = np.random.default_rng(1).bytes(310_000)


@dataclass
class Behaviour:
    """What the server does; `plan` holds for one request each: a status, or the bytes before it hangs up."""

    data: bytes = DATA
    etag: str = '"one"'
    ranges: bool = True
    say_length: bool = True
    plan: list[int] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    behaviour: Behaviour

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.behaviour.data)))
        self.end_headers()

    def do_GET(self) -> None:
        act = self.behaviour
        act.asked.append(dict(self.headers))
        planned = act.plan.pop(0) if act.plan else 1 << 30
        if 400 <= planned < 600:
            self.send_response(planned)
            self.send_header("Retry-After", "0")
            self.end_headers()
            return
        start = 0
        fresh = self.headers.get("If-Range", act.etag) == act.etag
        if act.ranges and fresh and "Range" in self.headers:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if start >= len(act.data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(act.data)}")
            self.end_headers()
            return
        body = act.data[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(act.data) - 1}/{len(act.data)}")
        if act.say_length:
            self.send_header("Content-Length", str(len(body)))
        if act.etag:
            self.send_header("ETag", act.etag)
        self.end_headers()
        self.wfile.write(body[:planned])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Behaviour]]:
    monkeypatch.setattr(attempts, "FIRST_PAUSE", 0.0)
    act = Behaviour()
    handler = type("Bound", (Handler,), {"behaviour": act})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/a.tar", act
        running.shutdown()
        thread.join()


def item(url: str, folder: Path, data: bytes = DATA) -> Download:
    return Download(url, folder / "a.tar", hashlib.sha256(data).hexdigest(), "params.yaml: mine")


def fetch(wanted: Download, retries: int = 2) -> int:
    counts: list[int] = []
    fetch_url(wanted, retries, counts.append, threading.Event())
    return sum(counts)


def test_fetches_and_verifies(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, act = server
    assert fetch(item(url, tmp_path)) == len(DATA)
    assert (tmp_path / "a.tar").read_bytes() == DATA
    assert [file.name for file in tmp_path.iterdir()] == ["a.tar"]
    assert fetch(item(url, tmp_path)) == len(DATA)
    assert len(act.asked) == 1
    assert see_url(url, "").size == len(DATA)


def test_goes_on_where_the_connection_broke(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, act = server
    act.plan = [100_000, 503, 50_000, 429]
    assert fetch(item(url, tmp_path)) == len(DATA)
    assert (tmp_path / "a.tar").read_bytes() == DATA
    assert [asked.get("Range") for asked in act.asked] == [
        None,
        *["bytes=100000-"] * 2,
        *["bytes=150000-"] * 2,
    ]
    assert {asked.get("If-Range") for asked in act.asked[1:]} == {'"one"'}


def test_a_killed_fetch_goes_on_in_the_next_run(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, act = server
    act.plan = [120_000, 500, 500, 500]
    with pytest.raises(InputError, match=r"3 attempts brought nothing.*500.*kept"):
        fetch(item(url, tmp_path))
    assert (tmp_path / "a.tar.part").stat().st_size == 120_000
    act.asked.clear()
    assert fetch(item(url, tmp_path)) == len(DATA)
    assert [asked["Range"] for asked in act.asked] == ["bytes=120000-"]
    assert (tmp_path / "a.tar").read_bytes() == DATA


def test_a_changed_object_starts_again(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, act = server
    act.plan = [100_000, 500, 500, 500]
    with pytest.raises(InputError, match="brought nothing"):
        fetch(item(url, tmp_path, OTHER))
    act.data, act.etag = OTHER, '"two"'
    assert fetch(item(url, tmp_path, OTHER)) == len(OTHER)
    assert (tmp_path / "a.tar").read_bytes() == OTHER


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_an_object_that_changed_unseen_is_fetched_once_more(
    server: tuple[str, Behaviour], tmp_path: Path, etag: str
) -> None:
    url, act = server
    act.etag, act.plan = etag, [100_000, 500, 500, 500]
    with pytest.raises(InputError, match="brought nothing"):
        fetch(item(url, tmp_path, OTHER))
    act.data = OTHER
    assert fetch(item(url, tmp_path, OTHER)) == len(OTHER)
    assert (tmp_path / "a.tar").read_bytes() == OTHER


def test_a_server_without_ranges_or_lengths(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, act = server
    act.ranges, act.plan = False, [100_000]
    assert fetch(item(url, tmp_path)) == len(DATA)
    assert (tmp_path / "a.tar").read_bytes() == DATA
    act.say_length = False
    (tmp_path / "a.tar").unlink()
    assert fetch(item(url, tmp_path)) == len(DATA)


def test_everything_had_arrived(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, _ = server
    (tmp_path / "a.tar.part").write_bytes(DATA)
    (tmp_path / "a.tar.version").write_text('"one"')
    assert fetch(item(url, tmp_path)) == len(DATA)
    assert (tmp_path / "a.tar").read_bytes() == DATA


def test_too_much_had_arrived(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, _ = server
    (tmp_path / "a.tar.part").write_bytes(DATA + b"more")
    assert fetch(item(url, tmp_path)) == len(DATA)
    assert (tmp_path / "a.tar").read_bytes() == DATA


def test_a_wrong_sha256_is_refused_and_removed(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, _ = server
    with pytest.raises(
        InputError, match=f"params.yaml: mine: {url}: its sha256 is .*, declared is .*removed"
    ):
        fetch(item(url, tmp_path, b"something else"))
    assert list(tmp_path.iterdir()) == []


def test_a_staged_file_of_other_parameters_is_replaced(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, _ = server
    (tmp_path / "a.tar").write_bytes(b"old")
    assert fetch(item(url, tmp_path)) == len(DATA)
    assert (tmp_path / "a.tar").read_bytes() == DATA


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_not_tried_again(server: tuple[str, Behaviour], tmp_path: Path, status: int) -> None:
    url, act = server
    act.plan = [status]
    with pytest.raises(InputError, match=f"mine: {url}: HTTP {status}"):
        fetch(item(url, tmp_path))
    assert len(act.asked) == 1


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(attempts, "FIRST_PAUSE", 0.0)
    with pytest.raises(InputError, match=r"3 attempts brought nothing.*refused"):
        fetch(item("http://127.0.0.1:9/a.tar", tmp_path))
    with pytest.raises(OSError, match="refused"):
        see_url("http://127.0.0.1:9/a.tar", "")


def test_stops_when_told(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, act = server
    stop = threading.Event()
    stop.set()
    with pytest.raises(InputError, match="stopped"):
        fetch_url(item(url, tmp_path), 2, lambda count: None, stop)
    assert not act.asked


def test_local_files(tmp_path: Path) -> None:
    source = tmp_path / "with space.tar"
    source.write_bytes(DATA)
    target = tmp_path / "out"
    assert fetch(item(source.as_uri(), target)) == len(DATA)
    assert (target / "a.tar").read_bytes() == DATA
    assert see_url(source.as_uri(), "").size == len(DATA)
    with pytest.raises(InputError, match="no such file"):
        fetch(item((tmp_path / "missing").as_uri(), tmp_path / "x"))
    with pytest.raises(InputError, match="file:///absolute"):
        fetch(item("file://data/a.tar", tmp_path / "x"))


@pytest.mark.parametrize("url", ["a.tar", "ftp://host/a.tar", "gs://bucket/a.tar"])
def test_other_addresses(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="start with s3://"):
        fetch(item(url, tmp_path))


def test_a_body_that_goes_on_past_its_size_is_stopped(
    server: tuple[str, Behaviour], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, act = server
    act.say_length = False
    wanted = replace(item(url, tmp_path), sha256="", size=len(DATA) - 70_000)
    with pytest.raises(InputError, match="it goes on past the 230000 bytes that are locked"):
        fetch(wanted)
    monkeypatch.setattr(download, "LOOKED_AFTER", 1)
    monkeypatch.setattr(download, "LEAST_ROOM", 1 << 60)
    with pytest.raises(InputError, match="it goes on until the disk is full"):
        fetch(replace(wanted, size=-1))
    assert list(tmp_path.iterdir()) == []
