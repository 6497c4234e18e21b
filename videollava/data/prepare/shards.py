"""Stage `shards@NAME`: a fetched source becomes tar shards and two tables under data/shards/NAME.

NAME-00000.tar ..   WebDataset samples: a medium, and a .json of what it is and of the records that begin with it
media.arrow         one row a medium; records.arrow: one row a record (tables.py)
quarantine.jsonl    what can't be used, with its reason; too much of it fails the stage

Where shards.frames asks for it, a clip is stored as the frames that training takes of it: what that costs and saves is
measured on a few clips and told before anything is written.

In passes that hold names and numbers but no content: which media do records ask for; is each of them what it claims
to be (decoded in worker processes, once ever: verdicts.py); the records; the shards. A shard that was written before
is taken as it is. The same source gives the same bytes, whatever the number of workers; what a later look at the
source added goes into shards of its own.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from videollava.data.acquire.declared import choose
from videollava.data.acquire.located import RAW
from videollava.data.archives.listing import Member
from videollava.data.media.stored import FORMS, nominal_size
from videollava.data.modalities import MODALITIES
from videollava.data.pool import Pool
from videollava.data.prepare.opened import Opened, open_source
from videollava.data.prepare.probing import Part, probe
from videollava.data.prepare.row import record_row
from videollava.data.prepare.tables import RECORDS, TableWriter, record_schema, write_media
from videollava.data.prepare.verdicts import Verdicts
from videollava.data.prepare.weighing import Weighed, tell_weight, weigh
from videollava.data.prepare.writing import (
    Place,
    Sample,
    ShardStore,
    Writing,
    Written,
    take_frames,
    write_shard,
)
from videollava.data.records.endings import kind_of_file
from videollava.data.records.marks import MediumKind
from videollava.data.records.quarantine import Quarantine
from videollava.data.records.readers import Rejected
from videollava.errors import InputError
from videollava.machine import DEFAULTS, Machine
from videollava.params import Frames, Params, Source

__all__ = ["SHARDS", "probe_part", "run", "weigh_frames"]

SHARDS = Path("data/shards")
SCRATCH = Path("checkpoints/shards")
VERDICTS = Path("checkpoints/verdicts")
QUARANTINE = Path("runs/quarantine.jsonl")
ASKED = "benchmark"  # what a source is used for that nothing is trained on
NO_FRAMES = Frames()

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Kept:
    """A medium that goes into the shards; its number is its place in the list of them."""

    member: Member
    kind: MediumKind
    sha256: str
    sides: tuple[int, int, int]  # width, height, frames
    look: str
    seen: int


def run(params: Params, workspace: Path, machine: Machine = DEFAULTS, source: str = "") -> None:
    """Cut one fetched source (every one without a name) into shards.

    Raises:
        InputError: a source isn't fetched or can't be read, or more than shards.max_quarantined of its records
            can't be used (the list is then in runs/quarantine.jsonl).
    """
    for one in choose(params, source):
        _cut_source(one, params, workspace, max(1, machine.work("shards").loaders))


def probe_part(params: Params, workspace: Path, machine: Machine, source: str, part: Part) -> int:
    """Open part i of n of a source's media, on any host that has the folder; how many.

    What was found lies beside that of the others: `run` then opens nothing again. Raises InputError as `run`.
    """
    (one,) = choose(params, source)
    if one.use == ASKED:
        return 0
    number, parts = part
    name = f"part-{number}-of-{parts}"
    with (
        Verdicts(workspace / VERDICTS, f"{source}-{name}") as verdicts,
        Pool(max(1, machine.work("shards").loaders)) as pool,
        _opened_aside(one, workspace, name) as opened,
    ):
        return sum(1 for _ in probe(opened, verdicts, pool, part))


def weigh_frames(params: Params, workspace: Path, machine: Machine, source: str = "") -> None:
    """Print what a source's clips take, as they are and as frames of each form, and how fast both are read.

    Measured on a few of its clips; nothing is written. Raises InputError as `run`.
    """
    stored = params.shards.frames
    count, size = (
        (stored.count, stored.size) if stored.count else (params.model.frames, params.model.image_size)
    )
    for one in choose(params, source):
        if one.use == ASKED:
            print(f"{one.name}: a benchmark's media are not cut into shards")
            continue
        with (
            Pool(max(1, machine.work("shards").loaders)) as pool,
            _opened_aside(one, workspace, "plan") as opened,
        ):
            clips = [opened.catalogue[name] for name, kind in opened.wanted.items() if kind == "video"]
            for form in FORMS:
                frames = Frames(count=count, size=size, form=form)
                print(tell_weight(one.name, weigh(clips, frames, pool), frames))


@contextmanager
def _opened_aside(source: Source, workspace: Path, name: str) -> Iterator[Opened]:
    """A fetched source and what its records want, by who writes no shards."""
    unpacked = workspace / SCRATCH / source.name / f"{name}.unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir(parents=True)
    try:
        with Quarantine(unpacked / "quarantine.jsonl") as quarantine:
            opened = open_source(source, workspace / RAW, unpacked, quarantine)
            opened.find_wanted()
            yield opened
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _cut_source(source: Source, params: Params, workspace: Path, workers: int) -> None:
    folder, scratch = workspace / SHARDS / source.name, workspace / SCRATCH / source.name
    building, unpacked = folder.with_name(f"{source.name}.tmp"), scratch / "unpacked"
    for place in (building, unpacked):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
    try:
        store = ShardStore(scratch / "written")
        build = _build_nothing if source.use == ASKED else _build
        build(source, params, workspace, building, unpacked, store, workers)
        shutil.rmtree(folder, ignore_errors=True)
        building.replace(folder)
        store.keep_used()
    finally:
        shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(unpacked, ignore_errors=True)


def _build(
    source: Source,
    params: Params,
    workspace: Path,
    building: Path,
    unpacked: Path,
    store: ShardStore,
    workers: int,
) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Progress(*columns) as progress,
        Quarantine(building / "quarantine.jsonl") as quarantine,
        Verdicts(workspace / VERDICTS) as verdicts,
        Pool(workers) as pool,
    ):
        opened = open_source(source, workspace / RAW, unpacked, quarantine)
        count = opened.find_wanted()
        media = _keep(opened, verdicts, pool, _bar(progress, "media", len(opened.wanted)))
        firsts = _write_records(opened, building, quarantine, _bar(progress, "records", count))
        quarantine.check(params.shards.max_quarantined, workspace / QUARANTINE)
        frames = params.shards.frames if any(kept.kind == "video" for kept in media) else NO_FRAMES
        weighed = _weigh(source, media, frames, pool)
        _check_space(media, weighed, building)
        shards = list(_cut(media, params.shards.shard_mib << 20, frames))
        bar = _bar(progress, "copied", len(media))
        places = _write(source, media, shards, firsts, building, store, pool, bar, frames)
    _say(opened)
    _say_whole(source, places)
    notes = {"notes": opened.notes} if opened.notes else {}
    summary = {
        "records": count,
        **notes,
        "media": _count_media(places, media, opened),
        "quarantined": quarantine.summary(),
        **({"frames": frames.model_dump()} if frames.count else {}),
    }
    (building / "summary.json").write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n")


def _build_nothing(source: Source, params: Params, workspace: Path, building: Path, *_: Any) -> None:
    """A benchmark's files are asked, from data/raw as they are: an empty set of shards keeps the graph one."""
    with Quarantine(building / "quarantine.jsonl") as quarantine:
        TableWriter(building / RECORDS, record_schema()).close()
        write_media(building, ())
        media = {"bytes": 0, "duplicates": 0, "kinds": {}}
        summary = {"records": 0, "media": media, "quarantined": quarantine.summary()}
    (building / "summary.json").write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n")


def _bar(progress: Any, name: str, total: int) -> Advance:
    return partial(progress.advance, progress.add_task(name, total=total))


def _keep(opened: Opened, verdicts: Verdicts, pool: Pool, advance: Advance) -> list[Kept]:
    """Open every wanted medium; the distinct ones, in the order of the archives."""
    kept: list[Kept] = []
    known: dict[tuple[MediumKind, str], int] = {}
    for seen in probe(opened, verdicts, pool):
        advance(1)
        if seen.reason:
            opened.broken[seen.name] = seen
            continue
        number = known.setdefault((seen.kind, seen.sha256), len(kept))
        opened.numbers[seen.name] = number
        if number == len(kept):
            member = opened.catalogue[seen.name]
            sides = (seen.width, seen.height, seen.frames)
            origin = opened.origins[member.archive]
            kept.append(Kept(member, seen.kind, seen.sha256, sides, seen.look, origin.seen))
    return kept


def _write_records(
    opened: Opened, building: Path, quarantine: Quarantine, advance: Advance
) -> dict[int, list[int]]:
    """Write records.arrow; by medium, the rows of the records that begin with it."""
    firsts: dict[int, list[int]] = {}
    rows = 0
    with TableWriter(building / RECORDS, record_schema()) as writer:
        for entry in opened.entries():
            advance(1)
            quarantine.count(opened.source.name)
            found = opened.resolve(entry)
            if isinstance(found, Rejected):
                quarantine.reject(found)
                continue
            writer.add(record_row(found))
            if found.media:
                firsts.setdefault(found.media[0], []).append(rows)
            rows += 1
    return firsts


def _weigh(source: Source, media: Sequence[Kept], frames: Frames, pool: Pool) -> Weighed | None:
    """Tell what storing frames takes, before they are."""
    if not frames.count:
        return None
    weighed = weigh([kept.member for kept in media if kept.kind == "video"], frames, pool)
    print(tell_weight(source.name, weighed, frames), flush=True)
    return weighed


def _cut(media: Sequence[Kept], limit: int, frames: Frames) -> Iterator[list[int]]:
    """Numbers of the media of each shard: up to about `limit` bytes, of one look at the source."""
    shard: list[int] = []
    size = 0
    for number, kept in enumerate(media):
        later = bool(shard) and kept.seen != media[shard[-1]].seen
        taken = kept.member.size
        if frames.count and kept.kind == "video":
            taken = nominal_size(frames.count, frames.size, frames.form)
        if shard and (later or size + taken > limit):
            yield shard
            shard, size = [], 0
        shard.append(number)
        size += taken + 1024
    if shard:
        yield shard


def _check_space(media: Sequence[Kept], weighed: Weighed | None, folder: Path) -> None:
    needed = sum(kept.member.size + 2048 for kept in media)
    if weighed:
        needed += weighed.most - weighed.files
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{folder}: the shards take {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free; "
            "free some space"
        )


def _write(
    source: Source,
    media: Sequence[Kept],
    shards: Sequence[Sequence[int]],
    firsts: Mapping[int, list[int]],
    building: Path,
    store: ShardStore,
    pool: Pool,
    advance: Advance,
    frames: Frames,
) -> list[Place]:
    """Write the shards and media.arrow; where each medium lies."""
    rows: list[Mapping[str, Any]] = []
    places: list[Place] = []

    def writings() -> Iterator[Writing]:
        for number, shard in enumerate(shards):
            samples = [_sample(medium, media[medium], firsts.get(medium, [])) for medium in shard]
            path = building / f"{source.name}-{number:05d}.tar"
            asked = frames if frames.count else None
            yield Writing(path, store.folder, building / RECORDS, samples, asked)

    apart = partial(_write_apart, pool, frames) if frames.count else None
    written = pool.stream(write_shard, writings(), crashed=apart, window=2 * pool.workers)
    for number, shard in enumerate(written):
        store.use(shard.key)
        advance(len(shard.places))
        for place in shard.places:
            kept = media[len(rows)]
            width, height, length = kept.sides
            lies = {"media_id": len(rows), "shard": number, "offset": place.offset, "size": place.size}
            sides = {"width": width, "height": height, "frames": length}
            seen = {"kind": kept.kind, "sha256": kept.sha256, "look": kept.look}
            rows.append({**lies, **seen, **sides})
        places += shard.places
    write_media(building, rows)
    return places


def _write_apart(pool: Pool, frames: Frames, writing: Writing) -> Written:
    """Find the clips that kill the process which decodes them; they stay the files they are."""
    clips = [sample for sample in writing.samples if sample.kind == "video"]
    tried = pool.stream(partial(_try_frames, frames), clips, crashed=lambda sample: False, window=1)
    reason = "the decoder crashed or ran out of memory"
    whole = {
        sample.key: f"{sample.member.name}: {reason}"
        for sample, fine in zip(clips, tried, strict=True)
        if not fine
    }
    return next(pool.stream(write_shard, [replace(writing, whole=whole)]))


def _try_frames(frames: Frames, sample: Sample) -> bool:
    with suppress(InputError):
        take_frames(sample.member, sample.sha256, frames)
    return True


def _sample(number: int, kept: Kept, records: list[int]) -> Sample:
    ending = _ending(kept.member.name, kept.kind)
    return Sample(f"{number:08d}", ending, kept.member, kept.kind, kept.sha256, kept.sides, tuple(records))


def _ending(name: str, kind: MediumKind) -> str:
    """What a medium's name ends in where whoever reads the shard has no table: by it a pair is told, and its medium."""
    ending, known = Path(name).suffix.lower(), MODALITIES[kind].endings
    said = kind_of_file(f"x{ending}")
    if said is None:  # it has none, or one of a text: it would be left out, or taken for the pair's .json
        return known[0]
    return f".{kind}{ending}" if said != kind and f".{kind}{ending}" in known else ending


def _say(opened: Opened) -> None:
    for told in opened.unread():  # pairs and annotations in them are missed by no record
        print(f"{opened.source.name}: {told}")
    for note, count in opened.notes.items():
        print(f"{opened.source.name}: {note}{'' if count == 1 else f' ({count:,})'}")
    if opened.renamed:
        path, name = next(iter(opened.renamed.items()))
        print(
            f"{opened.source.name}: {len(opened.renamed):,} media go by other names in the archives, "
            f"such as {path!r}: {name!r}"
        )


def _say_whole(source: Source, places: Sequence[Place]) -> None:
    reasons = [place.reason for place in places if place.reason]
    if reasons:
        print(
            f"{source.name}: {len(reasons):,} clips are stored as they are, their frames can't be decoded: {reasons[0]}"
        )


def _count_media(places: Sequence[Place], media: Sequence[Kept], opened: Opened) -> dict[str, Any]:
    kinds = Counter(kept.kind for kept in media)
    size = sum(place.size for place in places)
    counts = {"bytes": size, "duplicates": len(opened.numbers) - len(media), "kinds": kinds}
    return {**counts, "renamed": len(opened.renamed)} if opened.renamed else counts
