"""Weights and caps: how often each sample of a source is trained on, drawn by the sample's own hash."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from made import archive_source, lines, llava, params, png, prepare, tar
from outlined import outlined, row

from videollava.data.acquire.fetch import run as fetch
from videollava.data.prepare.mixture import copies_of, table_of
from videollava.data.prepare.tables import load_split
from videollava.params import Params, Portion


def copies(portion: Portion, names: list[str], split: str = "finetune") -> dict[str, int]:
    rows = [row(split, 0, source=source) for source in ("other", "mine") for _ in names]
    found = copies_of(outlined(rows), np.arange(len(rows)), {"mine": portion}, lambda source: names)
    # The other source is taken as it is.
    return {
        names[number - len(names)]: count
        for numbers, counts in found
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)
    }


NAMES = [f"record {number}" for number in range(2000)]


def test_a_weight_repeats_all_and_a_share_of_them() -> None:
    assert set(copies(Portion(weight=2.0), NAMES).values()) == {2}
    half = copies(Portion(weight=0.5), NAMES)
    assert set(half.values()) == {0, 1}
    assert 900 < sum(half.values()) < 1100
    more = copies(Portion(weight=1.5), NAMES)
    assert {name for name, count in more.items() if count == 2} == {n for n, count in half.items() if count}
    assert copies(Portion(), NAMES) == {}


def test_a_cap_takes_the_first_by_hash_and_the_weight_of_these() -> None:
    few = copies(Portion(most=100), NAMES)
    assert Counter(few.values()) == {1: 100, 0: 1900}
    both = copies(Portion(most=100, weight=3.0), NAMES)
    assert {name: count // 3 for name, count in both.items()} == few
    part = copies(Portion(most=1000, weight=0.5), NAMES)
    assert 430 < sum(part.values()) < 570  # the share's draw is another than the cap's
    assert copies(Portion(most=9999), NAMES) == dict.fromkeys(NAMES, 1)


def test_what_is_added_moves_no_other() -> None:
    grown = [*(f"new {number}" for number in range(500)), *NAMES[::-1]]
    half = copies(Portion(weight=0.5), NAMES)
    assert {name: count for name, count in copies(Portion(weight=0.5), grown).items() if name in half} == half
    before = {name for name, count in copies(Portion(most=100), NAMES).items() if count}
    after = {name for name, count in copies(Portion(most=100), grown).items() if count}
    assert len(after) == 100
    assert after & set(NAMES) <= before  # none comes in but new ones, in the places of some old ones


def test_the_cap_is_of_each_stage() -> None:
    rows = [row(split, 0, source="mine") for _ in range(100) for split in ("align", "finetune")]
    ids = [name for name in NAMES[:100] for _ in range(2)]
    found = copies_of(outlined(rows), np.arange(200), {"mine": Portion(most=10)}, lambda source: ids)
    kept = [number for numbers, counts in found for number in numbers[counts > 0].tolist()]
    assert (sum(n % 2 == 0 for n in kept), sum(n % 2 for n in kept)) == (10, 10)


def made(tmp_path: Path, portions: dict[str, Portion]) -> Params:
    sources = []
    for name, count in (("first", 8), ("second", 30)):
        media = {f"{n}.png": png(100 * count + n) for n in range(count)}
        records = [llava(f"r{n}", image=f"{n}.png") for n in range(count)]
        files = tar(tmp_path / f"from/{name}.tar", media), lines(tmp_path / f"from/{name}.jsonl", records)
        sources.append(archive_source(*files, name=name))
    chosen = params(*sources, sources=portions)
    fetch(chosen, tmp_path)
    return chosen


def test_index_writes_the_mixture_and_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = made(tmp_path, {"first": Portion(weight=2.0), "second": Portion(most=12)})
    prepare(chosen, tmp_path)
    rows = load_split(tmp_path / "data/index", "finetune").to_pylist()
    counts = Counter((row["source"], row["id"]) for row in rows)
    assert Counter((source, count) for (source, _), count in counts.items()) == {
        ("first", 2): 8,
        ("second", 1): 12,
    }
    summary = json.loads((tmp_path / "data/index/summary.json").read_text())
    of = summary["mixture"]["finetune"]
    assert (of["first"]["records"], of["second"]["records"]) == (16, 12)
    assert of["first"]["tokens"] == sum(row["tokens"] for row in rows if row["source"] == "first")
    assert summary["splits"]["finetune"]["records"] == 28
    assert (
        "repeated" not in summary["splits"]["finetune"]
    )  # told of what the data repeat, not of what is asked for
    assert summary["left_out"]["thinned"] == {"second": 18}
    told = capsys.readouterr().out
    assert table_of(summary["mixture"]) in told
    assert "second: 18 samples are left out by its weight and its cap (index.sources.second)" in told
