from __future__ import annotations

import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from videollava.data.archives.listing import TarWriter
from videollava.data.load import shards as load_shards
from videollava.data.load.shards import Shards
from videollava.data.prepare.index import write_shards
from videollava.data.prepare.tables import (
    ROWS,
    load_split,
    split_names,
    split_schema,
    split_writer,
    write_media,
)
from videollava.errors import InputError

FILES = [b"first", b"second" * 1000, b"third"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows: list[dict[str, Any]] = []
    index = tmp_path / "index"
    index.mkdir()
    (tmp_path / "shards/mine").mkdir(parents=True)
    for shard, files in enumerate((FILES[:2], FILES[2:])):
        with TarWriter(shard_path(index, shard)) as tar:
            for data in files:
                place = {"media_id": len(rows), "kind": "image" if shard else "video", "shard": shard}
                place |= {"offset": tar.add(f"{len(rows):08d}.bin", data), "size": len(data)}
                rows.append(
                    {**place, "sha256": sha256(data).hexdigest(), "width": 1, "height": 2, "frames": 3}
                )
    write_media(index, rows)
    write_shards(index, [("mine", shard_path(index, shard)) for shard in range(2)])
    return index


def shard_path(index: Path, shard: int) -> Path:
    return index.parent / f"shards/mine/mine-{shard:05d}.tar"


def row(number: int) -> dict[str, Any]:
    texts = {
        "id": str(number),
        "source": "mine",
        "kind": "",
        "conversations": '[["human", "q"], ["gpt", "a"]]',
    }
    counts = dict.fromkeys(("text_tokens", "target_tokens", "images", "videos", "tokens"), number)
    return {**texts, **counts, "media": list(range(number % 3))}


def test_reads_any_medium(folder: Path) -> None:
    shards = Shards(folder, verify=True)
    assert [shards.read(number) for number in (2, 0, 1)] == [FILES[2], FILES[0], FILES[1]]
    assert len(shards) == 3
    assert (shards.kind(0), shards.kind(2)) == ("video", "image")
    assert shards.media.column("size").to_pylist() == [5, 6000, 5]


def read_in_child(shards: Shards, results: Any) -> None:
    results.put([shards.read(number) for number in range(3)])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_reads_in_other_processes(folder: Path, method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    shards = Shards(folder)
    shards.read(0)  # with a file open
    results = context.SimpleQueue()
    child = context.Process(target=read_in_child, args=(shards, results))
    child.start()
    assert results.get() == FILES
    child.join()
    assert child.exitcode == 0
    assert shards.read(1) == FILES[1]


def test_reads_in_threads(folder: Path) -> None:
    shards = Shards(folder)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(shards.read, [0, 1, 2] * 50)) == FILES * 50


def test_pickles_without_its_files(folder: Path) -> None:
    shards = Shards(folder, verify=True)
    shards.read(0)
    other = pickle.loads(pickle.dumps(shards))
    assert other.verify
    assert other.read(1) == FILES[1]
    shards.close()
    assert shards.read(0) == FILES[0]


def test_damage_is_noticed(folder: Path) -> None:
    path = shard_path(folder, 1)
    path.write_bytes(path.read_bytes().replace(b"third", b"thirt"))
    assert Shards(folder).read(2) == b"thirt"
    with pytest.raises(InputError, match=r"mine-00001\.tar: medium 2"):
        Shards(folder, verify=True).read(2)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="not what was written"):
        Shards(folder).read(2)
    path.unlink()
    with pytest.raises(InputError, match=r"not found, and no DVC remote.*`videollava shards mine`"):
        Shards(folder).read(2)


def test_what_is_not_there(folder: Path, tmp_path: Path) -> None:
    for number in (-1, 3):
        with pytest.raises(InputError, match=f"no medium {number}"):
            Shards(folder).read(number)
    with pytest.raises(InputError, match=r"media.arrow: not found"):
        Shards(tmp_path / "nothing")
    (tmp_path / "media.arrow").write_bytes(b"text")
    with pytest.raises(InputError, match="not an Arrow file"):
        Shards(tmp_path)


def test_splits_come_back(tmp_path: Path) -> None:
    writer = split_writer(tmp_path, "finetune")
    rows = [row(number) for number in range(ROWS + 5)]
    for entry in rows:
        writer.add(entry)
    writer.close()
    split_writer(tmp_path, "align").close()
    assert split_names(tmp_path) == ["align", "finetune"]
    table = load_split(tmp_path, "finetune")
    assert table.schema == split_schema()
    assert table.to_pylist() == rows
    assert load_split(tmp_path, "align").num_rows == 0
    with pytest.raises(InputError, match="no split 'pretrain', there are: align, finetune"):
        load_split(tmp_path, "pretrain")


def test_more_shards_than_a_process_may_open_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_shards, "KEPT_OPEN", 2)
    index = tmp_path / "index"
    index.mkdir()
    (tmp_path / "shards/mine").mkdir(parents=True)
    rows = []
    for number in range(5):
        with TarWriter(shard_path(index, number)) as tar:
            offset = tar.add("a.png", bytes([number]) * 3)
        place = {
            "media_id": number,
            "shard": number,
            "offset": offset,
            "size": 3,
            "kind": "image",
            "sha256": "",
        }
        rows.append({**place, "width": 1, "height": 1, "frames": 1})
    write_media(index, rows)
    write_shards(index, [("mine", shard_path(index, number)) for number in range(5)])
    reader, before = Shards(index), len(os.listdir("/dev/fd"))
    for _ in range(2):
        assert [reader.read(number) for number in range(5)] == [bytes([number]) * 3 for number in range(5)]
    assert len(os.listdir("/dev/fd")) == before + 2
    reader.close()
    assert len(os.listdir("/dev/fd")) == before
