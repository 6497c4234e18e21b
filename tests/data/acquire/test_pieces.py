"""Large objects come in pieces, side by side; against a server on loopback that cuts, changes and refuses."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from videollava.data.acquire import attempts, pieces
from videollava.data.acquire.download import Download, fetch_all
from videollava.errors import InputError

PIECE = 50_000
DATA = np.random.default_rng(0).bytes(6 * PIECE + 777)
OTHER = np.random.default_rng(1).bytes(len(DATA))


@dataclass
class Served:
    """Objects by path; `cuts` holds for one request of a path each: the bytes before it hangs up."""

    data: dict[str, bytes] = field(default_factory=dict)
    etag: str = '"one"'
    ranges: bool = True
    cuts: dict[str, list[int]] = field(default_factory=dict)
    sent: list[tuple[str, int, int]] = field(default_factory=list)
    change_after: int = 1 << 30

    def bytes_of(self, path: str) -> int:
        return sum(count for name, _, count in self.sent if name == path)


class Handler(BaseHTTPRequestHandler):
    served: Served

    def do_GET(self) -> None:
        act = self.served
        if len(act.sent) >= act.change_after:
            act.data, act.etag = dict.fromkeys(act.data, OTHER), '"two"'
        data, start, end = act.data[self.path], 0, len(act.data[self.path])
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        partial = bool(asked) and act.ranges and self.headers.get("If-Range", act.etag) == act.etag
        if asked and partial:
            start, end = int(asked[1]), min(int(asked[2] or len(data)) + 1, len(data))
        self.send_response(206 if partial else 200)
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.send_header("Content-Length", str(end - start))
        self.send_header("ETag", act.etag)
        self.end_headers()
        cuts = act.cuts.get(self.path, [])
        body = data[start:end][: cuts.pop(0) if cuts else None]
        act.sent.append((self.path, start, len(body)))
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Served]]:
    monkeypatch.setattr(attempts, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr(pieces, "PIECE", PIECE)
    act = Served({"/a.tar": DATA})
    handler = type("Bound", (Handler,), {"served": act})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", act
        running.shutdown()
        thread.join()


def item(url: str, folder: Path, data: bytes | None = DATA, **known: Any) -> Download:
    digest = hashlib.sha256(data).hexdigest() if data is not None else ""
    said = {"size": len(DATA), "version": '"one"', **known}
    return Download(f"{url}/a.tar", folder / "a.tar", digest, "params.yaml: sources.mine", **said)


def fetch(*items: Download, workers: int = 3, retries: int = 0) -> tuple[int, dict[str, str]]:
    """Bytes that were told of, and the sums of what was fetched."""
    counts: list[int] = []
    sums: dict[str, str] = {}
    fetch_all(
        items,
        workers,
        retries,
        counts.append,
        lambda one, digest: sums.update({one.target.name: digest}),
        threading.Event(),
    )
    return sum(counts), sums


def test_pieces_make_the_whole(served: tuple[str, Served], tmp_path: Path) -> None:
    url, act = served
    counted, sums = fetch(item(url, tmp_path, None))
    assert (tmp_path / "a.tar").read_bytes() == DATA
    assert counted == len(DATA)
    assert sums == {"a.tar": hashlib.sha256(DATA).hexdigest()}
    assert sorted(act.sent) == [
        ("/a.tar", start, min(PIECE, len(DATA) - start)) for start in range(0, len(DATA), PIECE)
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["a.tar"]


def test_a_broken_piece_goes_on_where_it_broke(served: tuple[str, Served], tmp_path: Path) -> None:
    url, act = served
    act.cuts["/a.tar"] = [30_000, PIECE, 10_000, 1]
    fetch(item(url, tmp_path), retries=2)
    assert (tmp_path / "a.tar").read_bytes() == DATA
    assert act.bytes_of("/a.tar") == len(DATA)


def test_the_next_run_asks_only_for_pieces_that_lack(served: tuple[str, Served], tmp_path: Path) -> None:
    url, act = served
    act.cuts["/a.tar"] = [PIECE, PIECE, PIECE, 0]
    with pytest.raises(InputError, match=r"attempts brought nothing.*kept"):
        fetch(item(url, tmp_path, None), workers=1)
    act.sent.clear()
    counted, _ = fetch(item(url, tmp_path, None))
    assert (tmp_path / "a.tar").read_bytes() == DATA
    assert act.bytes_of("/a.tar") == len(DATA) - 3 * PIECE
    assert counted == len(DATA)


def test_a_piece_that_a_crash_lost_comes_again(served: tuple[str, Served], tmp_path: Path) -> None:
    url, act = served
    act.cuts["/a.tar"] = [PIECE, PIECE, PIECE, 0]
    with pytest.raises(InputError):
        fetch(item(url, tmp_path, None), workers=1)
    with (tmp_path / "a.tar.part").open("r+b") as file:
        file.seek(PIECE)
        file.write(bytes(PIECE))  # noted, and never written to the disk
    with (tmp_path / "a.tar.pieces").open("a") as journal:
        journal.write(f"{4 * PIECE} ")  # a line that was cut
    act.sent.clear()
    fetch(item(url, tmp_path, None))
    assert (tmp_path / "a.tar").read_bytes() == DATA
    assert act.bytes_of("/a.tar") == len(DATA) - 2 * PIECE


def test_what_changed_since_it_was_locked_is_refused(served: tuple[str, Served], tmp_path: Path) -> None:
    url, act = served
    act.data["/a.tar"], act.etag = OTHER, '"two"'
    with pytest.raises(
        InputError, match=r"was changed since it was looked at: its version is \"two\", locked is"
    ):
        fetch(item(url, tmp_path, None))
    assert not (tmp_path / "a.tar").exists()


def test_what_changes_on_the_way_is_never_mixed(served: tuple[str, Served], tmp_path: Path) -> None:
    url, act = served
    act.change_after = 3
    with pytest.raises(InputError, match="was changed since"):
        fetch(item(url, tmp_path, None), workers=1)
    assert not (tmp_path / "a.tar").exists()


def test_another_tag_of_the_same_bytes_is_no_change(served: tuple[str, Served], tmp_path: Path) -> None:
    url, act = served
    act.etag = '"of-another-server"'
    fetch(item(url, tmp_path))
    assert (tmp_path / "a.tar").read_bytes() == DATA
    act.data["/a.tar"] = OTHER
    (tmp_path / "a.tar").unlink()
    with pytest.raises(InputError, match="its sha256 is"):
        fetch(item(url, tmp_path))


def test_a_server_without_ranges_is_asked_once_more(served: tuple[str, Served], tmp_path: Path) -> None:
    url, act = served
    act.ranges = False
    counted, _ = fetch(item(url, tmp_path, None), workers=1)
    assert (tmp_path / "a.tar").read_bytes() == DATA
    assert counted == len(DATA)


def test_another_size_than_locked_is_refused(served: tuple[str, Served], tmp_path: Path) -> None:
    url, act = served
    act.data["/a.tar"] = DATA[:-5]
    with pytest.raises(InputError, match=f"it has {len(DATA) - 5} bytes, locked are {len(DATA)}"):
        fetch(item(url, tmp_path))
    act.data["/a.tar"] = DATA[:70_000]
    with pytest.raises(InputError, match="it has 70000 bytes, locked are 60000"):
        fetch(item(url, tmp_path, None, size=60_000))


def test_many_files_share_the_connections(served: tuple[str, Served], tmp_path: Path) -> None:
    url, act = served
    rng = np.random.default_rng(2)
    act.data = {f"/{n}": rng.bytes(int(rng.integers(0, 3 * PIECE))) for n in range(60)}
    wanted = [
        Download(f"{url}{name}", tmp_path / f"in{name}", "", "mine", len(data), '"one"')
        for name, data in act.data.items()
    ]
    _, sums = fetch(*wanted, workers=6)
    assert sums == {name[1:]: hashlib.sha256(data).hexdigest() for name, data in act.data.items()}
    assert all(one.target.read_bytes() == act.data[f"/{one.target.name}"] for one in wanted)
    assert sum(count for _, _, count in act.sent) == sum(map(len, act.data.values()))
