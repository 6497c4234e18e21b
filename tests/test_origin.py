"""What a model's name means: a folder, a hub id (a stand-in of the hub on loopback), and its lock."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from videollava.errors import InputError
from videollava.origin import Pins, fetch_snapshot, find_model, find_packaged, is_on_hub

ONE, TWO = "1" * 40, "2" * 40
NAME = "org/model"


class Hub(BaseHTTPRequestHandler):
    """One model, whose `main` moves."""

    main = ONE
    files: dict[str, dict[str, bytes]] = {}  # noqa: RUF012
    asked: list[str] = []  # noqa: RUF012
    gated = False

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.asked.append(path)
        if not path.removeprefix("/api/models").startswith(f"/{NAME}/"):
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif self.gated:
            self._answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif "/revision/" in path:
            commit = {"main": self.main, ONE: ONE, TWO: TWO}.get(path.rpartition("/")[2])
            if commit is None:
                self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            else:
                self._answer(200, json.dumps({"id": NAME, "sha": commit}).encode())
        elif "/tree/" in path:
            listed = self.files[path.split("/")[6]]
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                for name, data in listed.items()
            ]
            self._answer(200, json.dumps(entries).encode())
        else:
            _, _, commit, name = path.removeprefix(f"/{NAME}").split("/", 3)
            held = {"ETag": f'"{commit[:4]}{name}"', "X-Repo-Commit": commit}
            self._answer(200, self.files[commit][name], held)

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


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    from huggingface_hub import constants

    old = {
        "config.json": b"{}",
        "model.safetensors": b"one",
        "pytorch_model.bin": b"again",
        "tf_model.h5": b"no",
    }
    files = {ONE: old, TWO: {"config.json": b"{}", "pytorch_model.bin": b"two"}}
    bound: type[Hub] = type("Bound", (Hub,), {"files": files, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), bound) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{running.server_port}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield bound
        running.shutdown()
        thread.join()


def test_main_is_kept_at_the_commit_of_first_sight(hub: type[Hub], tmp_path: Path) -> None:
    pins = Pins(tmp_path, "bases")
    found = pins.find(NAME)
    assert (found.revision, (found.folder / "model.safetensors").read_bytes()) == (ONE, b"one")
    assert sorted(file.name for file in found.folder.iterdir()) == ["config.json", "model.safetensors"]
    pins.write()
    lock = tmp_path / "locks/models/bases.json"
    assert json.loads(lock.read_text()) == {NAME: ONE}
    hub.main = TWO
    assert Pins(tmp_path, "bases").find(NAME).revision == ONE
    lock.write_text("{}")
    again = Pins(tmp_path, "bases").find(NAME)
    assert (again.revision, (again.folder / "pytorch_model.bin").read_bytes()) == (TWO, b"two")


def test_a_revision_stands_in_the_name(hub: type[Hub], tmp_path: Path) -> None:
    assert find_model(f"{NAME}@{TWO}", tmp_path).revision == TWO
    with pytest.raises(InputError, match="no revision 'v9' of it on the hub"):
        find_model(f"{NAME}@v9", tmp_path)


def test_what_the_hub_refuses_is_told_in_a_sentence(hub: type[Hub]) -> None:
    with pytest.raises(InputError, match="no such folder, and no such model on the hub"):
        fetch_snapshot("org/other")
    hub.gated = True
    with pytest.raises(InputError, match="accept them on its page on the hub, and set HF_TOKEN"):
        fetch_snapshot(NAME)


def test_what_is_here_needs_no_hub(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    fetch_snapshot(NAME)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert fetch_snapshot(NAME, ONE).revision == ONE


def test_names_that_are_none(tmp_path: Path) -> None:
    assert is_on_hub("org/model@v1", tmp_path)
    (tmp_path / "org/model").mkdir(parents=True)
    for name in ("org/model", "./org/model", "/org/model", "models:/x/3", "package:x", "one", "a/b/c"):
        assert not is_on_hub(name, tmp_path)
    with pytest.raises(InputError, match="no such folder, no hub id"):
        find_model("a/b/c", tmp_path)
    with pytest.raises(InputError, match="this package is not installed; `pip install no-such-model`"):
        find_packaged("package:no-such-model")


def test_a_lock_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "locks/models/bases.json"
    file.parent.mkdir(parents=True)
    for text in ("{", '{"a": 1}', "[]"):
        file.write_text(text)
        with pytest.raises(InputError, match=r"bases\.json: .*take it back from git"):
            Pins(tmp_path, "bases")
