"""Stage `prepare`: fetched sources become validated records in tar shards and Arrow tables (see shards.py).

In passes that hold names and numbers but no content: which media do records ask for; is each of them
what it claims to be (decoded in worker processes), and into which shard does it go; which samples are held out of
training; then the records are tokenised. What can't be used goes to quarantine.jsonl with its reason, and too much
of it fails the stage.
The same sources and parameters give the same bytes, whatever the number of workers.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from videollava.data.acquire.fetch import RAW
from videollava.data.archives.listing import Member, read_member
from videollava.data.archives.tar_writer import TarWriter
from videollava.data.pool import Pool
from videollava.data.prepare.held_out import HeldOut, draw_held_out
from videollava.data.prepare.inspection import Inspected, Wanted, inspect_all
from videollava.data.prepare.opened import Opened, open_source
from videollava.data.prepare.rows import Row, Task, encode_rows
from videollava.data.prepare.shards import (
    SplitWriter,
    base_split,
    is_trained_on,
    shard_name,
    valid_part,
    write_media,
)
from videollava.data.records.quarantine import Quarantine
from videollava.data.records.readers import Rejected
from videollava.data.records.record import MediumKind
from videollava.data.text.bounds import Bound, bound_of
from videollava.data.text.vocabulary import copy_tokenizer, train_tokenizer, training_texts
from videollava.errors import InputError
from videollava.machine import DEFAULTS, Machine
from videollava.params import Params

__all__ = ["PREPARED", "run"]

PREPARED = Path("data/prepared")
SCRATCH = Path("checkpoints/prepare")
QUARANTINE = Path("runs/quarantine.jsonl")
MEMBERS_A_TASK = 64
BYTES_A_TASK = 64 << 20
RECORDS_A_TASK = 512
COUNTED = ("text_tokens", "target_tokens", "images", "videos", "tokens")

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Kept:
    """A medium that goes into the shards; its media_id is its place in the list of them."""

    member: Member
    seen: Inspected


def run(params: Params, workspace: Path, machine: Machine = DEFAULTS) -> None:
    """Prepare the fetched sources of params.yaml into data/prepared.

    Raises:
        InputError: a source isn't fetched or can't be read, or more than prepare.max_quarantined of its
            records can't be used (the list is then in runs/quarantine.jsonl).
    """
    folder, scratch = workspace / PREPARED, workspace / SCRATCH
    building = folder.with_name(f"{folder.name}.tmp")
    for place in (building, scratch):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
    try:
        _build(params, workspace, building, machine.work("prepare").loaders)
        shutil.rmtree(folder, ignore_errors=True)
        building.replace(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(scratch, ignore_errors=True)


def _build(params: Params, workspace: Path, building: Path, workers: int) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Progress(*columns) as progress,
        Quarantine(building / "quarantine.jsonl") as quarantine,
        Pool(workers) as pool,
    ):
        sources = [
            open_source(source, workspace / RAW, workspace / SCRATCH, quarantine)
            for source in params.fetch.sources
        ]
        count = sum(map(Opened.find_wanted, sources))
        bar = _bar(progress, "media", sum(len(opened.wanted) for opened in sources))
        media = _inspect(sources, pool, bar)
        _check_space(media, building)
        bar = _bar(progress, "copied", len(media))
        _write_shards(media, building, params.prepare.shard_mib << 20, pool, bar)
        _make_tokenizer(params, sources, building / "tokenizer")
        resolved = (opened.resolve(entry) for opened in sources for entry in opened.entries())
        held_out = draw_held_out(resolved, [kept.seen.sha256 for kept in media], params.prepare.held_out)
        tasks = _tasks(params, sources, building / "tokenizer", held_out, quarantine)
        bar = _bar(progress, "records", count)
        splits = _write_splits(tasks, building, len(media), pool, quarantine, bar, _bounds(params))
        quarantine.check(params.prepare.max_quarantined, workspace / QUARANTINE)
    _say(splits, _bounds(params), sources)
    _say_held_out(splits["splits"], params.prepare.held_out)
    summary = {**splits, "media": _count_media(media, sources), "quarantined": quarantine.summary()}
    (building / "summary.json").write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n")


def _bar(progress: Any, name: str, total: int) -> Advance:
    return partial(progress.advance, progress.add_task(name, total=total))


def _inspect(sources: list[Opened], pool: Pool, advance: Advance) -> list[Kept]:
    """Open every wanted medium; the distinct ones, in the order of the archives."""
    kept: list[Kept] = []
    known: dict[tuple[MediumKind, str], int] = {}
    for opened in sources:
        for results in pool.stream(inspect_all, _groups(opened), crashed=partial(_inspect_apart, pool)):
            advance(len(results))
            for seen in results:
                if seen.reason:
                    opened.broken[seen.name] = seen
                    continue
                number = known.setdefault((seen.kind, seen.sha256), len(kept))
                opened.numbers[seen.name] = number
                if number == len(kept):
                    kept.append(Kept(opened.catalogue[seen.name], seen))
    return kept


def _inspect_apart(pool: Pool, group: list[Wanted]) -> list[Inspected]:
    """Find the medium that kills the process which opens it."""
    if len(group) == 1:
        member, kind = group[0]
        detail = "the decoder crashed, hung or ran out of memory"
        return [Inspected(member.name, kind, reason=f"broken {kind}", detail=detail)]
    singles = ([wanted] for wanted in group)
    results = pool.stream(inspect_all, singles, crashed=partial(_inspect_apart, pool), window=1)
    return [seen for found in results for seen in found]


def _groups(opened: Opened) -> Iterator[list[Wanted]]:
    group: list[Wanted] = []
    size = 0
    for name, member in opened.catalogue.items():
        if name in opened.wanted:
            group.append((member, opened.wanted[name]))
            size += member.size
            if len(group) >= MEMBERS_A_TASK or size >= BYTES_A_TASK:
                yield group
                group, size = [], 0
    if group:
        yield group


def _check_space(media: list[Kept], folder: Path) -> None:
    needed = sum(kept.member.size + 1024 for kept in media)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{folder}: the shards take {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free; "
            "free some space"
        )


def _write_shards(media: list[Kept], folder: Path, limit: int, pool: Pool, advance: Advance) -> None:
    tasks = [(folder / shard_name(shard), members) for shard, members in enumerate(_cut(media, limit))]
    rows: list[Mapping[str, Any]] = []
    for shard, offsets in enumerate(pool.stream(_write_shard, tasks)):
        advance(len(offsets))
        for offset in offsets:
            kept = media[len(rows)]
            place = {"media_id": len(rows), "shard": shard, "offset": offset, "size": kept.member.size}
            sides = {"width": kept.seen.width, "height": kept.seen.height, "frames": kept.seen.frames}
            rows.append({**place, "kind": kept.seen.kind, "sha256": kept.seen.sha256, **sides})
    write_media(folder, rows)


def _cut(media: list[Kept], limit: int) -> Iterator[list[tuple[str, Member]]]:
    shard: list[tuple[str, Member]] = []
    size = 0
    for number, kept in enumerate(media):
        if shard and size + kept.member.size > limit:
            yield shard
            shard, size = [], 0
        suffix = Path(kept.member.name).suffix.lower()
        shard.append((f"{number:08d}{suffix}", kept.member))
        size += kept.member.size + 1024
    if shard:
        yield shard


def _write_shard(task: tuple[Path, list[tuple[str, Member]]]) -> list[int]:
    """Copy members into one shard; where each lies in it."""
    path, members = task
    with TarWriter(path) as tar:
        return [tar.add(name, read_member(member)) for name, member in members]


def _make_tokenizer(params: Params, sources: list[Opened], folder: Path) -> None:
    if params.prepare.tokenizer != "train":
        copy_tokenizer(params.prepare.tokenizer, folder)
        return
    entries = (entry for opened in sources for entry in opened.entries())
    train_tokenizer(training_texts(entries), params.prepare.vocab_size, folder)


def _tasks(
    params: Params, sources: list[Opened], tokenizer: Path, held_out: HeldOut, quarantine: Quarantine
) -> Iterator[Task]:
    trained, model = params.prepare.tokenizer == "train", params.model
    task = partial(Task, tokenizer, trained, model.image_tokens, model.video_tokens, _bounds(params))
    rows: list[Row | Rejected] = []
    for opened in sources:
        for entry in opened.entries():
            quarantine.count(opened.source.name)
            row = opened.resolve(entry)
            if isinstance(row, Row) and held_out.holds(row):
                row = replace(row, held_out=True)
            rows.append(row)
            if len(rows) == RECORDS_A_TASK:
                yield task(rows)
                rows = []
    yield task(rows)


def _bounds(params: Params) -> dict[str, Bound]:
    """By split, what training will cut its samples to."""
    bounds = {split: bound_of(params, split) for split in ("pretrain", "finetune")}
    return {split: bound for split, bound in bounds.items() if bound is not None}


def _write_splits(
    tasks: Iterator[Task],
    folder: Path,
    media: int,
    pool: Pool,
    quarantine: Quarantine,
    advance: Advance,
    bounds: Mapping[str, Bound],
) -> dict[str, Any]:
    """Write the splits; their totals, and how many media serve both training and test."""
    writers: dict[str, SplitWriter] = {}
    totals: dict[str, Counter[str]] = {}
    trained, tested = bytearray(media), bytearray(media)
    seen: set[int] = set()
    for size, results in pool.stream(encode_rows, tasks):
        advance(size)
        for result in results:
            if isinstance(result, Rejected):
                quarantine.reject(result)
                continue
            split, row = result
            if split not in writers:
                bound = bounds.get(base_split(split))
                writers[split], totals[split] = SplitWriter(folder, split, bound), Counter()
            writers[split].add(row)
            totals[split].update(_counts(row))
            same = hash((split, row["conversations"], *row["media"]))
            totals[split].update({"repeated": 1} if same in seen else {})
            seen.add(same)
            for number in row["media"]:
                trained[number] |= is_trained_on(split)
                tested[number] |= split.startswith("test-")
    for writer in writers.values():
        writer.close()
    return {"splits": totals, "test_media_in_training": sum(map(int.__and__, trained, tested))}


def _counts(row: Mapping[str, Any]) -> dict[str, int]:
    cut = {"cut_records": 1, "cut_tokens": row["cut_tokens"]} if row["cut_tokens"] else {}
    words = {"marks_as_words": row["words"]} if row["words"] else {}
    return {"records": 1, **{name: row[name] for name in COUNTED}, **cut, **words}


def _say(found: Mapping[str, Any], bounds: Mapping[str, Bound], sources: list[Opened]) -> None:
    """What was done to records that are kept, and what about them a person would want to know."""
    for split, counts in found["splits"].items():
        if counts.get("repeated"):
            print(
                f"{split}: {counts['repeated']:,} of {counts['records']:,} samples say what another says about the "
                "same media; all are kept"
            )
        if counts.get("cut_records"):
            bound = bounds[base_split(split)]
            print(
                f"{split}: {counts['cut_records']:,} of {counts['records']:,} samples are longer than training takes "
                f"(max_text_tokens {bound.max_text_tokens}, max_tokens {bound.max_tokens}, "
                f"positions {bound.positions}) and lost {counts['cut_tokens']:,} tokens of text at their ends"
            )
        if counts.get("marks_as_words"):
            print(
                f"{split}: {counts['marks_as_words']:,} marks such as <image> in conversations without media are words"
            )
    if found["test_media_in_training"]:
        print(
            f"{found['test_media_in_training']:,} media of test splits are also trained on: scores flatter the model"
        )
    for opened in sources:
        if opened.renamed:
            path, name = next(iter(opened.renamed.items()))
            print(
                f"{opened.source.name}: {len(opened.renamed):,} media go by other names in the archives, "
                f"such as {path!r}: {name!r}"
            )


def _say_held_out(splits: Mapping[str, Counter[str]], most: int) -> None:
    held = {split: splits[valid_part(split)]["records"] for split in splits if valid_part(split) in splits}
    told = [f"{n:,} of {n + splits[split]['records']:,} samples of {split}" for split, n in held.items()]
    if told:
        print(f"held out of training, to measure its loss on: {', '.join(told)} (prepare.held_out: {most})")
    elif most:
        print("held out of training: nothing, the splits are too small (of one, 2 % at most)")


def _count_media(media: list[Kept], sources: list[Opened]) -> dict[str, Any]:
    named = sum(len(opened.numbers) for opened in sources)
    kinds = Counter(kept.seen.kind for kept in media)
    size = sum(kept.member.size for kept in media)
    renamed = sum(len(opened.renamed) for opened in sources)
    counts = {"bytes": size, "duplicates": named - len(media), "kinds": kinds}
    return {**counts, "renamed": renamed} if renamed else counts
