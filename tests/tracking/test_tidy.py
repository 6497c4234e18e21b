"""Copies of artifacts stay until they have arrived, and their sum is bounded."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from videollava.tracking.journal import Journal
from videollava.tracking.tidy import tidy


def keep(runs: Path, name: str, text: str, age: float = 3600.0) -> tuple[Path, Path]:
    """A journal with an artifact of its own: the journal, the copy."""
    file = runs.parent / "report.json"
    file.write_text(json.dumps(text))
    before = set((runs / "artifacts").glob("*"))
    path = runs / "retrain" / f"{name}-001.jsonl"
    with Journal(path, name) as journal:
        journal.artifact(file)
    (copy,) = set((runs / "artifacts").glob("*")) - before
    os.utime(copy, (time.time() - age,) * 2)
    return path, copy


def send(path: Path, owed: tuple[tuple[str, str], ...] = (), less: int = 0) -> None:
    state = {"run_id": "r", "offset": path.stat().st_size - less, "skipped": 0, "owed": owed}
    path.with_name(f"{path.stem}.abc123.json").write_text(json.dumps(state))


def test_what_arrived_goes_and_what_waits_stays(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert tidy(runs) == 0
    sent, gone = keep(runs, "sent", "a")
    owing, owed = keep(runs, "owing", "b")
    half, cut = keep(runs, "half", "c")
    _, never = keep(runs, "never", "d")
    new, fresh = keep(runs, "new", "e", age=0)
    send(sent)
    send(owing, ((str(owed / "report.json"), ""),))
    send(half, less=1)
    send(new)
    assert tidy(runs) == 1
    assert not gone.exists()
    assert all(copy.is_dir() for copy in (owed, cut, never, fresh))
    # Beyond the bound the oldest go first.
    os.utime(cut, (time.time() - 7200,) * 2)
    size = sum(
        file.stat().st_size for copy in (owed, cut, never) for file in copy.rglob("*") if file.is_file()
    )
    assert tidy(runs, limit=size - 1) == 1
    assert not cut.exists()


def test_a_copy_that_is_named_again_is_fresh(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    sent, copy = keep(runs, "sent", "a")
    send(sent)
    with Journal(runs / "retrain" / "again-001.jsonl", "again") as journal:
        journal.artifact(tmp_path / "report.json")  # the same content
        assert copy.stat().st_mtime > time.time() - 60
    send(runs / "retrain" / "again-001.jsonl")
    assert tidy(runs) == 0
