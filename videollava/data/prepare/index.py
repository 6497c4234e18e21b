"""Stage `index`: the shards of all sources become one table of media and splits with token lengths in data/index.

In passes over the records' tables, never over media: which samples are held out of training; the tokens of each, in
worker processes; the splits. Media that several sources have are one. What can't be used goes to quarantine.jsonl
with its reason, and too much of it fails the stage.
The same shards and parameters give the same bytes, whatever the number of workers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from videollava.data.pool import Pool
from videollava.data.prepare.card import write_card
from videollava.data.prepare.counted import count_records
from videollava.data.prepare.forgotten import FORGOTTEN, read_forgotten
from videollava.data.prepare.joined import Joined, join_sources
from videollava.data.prepare.listed import check_listed
from videollava.data.prepare.mixed import Sizes, write_splits
from videollava.data.prepare.mixture import table_of
from videollava.data.prepare.rows import Encoding, read_turns
from videollava.data.prepare.splits import Cut, cut_splits
from videollava.data.prepare.sums import Sums
from videollava.data.prepare.tables import MEDIA, TEST, TableWriter, base_split, media_schema, valid_part
from videollava.data.records.quarantine import Quarantine
from videollava.data.records.record import Record
from videollava.data.text.bounds import Bound, bound_of
from videollava.data.text.vocabulary import copy_tokenizer, train_tokenizer, training_texts
from videollava.machine import DEFAULTS, Machine
from videollava.origin import Pins
from videollava.params import Params

__all__ = ["INDEX", "run", "write_shards"]

INDEX = Path("data/index")
SHARDS = Path("data/shards")
QUARANTINE = Path("runs/quarantine.jsonl")
COUNTS = Path("checkpoints/index")  # lengths of records that were counted before

SUMS = Path("checkpoints/shard_sums.json")


def run(params: Params, workspace: Path, machine: Machine = DEFAULTS) -> None:
    """Join the shards of all sources of params.yaml into data/index.

    Raises:
        InputError: a source has no shards, dvc.yaml lists other sources than params.yaml, or more than
            shards.max_quarantined of a source's records can't be used (the list is then in runs/quarantine.jsonl).
    """
    check_listed(workspace, params.sources)
    folder = workspace / INDEX
    building = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        _build(params, workspace, building, machine.work("index").loaders)
        shutil.rmtree(folder, ignore_errors=True)
        building.replace(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _build(params: Params, workspace: Path, building: Path, workers: int) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Progress(*columns) as progress,
        Quarantine(building / "quarantine.jsonl") as quarantine,
        Pool(workers) as pool,
    ):
        joined = join_sources(workspace / SHARDS, list(params.sources), read_forgotten(workspace))
        joined.check_frames(params.shards.frames)
        joined.take_over(quarantine)
        size = _write_media(joined, building)
        write_shards(building, joined.shards, workspace / SUMS, joined.frames)
        cut = cut_splits(joined, params.index)
        tokenizer = building / "tokenizer"
        _make_tokenizer(params, joined, cut, tokenizer, Pins(workspace, "index"))
        bounds = _bounds(params)
        advance = partial(progress.advance, progress.add_task("records", total=int(cut.is_taken.sum())))
        encoding = Encoding(tokenizer, params.index.tokenizer == "train", bounds)
        counted = count_records(joined, cut, encoding, workspace / COUNTS, pool, advance)
        sizes = Sizes(params.model.image_tokens, params.model.video_tokens, bounds)
        mixed = write_splits(joined, cut, counted, sizes, building, quarantine)
        quarantine.check(params.shards.max_quarantined, workspace / QUARANTINE)
    _say(mixed.splits, bounds)
    _say_held_out(mixed.splits, params.index.held_out)
    _say_forgotten(joined.forgotten)
    _say_cut(cut)
    _say_unlisted(mixed.splits, (*params.evaluate.benchmarks, *params.evaluate.zero_shot))
    print(table_of(mixed.mixture))
    left = {"near_a_test": cut.near, "thinned": cut.thinned}
    media = {**joined.count_media(), "bytes": size}
    found = {"splits": mixed.splits, "mixture": mixed.mixture, "left_out": left, "media": media}
    summary = {**found, "quarantined": quarantine.summary()}
    summary |= {"forgotten": joined.forgotten} if joined.forgotten else {}
    (building / "summary.json").write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n")
    write_card(building)


def write_shards(
    building: Path,
    shards: Iterable[tuple[str, Path]],
    memory: Path | None = None,
    frames: Mapping[str, tuple[int, int]] | None = None,
) -> None:
    """Write shards.json of sources and their files: training finds a shard by its sum, wherever it lies.

    memory: a file of the sums that were found before; frames: how many are stored of the clips of a source, and their
    side.
    """
    sums = Sums(memory)
    stored = {source: {"frames": list(found)} for source, found in (frames or {}).items()}
    listed = [
        {
            "source": source,
            "file": file.name,
            "size": file.stat().st_size,
            **sums.of(file),
            **stored.get(source, {}),
        }
        for source, file in shards
    ]
    sums.keep()
    (building / "shards.json").write_text(json.dumps(listed, indent=1) + "\n")


def _write_media(joined: Joined, building: Path) -> int:
    """Write media.arrow; how many bytes the media have."""
    size = 0
    with TableWriter(building / MEDIA, media_schema()) as writer:
        for batch in joined.media():
            writer.write(batch)
            size += int(batch.column("size").to_numpy().sum())
    return size


def _make_tokenizer(params: Params, joined: Joined, cut: Cut, folder: Path, pins: Pins) -> None:
    if params.index.tokenizer == "train":
        train_tokenizer(training_texts(_learned(joined, cut)), params.index.vocab_size, folder)
    else:
        copy_tokenizer(pins.locate(params.index.tokenizer), folder)
    pins.write()


def _learned(joined: Joined, cut: Cut) -> Iterator[tuple[str, Record]]:
    """The conversations of all records that go to a split and to no test, and what split they are of."""
    wanted = cut.is_taken & ~cut.is_asked
    for part in joined.parts:
        for begin, batch, kept in part.batches(["split", "conversations", "media"]):
            rows = np.flatnonzero(kept)
            rows = rows[wanted[begin : begin + len(rows)]]
            texts = (batch.column(name).take(rows).to_pylist() for name in ("split", "conversations"))
            for split, said in zip(*texts, strict=True):
                yield split, Record("", part.name, read_turns(said))


def _bounds(params: Params) -> dict[str, Bound]:
    """By split, what training will cut its samples to."""
    bounds = {split: bound_of(params, split) for split in ("pretrain", "finetune")}
    return {split: bound for split, bound in bounds.items() if bound is not None}


def _say(splits: Mapping[str, Mapping[str, int]], bounds: Mapping[str, Bound]) -> None:
    """What was done to records that are kept, and what about them a person would want to know."""
    for split, counts in splits.items():
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


def _say_cut(cut: Cut) -> None:
    """What is not trained on though it is there."""
    for source, count in cut.near.items():
        print(
            f"{source}: {count:,} samples are left out of training: a test asks about their media, or media that look "
            "like them (index.near)"
        )
    for source, count in cut.thinned.items():
        print(f"{source}: {count:,} samples are left out by its weight and its cap (index.sources.{source})")
    for source, count in cut.unheeded.items():
        if count:
            print(
                f"{source}: {count:,} samples say that they are a test's and are none: its test is drawn as a share; "
                f"`index.sources.{source}.test: field` takes them"
            )


def _say_unlisted(splits: Iterable[str], listed: Iterable[str]) -> None:
    for name in sorted(
        {split.removeprefix(TEST) for split in splits if split.startswith(TEST)} - set(listed)
    ):
        print(
            f"{name}: it has a test that nobody asks: list {name} in evaluate.benchmarks (pairs in evaluate.zero_shot)"
        )


def _say_held_out(splits: Mapping[str, Mapping[str, int]], most: int) -> None:
    held = {split: splits[valid_part(split)]["records"] for split in splits if valid_part(split) in splits}
    told = [f"{n:,} of {n + splits[split]['records']:,} samples of {split}" for split, n in held.items()]
    if told:
        print(f"held out of training, to measure its loss on: {', '.join(told)} (index.held_out: {most})")
    elif most:
        print("held out of training: nothing, the splits are too small (of one, 2 % at most)")


def _say_forgotten(forgotten: Mapping[str, Mapping[str, int]]) -> None:
    for source, counts in forgotten.items():
        print(
            f"{source}: {counts['media']:,} media and their {counts['records']:,} records are left out ({FORGOTTEN})"
        )
