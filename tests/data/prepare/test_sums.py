"""Sums of shards: found once, and again for what has changed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from videollava.data.prepare import sums
from videollava.data.prepare.index import write_shards


def listed(folder: Path, files: list[Path]) -> list[str]:
    write_shards(folder, [("mine", file) for file in files], folder / "memory/sums.json")
    return [entry["sha256"] for entry in json.loads((folder / "shards.json").read_text())]


def test_a_shard_is_read_once_and_again_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    own = sums._sum
    monkeypatch.setattr(sums, "_sum", lambda file: read.append(file.name) or own(file))
    files = [tmp_path / f"mine-{number}.tar" for number in range(3)]
    for file in files:
        file.write_bytes(file.name.encode())
    right = [hashlib.sha256(file.name.encode()).hexdigest() for file in files]
    assert listed(tmp_path, files) == right
    assert listed(tmp_path, files) == right
    assert read == ["mine-0.tar", "mine-1.tar", "mine-2.tar"]
    read.clear()
    # Of the same size and, as far as a clock says, the same time: another file in its place.
    before = files[1].stat()
    (tmp_path / "new").write_bytes(b"mine-9.tar")
    os.utime(tmp_path / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
    (tmp_path / "new").replace(files[1])
    right[1] = hashlib.sha256(b"mine-9.tar").hexdigest()
    assert listed(tmp_path, files) == right
    assert read == ["mine-1.tar"]
    read.clear()
    for broken in ("", "[]", '{"x": 1}', json.dumps({str(files[0]): [[1, 2, 3], {}]})):
        (tmp_path / "memory/sums.json").write_text(broken)
        assert listed(tmp_path, files) == right
    assert len(read) == 12
