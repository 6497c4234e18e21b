"""Writes one shard: WebDataset samples of a medium and a .json. Runs in worker processes.

A shard is known by a key of all that is in it. What was written under a key before is linked, not written again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videollava.data.archives.listing import Member, read_member
from videollava.data.archives.tar_writer import TarWriter
from videollava.data.prepare.tables import open_table
from videollava.data.records.marks import MediumKind

__all__ = ["Sample", "ShardStore", "Writing", "write_shard"]


@dataclass(frozen=True, slots=True)
class Sample:
    """A medium of a shard; `records`: rows of records.arrow that begin with it."""

    key: str
    suffix: str
    member: Member
    kind: MediumKind
    sha256: str
    sides: tuple[int, int, int]
    records: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Writing:
    """A shard to write at `path`, from records.arrow and the archives, with what was written before in `store`."""

    path: Path
    store: Path
    records: Path
    samples: Sequence[Sample]


class ShardStore:
    """Shards by their keys, so that a source with a few more media writes a few more shards.

    It lies outside the outputs: those are removed before their stage runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._used: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def use(self, key: str) -> None:
        """A shard that the outputs have."""
        self._used.add(key)

    def keep_used(self) -> None:
        """Remove what the outputs have no more, and what a killed run left half written."""
        for file in self.folder.iterdir():
            if file.stem not in self._used:
                file.unlink()


def write_shard(writing: Writing) -> tuple[str, list[int]]:
    """Write one; its key, and where each medium lies in it.

    Raises OSError and the like where an archive is not what it was.
    """
    texts = _texts(writing)
    key = _key(writing.samples, texts)
    written = writing.store / f"{key}.tar"
    if not written.is_file():
        half = writing.store / f"{key}.{os.getpid()}.tmp"
        with TarWriter(half) as tar:
            for sample, text in zip(writing.samples, texts, strict=True):
                tar.add(f"{sample.key}{sample.suffix}", read_member(sample.member))
                tar.add(f"{sample.key}.json", text)
        half.replace(written)
    _link(written, writing.path)
    return key, _offsets(writing.samples, texts)


def _texts(writing: Writing) -> list[bytes]:
    """The .json of each sample."""
    table = open_table(writing.records, "shards")
    wanted = [row for sample in writing.samples for row in sample.records]
    rows = iter(table.take(wanted).to_pylist() if wanted else ())
    return [_json(sample, [next(rows) for _ in sample.records]) for sample in writing.samples]


def _json(sample: Sample, rows: Sequence[dict[str, Any]]) -> bytes:
    """Media of a record are named by their samples' keys: the first is this one."""
    width, height, frames = sample.sides
    records = [
        {
            "id": row["id"],
            "split": row["split"],
            **{name: row[name] for name in ("kind", "part", "answers", "choices") if row[name]},
            "media": [f"{number:08d}" for number in row["media"]],
            "conversations": [
                {"from": role, "value": text} for role, text in json.loads(row["conversations"])
            ],
        }
        for row in rows
    ]
    about = {"kind": sample.kind, "sha256": sample.sha256, "width": width, "height": height, "frames": frames}
    return json.dumps({**about, "records": records}, ensure_ascii=False).encode()


def _key(samples: Sequence[Sample], texts: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for sample, text in zip(samples, texts, strict=True):
        digest.update(
            f"{sample.key}{sample.suffix} {sample.sha256} {sample.member.size} {len(text)}\n".encode()
        )
        digest.update(text)
    return digest.hexdigest()


def _offsets(samples: Sequence[Sample], texts: Sequence[bytes]) -> list[int]:
    """Where media lie: their order and sizes say it, also of a shard that was not written now."""
    offsets, end = [], 0
    for sample, text in zip(samples, texts, strict=True):
        start = TarWriter.begins(f"{sample.key}{sample.suffix}", sample.member.size, end)
        offsets.append(start)
        end = TarWriter.ends(start, sample.member.size)
        end = TarWriter.ends(TarWriter.begins(f"{sample.key}.json", len(text), end), len(text))
    return offsets


def _link(written: Path, path: Path) -> None:
    try:
        os.link(written, path)
    except OSError:  # a file system without links
        shutil.copyfile(written, path)
