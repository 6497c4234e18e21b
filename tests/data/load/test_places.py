"""Shards are found by their sums: here, in a remote that is a folder, or over the network into a bounded cache."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from made import CLIPS, params, prepare

from videollava.data.acquire.fetch import run as fetch
from videollava.data.load import places
from videollava.data.load.places import find_shard, read_remote
from videollava.data.load.shards import Shards
from videollava.errors import InputError

CONFIG = "[core]\n    remote = team\n['remote \"team\"']\n    url = {}\n"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """With an index, its shards moved into a folder that is laid out as a DVC remote."""
    work = tmp_path / "work"
    chosen = params(CLIPS)
    fetch(chosen, work)
    prepare(chosen, work)
    for file in (work / "data/shards").rglob("*.tar"):
        md5 = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
        there = tmp_path / "remote/files/md5" / md5[:2] / md5[2:]
        there.parent.mkdir(parents=True)
        shutil.move(file, there)
    (work / ".dvc").mkdir()
    return work


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """Its address, and what it was asked for."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(tmp_path / "remote"))  # type: ignore[arg-type]

        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_address[1]}", asked
        serving.shutdown()
        thread.join()


def test_without_a_remote_the_remedy_is_said(workspace: Path) -> None:
    with pytest.raises(
        InputError, match="run `videollava shards toy_clips`, or set one: `videollava remote set`"
    ):
        Shards(workspace / "data/index").read(0)


def test_a_folder_is_read_in_place(workspace: Path) -> None:
    (workspace / ".dvc/config").write_text(CONFIG.format("../../remote"))
    shards = Shards(workspace / "data/index", verify=True)
    assert len({shards.read(number) for number in range(len(shards))}) == len(shards)
    shutil.rmtree(workspace.parent / "remote")
    with pytest.raises(InputError, match="`dvc push shards@toy_clips` where they are"):
        Shards(workspace / "data/index").read(0)


def test_over_the_network_each_shard_comes_once(
    workspace: Path, server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, asked = server
    (workspace / ".dvc/config").write_text(CONFIG.format(address))
    monkeypatch.setenv(places.CACHE, str(workspace / "cache"))
    for _ in range(2):
        shards = Shards(workspace / "data/index", verify=True)
        threads = [threading.Thread(target=shards.read, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert shards.read(0)
    assert len(asked) == 1
    assert len(list((workspace / "cache").glob("*.tar"))) == 1


def test_the_cache_is_bounded_and_lets_the_oldest_go(
    workspace: Path, server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace / ".dvc/config").write_text(CONFIG.format(server[0]))
    cache = workspace / "cache"
    cache.mkdir()
    old = cache / f"{'0' * 64}.tar"
    old.write_bytes(bytes(100_000))
    monkeypatch.setenv(places.CACHE, str(cache))
    shards = Shards(workspace / "data/index")
    size = shards._listed[0].size
    monkeypatch.setenv(places.CACHE_GIB, str((size + 50_000) / 2**30))
    shards.read(0)
    assert not old.exists()
    monkeypatch.setenv(places.CACHE_GIB, "many")
    shutil.rmtree(cache)
    with pytest.raises(InputError, match="write a number of GiB"):
        Shards(workspace / "data/index").read(0)
    monkeypatch.setenv(places.CACHE_GIB, "0.00001")
    with pytest.raises(InputError, match="set VIDEOLLAVA_SHARD_CACHE_GIB higher"):
        Shards(workspace / "data/index").read(0)


def test_a_damaged_shard_is_not_taken(
    workspace: Path, server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace / ".dvc/config").write_text(CONFIG.format(server[0]))
    monkeypatch.setenv(places.CACHE, str(workspace / "cache"))
    (file,) = (path for path in (workspace.parent / "remote").rglob("*") if path.is_file())
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(InputError, match="sha256"):
        Shards(workspace / "data/index").read(0)
    assert not list((workspace / "cache").glob("*.tar"))


def test_local_settings_win_and_keys_reach_boto3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    (tmp_path / ".dvc").mkdir()
    assert read_remote(tmp_path) is None
    (tmp_path / ".dvc/config").write_text(CONFIG.format("s3://bucket/dvc") + "    endpointurl = http://one\n")
    (tmp_path / ".dvc/config.local").write_text(
        "['remote \"team\"']\n    endpointurl = http://two\n    access_key_id = key\n    secret_access_key = 5%5\n"
    )
    remote = read_remote(tmp_path)
    assert remote is not None
    assert remote.access.endpoint == "http://two"
    assert remote.address("abcdef") == "s3://bucket/dvc/files/md5/ab/cdef"
    import os

    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "5%5"
    assert find_shard  # its folder and network ways are above
