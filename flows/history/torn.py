"""Code that was edited while the stage that reads it ran: DVC notes its hash at the end, and so names what did not run.

The stage's own journal knows the key that it began with, and when it ran; a lock that the stage writes itself is one of
its inputs too, and is no edit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.history.snapshot import LOCKS
from videollava.tracking.accepted import origin_key
from videollava.tracking.journal import read_events
from videollava.tracking.lineage import entry_keys, read_yaml

__all__ = ["find_torn"]

Event = Mapping[str, Any]


def find_torn(root: Path) -> dict[str, str]:
    """Stages of dvc.lock whose code was edited while they ran, each with the file."""
    stages = read_yaml(root / "dvc.lock").get("stages") or {}
    made = {out["path"] for entry in stages.values() for out in entry.get("outs") or ()}
    found = {}
    for stage, entry in stages.items():
        inputs, key = entry_keys(stage, entry)
        folder = root / "runs" / stage
        began = any(_began(folder, one) for one in (inputs, origin_key(root, stage)))
        ran = None if began else _last_run(folder, key)
        if ran is None:
            continue
        for path in (str(dep["path"]) for dep in entry.get("deps") or ()):
            if path not in made and not path.startswith(f"{LOCKS}/") and _edited(root / path, *ran):
                found[stage] = path
    return found


def _began(folder: Path, inputs: str) -> bool:
    """Whether a finished run began with these inputs."""
    for path in folder.glob(f"{inputs[:16]}-*.jsonl") if inputs else ():
        if any(event["event"] == "end" and event["status"] == "FINISHED" for event in _events(path)):
            return True
    return False


def _last_run(folder: Path, key: str) -> tuple[int, int] | None:
    """When the stage's last finished run began and ended (ms); None where there is none, or it made something else."""
    spans = []
    for path in folder.glob("*.jsonl"):
        events = list(_events(path))
        starts = [event["time"] for event in events if event["event"] == "start"]
        ends = [e["time"] for e in events if e["event"] == "end" and e["status"] == "FINISHED"]
        noted = [
            e["values"]["stage_key"] for e in events if e["event"] == "tags" and "stage_key" in e["values"]
        ]
        if starts and ends:
            spans.append((ends[-1], starts[-1], noted[-1] if noted else key))
    if not spans:
        return None
    end, start, noted_key = max(spans)
    return (start, end) if noted_key == key else None


def _events(path: Path) -> Iterator[Event]:
    offset = 0
    while True:
        events, after = read_events(path, offset)
        yield from events
        if after == offset:
            return
        offset = after


def _edited(path: Path, start: int, end: int) -> bool:
    files = path.rglob("*") if path.is_dir() else [path]
    return any(
        start < file.stat().st_mtime_ns / 1e6 < end
        for file in files
        if file.is_file() and file.suffix != ".pyc"
    )
