"""Samples held out of training: drawn by medium, bounded, and the same whatever the order and the company."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from made import archive_source, lines, llava, params, png, tar
from made import prepare as run
from outlined import One, outlined, row

from videollava.data.acquire.fetch import run as fetch
from videollava.data.load.shards import Shards
from videollava.data.prepare.held_out import HeldOut, draw_held_out
from videollava.data.prepare.tables import is_trained_on, load_split, split_names
from videollava.machine import Machine
from videollava.params import Portion


def hashes(count: int) -> list[str]:
    return [hashlib.sha256(f"medium {number}".encode()).hexdigest() for number in range(count)]


def first(count: int, of: int) -> set[int]:
    """The media whose hashes come first."""
    return set(sorted(range(of), key=hashes(of).__getitem__)[:count])


@dataclass(frozen=True)
class Drawn:
    """Media and texts that were drawn."""

    held: HeldOut

    @property
    def media(self) -> set[int]:
        return set(np.flatnonzero(self.held.media).tolist())

    @property
    def texts(self) -> list[int]:
        return self.held.texts.tolist()

    def holds(self, one: One) -> bool:
        return bool(self.held.holds(outlined([one]))[0])


def draw(
    rows: list[One],
    hashes: list[str],
    most: int,
    portions: dict[str, Portion] | None = None,
    roots: list[int] | None = None,
) -> Drawn:
    places = np.array([int(text[:16], 16) for text in hashes], np.uint64)
    return Drawn(
        draw_held_out(outlined(rows), places, most, portions, None if roots is None else np.array(roots))
    )


def same(one: Drawn, other: Drawn) -> bool:
    return (one.media, one.texts) == (other.media, other.texts)


def held(rows: list[One], drawn: Drawn) -> list[One]:
    return [one for one, is_held in zip(rows, drawn.held.holds(outlined(rows)), strict=True) if is_held]


def test_the_media_with_the_first_hashes_are_held_out_of_every_split() -> None:
    rows = [row(split, number) for number in range(500) for split in ("align", "pretrain", "finetune")]
    drawn = draw(rows, hashes(500), most=7)
    assert drawn.media == first(7, of=500)
    assert Counter(one.split for one in held(rows, drawn)) == {"align": 7, "pretrain": 7, "finetune": 7}
    assert not drawn.holds(row("test-x", *sorted(drawn.media)[:1]))


def test_not_more_than_one_in_fifty_of_a_split_is() -> None:
    assert draw([row("pretrain", n) for n in range(500)], hashes(500), 256).media == first(10, of=500)
    assert not draw([row("pretrain", n) for n in range(49)], hashes(49), 256).media
    assert same(draw([row("pretrain", n) for n in range(500)], hashes(500), 0), draw([], hashes(500), 9))
    # Of a small `align` not more either, though that is nothing it is asked for.
    rows = [row("pretrain", n) for n in range(500)] + [row("align", n) for n in range(100)]
    drawn = draw(rows, hashes(500), 256)
    assert len(drawn.media) == 10
    assert len([n for n in drawn.media if n < 100]) <= 2


def test_a_medium_asked_about_too_often_is_passed_over() -> None:
    popular = min(first(1, of=300))
    rows = [row("finetune", n) for n in range(300)] + [row("finetune", popular)] * 300
    drawn = draw(rows, hashes(300), 256)  # 600 records: 12 may be held out
    assert drawn.media == first(13, of=300) - {popular}


def test_media_shown_side_by_side_go_together() -> None:
    pair = [*sorted(first(1, of=300)), max(range(300), key=hashes(300).__getitem__)]
    rows = [row("finetune", n) for n in range(300)] + [row("finetune", *pair), row("pretrain", pair[1])]
    rows += [row("pretrain", n) for n in range(100)]
    drawn = draw(rows, hashes(300), 256)
    assert set(pair) <= drawn.media
    kept = held(rows, drawn)
    for one in rows:  # no held-out medium is in a record that is trained on
        assert (one in kept) == bool(set(one.media) & drawn.media)
    assert len([one for one in held(rows, drawn) if one.split == "finetune"]) <= 301 // 50


def test_records_without_media_are_drawn_by_what_they_ask() -> None:
    rows = [row("finetune", asks=f"t{n}") for n in range(400)] + [row("finetune", n) for n in range(100)]
    drawn = draw(rows, hashes(100), 256)
    assert len(held(rows, drawn)) == 10
    assert drawn.texts
    random.Random(0).shuffle(rows)
    assert same(draw(rows, hashes(100), 256), drawn)


def test_records_that_are_added_leave_the_draw_as_it_was() -> None:
    old = [row("pretrain", n) for n in range(1000)]
    before = draw(old, hashes(2000), 256).media
    after = draw(old + [row("pretrain", n) for n in range(1000, 1300)], hashes(2000), 256).media
    assert len(before) == 20
    assert len(after) == 26
    place = hashes(2000).__getitem__
    # An old one leaves only where new ones stand before it, and none that was trained on stands before one held out.
    assert all(place(n) > max(map(place, after)) for n in before - after)
    assert len(before & after) >= 17
    grown = draw([row("pretrain", n) for n in range(1300)], hashes(2000), 26).media
    assert grown == after  # the bound by number and that by share draw alike


@pytest.mark.parametrize("workers", [1, 2])
def test_prepare_writes_them_apart_and_tells(
    tmp_path: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    media = {f"{number}.png": png(number) for number in range(110)}
    archive = tar(tmp_path / "from/media.tar", media)
    sources = []
    for use in ("align", "pretrain", "finetune"):
        records = [llava(f"{use}-{n}", image=f"{n}.png") for n in range(110)]
        if use == "finetune":
            for n in range(40):
                records.append(llava(f"text-{n}"))
                records[-1]["conversations"][0]["value"] = f"what is number {n}?"
        notes = lines(tmp_path / f"from/{use}.jsonl", records)
        sources.append(archive_source(archive, notes, name=use, use=use))
    chosen = params(*sources)
    fetch(chosen, tmp_path)
    run(chosen, tmp_path, Machine(workers=workers))
    folder = tmp_path / "data/index"
    splits = {name: load_split(folder, name).to_pylist() for name in split_names(folder)}
    counts = {name: len(rows) for name, rows in splits.items()}
    assert (counts["align"], counts["align-valid"]) == (108, 2)
    assert (counts["pretrain"], counts["pretrain-valid"]) == (108, 2)
    assert (counts["finetune"], counts["finetune-valid"]) == (147, 3)
    trained = {
        n for name, rows in splits.items() if is_trained_on(name) for one in rows for n in one["media"]
    }
    kept = {
        n for name, rows in splits.items() if not is_trained_on(name) for one in rows for n in one["media"]
    }
    assert kept
    assert not trained & kept
    places = Shards(folder).media["sha256"].to_pylist()
    assert sorted(places[number] for number in kept) == sorted(places)[:2]
    told = capsys.readouterr().out
    assert (
        "held out of training, to measure its loss on: 2 of 110 samples of align, 2 of 110 samples of" in told
    )
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["splits"]["pretrain-valid"]["records"] == 2
    assert summary["left_out"] == {"near_a_test": {}, "thinned": {}}
    # Of the same template and bound: stage 1's has no question in it.
    assert all(one["tokens"] < 20 for one in splits["pretrain-valid"] + splits["pretrain"])
    assert all(one["tokens"] > 20 for one in splits["finetune-valid"] + splits["finetune"])
    metadata = load_split(folder, "pretrain").schema.metadata
    assert metadata == load_split(folder, "pretrain-valid").schema.metadata


def test_a_source_s_own_share_and_what_records_say_come_before_the_number() -> None:
    shared = [row("finetune", n, source="mine") for n in range(400)]
    said = [row("finetune", 400 + n, part="validation" if n < 30 else "train") for n in range(200)]
    portions = {"mine": Portion(valid=0.1)}
    drawn = draw(shared + said, hashes(600), 256, portions)
    part = {n for n in range(400) if int(hashes(600)[n][:16], 16) < 0.1 * 2**64}
    assert 25 < len(part) < 60
    # 600 samples would allow 12; more are named, so none is drawn beside them.
    assert drawn.media == part | set(range(400, 430))
    # Media that look alike go together.
    last = max(set(range(400)) - part)
    alike = [*range(last), min(part), *range(last + 1, 600)]
    assert draw(shared + said, hashes(600), 256, portions, alike).media == drawn.media | {last}
    # A source of which nothing is held out stays whole, however many are wanted.
    kept = draw(shared, hashes(600), 256, {"mine": Portion(valid=0.0)})
    assert not kept.media
    assert not kept.texts
