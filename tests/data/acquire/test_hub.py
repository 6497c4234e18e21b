"""Repositories of the Hugging Face hub, from a stand-in of its API on loopback."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from videollava.data.acquire import attempts
from videollava.data.acquire.fetch import fetch_source
from videollava.data.acquire.hub import hub_address, resolve_hub
from videollava.data.acquire.lock import read_lock
from videollava.data.acquire.look import lock_source
from videollava.errors import InputError
from videollava.params import Source

ONE, TWO = "1" * 40, "2" * 40


@dataclass
class Hub:
    """One data set: its revisions, and the files of each commit."""

    revisions: dict[str, str] = field(default_factory=lambda: {"main": ONE, ONE: ONE, TWO: TWO})
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refusal: tuple[int, str] | None = None
    failing: int = 0
    asked: list[str] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.asked.append(path)
        if hub.failing:
            hub.failing -= 1
            self._answer(503, b"")
        elif hub.refusal:
            self._answer(hub.refusal[0], b"{}", {"X-Error-Code": hub.refusal[1]})
        elif path.startswith("/api/datasets/org/set/revision/"):
            commit = hub.revisions.get(path.rpartition("/")[2])
            if commit is None:
                self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            else:
                self._answer(200, json.dumps({"id": "org/set", "sha": commit}).encode())
        elif path.startswith("/api/datasets/org/set/tree/"):
            commit = path.split("/")[6]
            self._answer(200, json.dumps([_entry(*item) for item in hub.files[commit].items()]).encode())
        elif path.startswith("/datasets/org/set/resolve/"):
            commit, name = path.removeprefix("/datasets/org/set/resolve/").split("/", 1)
            self._answer(200, hub.files[commit][name], {"ETag": f'"{commit}{name}"'})
        else:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def _entry(name: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
    if name.endswith(".zip"):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(attempts, "FIRST_PAUSE", 0.0)
    act = Hub()
    first = {"README.md": b"#", "notes.json": b"[]", "images/a.zip": b"PK one", ".gitattributes": b"*"}
    act.files = {ONE: first, TWO: {**first, "images/b.zip": b"PK two", "notes.json": b"[{}]"}}
    handler = type("Bound", (Handler,), {"hub": act})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{running.server_port}")
        yield act
        running.shutdown()
        thread.join()


SET = Source(name="far", kind="hub", format="llava", repo="org/set")


def held(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name != "source.json"
    }


def test_main_is_locked_to_the_commit_of_first_sight(hub: Hub, tmp_path: Path) -> None:
    lock = fetch_source(SET, tmp_path)
    assert {(file.name, file.version) for file in lock.files} == {
        (name, ONE) for name in ("README.md", "notes.json", "images/a.zip")
    }
    assert all(file.sha256 == hashlib.sha256(hub.files[ONE][file.name]).hexdigest() for file in lock.files)
    assert {file.url for file in lock.files if file.name == "notes.json"} == {
        f"hf://datasets/org/set@{ONE}/notes.json"
    }
    hub.revisions["main"] = TWO
    hub.asked.clear()
    assert fetch_source(SET, tmp_path) == lock
    assert hub.asked == []
    assert held(tmp_path / "data/raw/far")["notes.json"] == b"[]"
    assert lock_source(SET, tmp_path, again=True).files[-1].name == "images/b.zip"
    fetch_source(SET, tmp_path)
    assert held(tmp_path / "data/raw/far") == {
        name: data for name, data in hub.files[TWO].items() if name != ".gitattributes"
    }
    again = read_lock(tmp_path, "far")
    assert again is not None
    assert [(file.name, file.seen) for file in again.files][-1] == ("images/b.zip", 2)


def test_patterns_choose_files(hub: Hub, tmp_path: Path) -> None:
    fetch_source(SET.replace(files=("images/*",)), tmp_path)
    assert set(held(tmp_path / "data/raw/far")) == {"images/a.zip"}
    with pytest.raises(InputError, match=r"no file fits \*\.tar; it has 4 files: README"):
        lock_source(SET.replace(name="other", files=("*.tar",)), tmp_path)


def test_other_bytes_than_the_hub_says_are_refused(hub: Hub, tmp_path: Path) -> None:
    lock_source(SET, tmp_path)
    hub.files[ONE]["images/a.zip"] = b"PK 1ne"
    with pytest.raises(InputError, match=r"images/a\.zip: its sha256 is"):
        fetch_source(SET, tmp_path)
    assert not (tmp_path / "data/raw/far").exists()


def test_a_hub_that_fails_for_a_while_is_asked_again(hub: Hub, tmp_path: Path) -> None:
    hub.failing = 2
    assert resolve_hub("org/set", "main", "dataset") == ONE
    assert resolve_hub("any/thing", TWO) == TWO
    hub.failing = 1000
    with pytest.raises(InputError, match=r"attempts brought nothing.*(503|Service)"):
        resolve_hub("org/set", "main", "dataset", retries=1)


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ((401, "RepoNotFound"), "no such repository that you may read"),
        ((403, "GatedRepo"), "accept them on its page, and set HF_TOKEN"),
        ((400, "Odd"), "the hub answers"),
    ],
)
def test_refusals_say_what_to_do(hub: Hub, refusal: tuple[int, str], said: str) -> None:
    hub.refusal = refusal
    with pytest.raises(InputError, match=said):
        resolve_hub("org/set", "main", "dataset", origin="params.yaml: sources.far")


def test_an_unknown_revision_and_an_odd_name(hub: Hub) -> None:
    with pytest.raises(InputError, match="no revision 'v9'"):
        resolve_hub("org/set", "v9", "dataset")
    with pytest.raises(InputError, match="no such repository"):
        resolve_hub("org/other", "main")
    with pytest.raises(InputError, match="a b c"):
        resolve_hub("a b c/d/e", "main")


def test_addresses_follow_the_environment(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    assert hub_address(f"hf://datasets/o/n@{ONE}/a b/c.zip") == (
        f"https://mirror.example/datasets/o/n/resolve/{ONE}/a%20b/c.zip"
    )
    assert hub_address(f"hf://o/n@{ONE}/c") == f"https://mirror.example/o/n/resolve/{ONE}/c"
    assert hub_address("s3://b/c") == "s3://b/c"
