"""Writes one shard: WebDataset samples of a medium and a .json. Runs in worker processes.

A shard is known by a key of all that is in it. What was written under a key before is linked, not written again. With
`frames` a clip is decoded here and its frames stand in its place (media/stored.py); how long they turned out, and why
a clip had to stay the file it is, is kept beside the written shard.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from videollava.data.archives.listing import Member, read_member
from videollava.data.archives.tar_writer import TarWriter
from videollava.data.media.stored import SUFFIX, store_frames
from videollava.data.prepare.remembered import digest_of_code
from videollava.data.prepare.tables import open_table
from videollava.data.records.marks import MediumKind
from videollava.errors import InputError
from videollava.params import Frames

__all__ = ["Place", "Sample", "ShardStore", "Writing", "Written", "take_frames", "write_shard"]

# What decides stored frames beside the clip: of others, shards are written again.
DECODERS = ("decord", "av", "pillow", "numpy", "torch")


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
    """A shard to write at `path`, from records.arrow and the archives, with what was written before in `store`.

    frames: what is stored of clips, but of those whose keys are in `whole`, by the reason why not; None: their files.
    """

    path: Path
    store: Path
    records: Path
    samples: Sequence[Sample]
    frames: Frames | None = None
    whole: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a medium's bytes lie in its shard. `stored`: they are frames; `reason`: why they are not, though asked."""

    offset: int
    size: int
    stored: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Written:
    """A shard by its key, and its media in their order."""

    key: str
    places: Sequence[Place]


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


def write_shard(writing: Writing) -> Written:
    """Write one, unless it was written before.

    Raises OSError and the like where an archive is not what it was.
    """
    texts = _texts(writing)
    key = _key(writing, texts)
    written = writing.store / f"{key}.tar"
    # What is in it has sizes of its own where frames are stored.
    listed = written.with_suffix(".json") if writing.frames else None
    places = _read_places(listed) if listed else _places(writing.samples, texts)
    if not written.is_file() or len(places) != len(writing.samples):
        places = _write(writing, texts, written, listed)
    _link(written, writing.path)
    return Written(key, places)


def take_frames(clip: Member, sha256: str, frames: Frames) -> bytes:
    """The stored frames of a clip; InputError where they can't be decoded."""
    import torch

    from videollava.data.media.read import load_pixels

    torch.set_num_threads(1)  # workers are what runs in parallel
    pixels = load_pixels("video", read_member(clip), frames.size, frames.count, where=clip.name)
    return store_frames(pixels, frames.form, sha256)


def _write(writing: Writing, texts: Sequence[bytes], written: Path, listed: Path | None) -> list[Place]:
    half = writing.store / f"{written.stem}.{os.getpid()}.tmp"
    places: list[Place] = []
    with TarWriter(half) as tar:
        for sample, text in zip(writing.samples, texts, strict=True):
            data, reason = _frames_of(sample, writing)
            name = f"{sample.key}{SUFFIX if data else sample.suffix}"
            stored, data = bool(data), data or read_member(sample.member)
            places.append(Place(tar.add(name, data), len(data), stored, reason))
            tar.add(f"{sample.key}.json", text)
    if listed:
        aside = listed.with_name(f"{listed.name}.{os.getpid()}.tmp")
        aside.write_text(json.dumps([asdict(place) for place in places]))
        aside.replace(listed)
    half.replace(written)
    return places


def _read_places(listed: Path) -> list[Place]:
    """What was noted beside a written shard; nothing where that is not there, or not whole."""
    try:
        return [Place(**place) for place in json.loads(listed.read_text())]
    except (OSError, ValueError, TypeError):
        return []


def _frames_of(sample: Sample, writing: Writing) -> tuple[bytes, str]:
    """What is stored of a clip, or why not; nothing of either for what keeps its file."""
    if writing.frames is None or sample.kind != "video":
        return b"", ""
    if reason := writing.whole.get(sample.key):
        return b"", reason
    try:
        return take_frames(sample.member, sample.sha256, writing.frames), ""
    except InputError as error:  # training will meet the clip as it is, and say the same
        return b"", str(error)


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


def _key(writing: Writing, texts: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    if writing.frames:
        made = digest_of_code(("media",), DECODERS)
        digest.update(f"{writing.frames.model_dump_json()} {made}\n".encode())
    for sample, text in zip(writing.samples, texts, strict=True):
        digest.update(
            f"{sample.key}{sample.suffix} {sample.sha256} {sample.member.size} {len(text)}\n".encode()
        )
        digest.update(text)
    return digest.hexdigest()


def _places(samples: Sequence[Sample], texts: Sequence[bytes]) -> list[Place]:
    """Where media lie: their order and sizes say it, also of a shard that was not written now."""
    places, end = [], 0
    for sample, text in zip(samples, texts, strict=True):
        start = TarWriter.begins(f"{sample.key}{sample.suffix}", sample.member.size, end)
        places.append(Place(start, sample.member.size))
        end = TarWriter.ends(start, sample.member.size)
        end = TarWriter.ends(TarWriter.begins(f"{sample.key}.json", len(text), end), len(text))
    return places


def _link(written: Path, path: Path) -> None:
    path.unlink(missing_ok=True)  # of a process that got so far, and was lost with one that died
    try:
        os.link(written, path)
    except OSError:  # a file system without links
        shutil.copyfile(written, path)
