"""The journal of a run: one append-only JSON-lines file, the first and only thing a stage writes to.

    runs/<stage>/<key>-<nn>.jsonl

A tracking server is never waited for: `videollava.tracking.forward` sends journals on when it can.
Events: start (params, tags, parent), data (sets), metric (step, values), tags, artifact (path), link, end (status).
A run that was killed goes on in the same file, and so in the same MLflow run. Credentials are hidden here, where
it is all written down: words in events, and texts among the artifacts (kept as they are now, in runs/artifacts).
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import resource
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from videollava.data.modalities import KINDS
from videollava.ends import Ended
from videollava.environment import RANKS
from videollava.scrub import scrub
from videollava.tracking.artifacts import ARTIFACT_LIMIT, keep

__all__ = [
    "ARTIFACT_LIMIT",
    "PARENTS",
    "Journal",
    "close_abandoned",
    "current",
    "journals",
    "log_metrics",
    "log_tags",
    "newest_run",
    "open_journal",
    "read_events",
    "seems_alive",
    "under_way",
    "write_curve",
    "write_curves",
]

PARENTS = "retrain"  # folder of the journals that others name as their parent
SYNC_SECONDS = 5.0
VALIDATED = ("pretrain", "finetune")  # stages that tell kinds of samples apart and have some held out
BY_ITSELF = {
    "held_out": "held_out_loss",
    "video": "loss_video",
    "image": "loss_image",
    "text": "loss_text",
}
RETRIEVAL = (
    "text_to_{}_r1",
    "{}_to_text_r1",
    "{}_chance_r1",
)  # of held-out pairs, while encoders are aligned
ZERO_SHOT = "{}_zero_shot"  # their mean; the sets' own figures are told with it, SET.FIGURE
Status = Literal["FINISHED", "FAILED", "KILLED"]

_active: list[Journal] = []


class Journal:
    """Writes one run's events; `path` None writes nothing (ranks other than 0).

    Used as a context it is the process's current journal, and ends FINISHED, FAILED or KILLED.
    """

    def __init__(self, path: Path | None, identity: str = "") -> None:
        self.path = path
        self.identity = identity
        self._began = time.monotonic()
        self._synced = 0.0
        self._lock = threading.Lock()
        self._ended = False
        self._stream: io.FileIO | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            _cut_torn_line(path)
            self._stream = io.FileIO(path, "a")

    def start(
        self, name: str, params: Mapping[str, str], tags: Mapping[str, str], parent: str = "", key: str = ""
    ) -> None:
        """Say what runs: flat params, lineage tags, the identity of the parent's journal, the input key."""
        event = {"id": self.identity, "name": name, "params": _hide(params), "tags": _hide(tags)}
        self._append(
            "start",
            {**event, "parent": parent, "key": key, "pid": os.getpid(), "host": socket.gethostname()},
            sync=True,
        )

    @property
    def seconds(self) -> float:
        """Since it was opened."""
        return time.monotonic() - self._began

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers at a step; on disk within seconds, whatever happens to the process."""
        self._append("metric", {"step": int(step), "values": {k: float(v) for k, v in values.items()}})

    def tags(self, values: Mapping[str, str]) -> None:
        """Words about the run."""
        self._append("tags", {"values": _hide(values)}, sync=True)

    def data_sets(self, found: Sequence[Mapping[str, str]]) -> None:
        """The data that are read: data_sets.py."""
        if found:
            self._append("data", {"sets": [dict(one) for one in found]}, sync=True)

    def artifact(self, path: Path, folder: str = "") -> None:
        """A file (or folder) to keep with the run, under `folder` there: as it is at this moment."""
        if self.path is not None:
            kept = keep(path.resolve(), self.path.resolve().parents[1] / "artifacts")
            self._append("artifact", {"path": str(kept), "folder": folder}, sync=True)

    def link(self, stage: str, key: str, inputs: str) -> None:
        """A stage that did not run: the run that made its outputs, found by these keys, is to be named."""
        self._append("link", {"stage": stage, "key": key, "inputs": inputs}, sync=True)

    def end(self, status: Status = "FINISHED", error: str = "") -> None:
        """Close the run. A second call changes nothing."""
        if self._ended:
            return
        self._ended = True
        seconds = round(time.monotonic() - self._began, 3)
        event = {
            "status": status,
            "error": scrub(error)[:2000],
            "seconds": seconds,
            "cpu_seconds": round(sum(os.times()[:4]), 3),  # of this process and of those it waited for
            "peak_rss_mib": _peak_rss_mib(),
        }
        self._append("end", event, sync=True)
        if self._stream:
            self._stream.close()

    def __enter__(self) -> Self:
        _active.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _active.remove(self)
        if error is None:
            self.end()
        elif RANKS in os.environ:
            pass  # the launcher, which sees all ranks, says why they ended
        elif isinstance(error, Exception):
            self.end("FAILED", f"{type(error).__name__}: {error}")
        else:
            self.end("KILLED", str(error) if isinstance(error, Ended) else type(error).__name__)

    def _append(self, event: str, fields: Mapping[str, Any], sync: bool = False) -> None:
        if self._stream is None:
            return
        line = json.dumps({"event": event, "time": time.time_ns() // 1_000_000, **fields}) + "\n"
        with self._lock:
            self._stream.write(line.encode())  # one write, appended: whole or cut at the end, never mixed
            if sync or time.monotonic() - self._synced > SYNC_SECONDS:
                os.fsync(self._stream.fileno())
                self._synced = time.monotonic()


def open_journal(runs: Path, stage: str, key: str, params: Mapping[str, str] | None = None) -> Journal:
    """The journal for this stage and input key under `runs`: a new file, or the one that was cut short.

    params: flat, as they are told; a run with others (`--set` is in no key) is another run. The machine's may differ.
    """
    folder = runs / stage
    stem = key[:16] or "run"
    there = sorted(folder.glob(f"{stem}-*.jsonl"), reverse=True)
    for path in there:
        first, ended = _outline(path)
        if params is not None and first and _recipe(first["params"]) != _recipe(_hide(params)):
            continue
        elsewhere = bool(first) and first["pid"] != os.getpid() and _goes_on(first)
        if first and ended != "FINISHED" and not elsewhere:
            return Journal(path, first["id"])
        break
    number = int(there[0].stem.rsplit("-", 1)[1]) + 1 if there else 1
    return Journal(folder / f"{stem}-{number:03d}.jsonl", uuid.uuid4().hex)


def _recipe(params: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in params.items() if not name.startswith("machine.")}


def current() -> Journal:
    """The journal of the stage this process runs; one that writes nothing where there is none."""
    return _active[-1] if _active else Journal(None)


def log_tags(**values: str) -> None:
    """Note what holds for the whole run, in the journal of the stage that runs."""
    current().tags(values)


def log_metrics(step: int, **values: float) -> None:
    """Numbers of a training step, into the current journal."""
    current().metrics(step, values)


def journals(runs: Path) -> list[Path]:
    """Every journal under `runs`, oldest change first."""
    return sorted(runs.glob("*/*.jsonl"), key=lambda path: (path.stat().st_mtime_ns, path.name))


def read_events(path: Path, offset: int = 0, limit: int = 1 << 22) -> tuple[list[dict[str, Any]], int]:
    """Events from byte `offset` on, some `limit` bytes of them, and the offset after the last."""
    with path.open("rb") as stream:
        stream.seek(offset)
        block = stream.read(limit)
        while block and b"\n" not in block and (more := stream.read(limit)):
            block += more
    block = block[: block.rfind(b"\n") + 1]
    return [_parse(line, path) for line in block.splitlines()], offset + len(block)


def close_abandoned(
    runs: Path, stage: str, status: Status = "KILLED", error: str = "the process went away"
) -> int:
    """Write the end of runs whose process is gone without one; how many."""
    closed = 0
    for path in (runs / stage).glob("*.jsonl"):
        first, ended = _outline(path)
        if first and not ended and not _goes_on(first):
            gone = {
                "status": status,
                "error": scrub(error)[:2000],
            }  # when, and how large it was, nobody knows
            Journal(path, first["id"])._append("end", gone, sync=True)
            closed += 1
    return closed


def newest_run(runs: Path, stage: str) -> tuple[dict[str, Any], str]:
    """The start event of the stage's last run, and how it ended: "" while it is at work, here or on another machine, or
    where its process was killed. Both empty where there is none.
    """
    path = max((runs / stage).glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns, default=None)
    return _outline(path) if path is not None else ({}, "")


def under_way(runs: Path, stage: str) -> dict[str, Any]:
    """The start event of a run of the stage that is at work now on this machine; empty where none is."""
    for path in sorted((runs / stage).glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)[-1:]:
        start, ended = _outline(path)
        if start and not ended and _goes_on(start):
            return start
    return {}


def write_curve(
    target: Path,
    columns: Sequence[str] = ("loss", "learning_rate", "gradient_norm"),
    source: Path | None = None,
) -> None:
    """Metrics of the current journal (or of `source`) as CSV: step and `columns`, for `dvc plots`.

    A run that was killed and resumed did some steps twice: the last value counts. Only what is equal in
    every rerun belongs in here (no times, no speeds), so that the file's hash is.
    """
    path = source or current().path
    rows: dict[int, dict[str, float]] = {}
    for event in _all_events(path) if path else ():
        if event["event"] == "metric":
            kept = {name: event["values"][name] for name in columns if name in event["values"]}
            if kept:
                rows.setdefault(event["step"], {}).update(kept)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(target.name + ".tmp")
    with aside.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["step", *columns])
        for step in sorted(rows):
            writer.writerow([step, *(_cell(rows[step].get(name)) for name in columns)])
    aside.replace(target)


def write_curves(plots: Path, stage: str) -> None:
    """<stage>.csv in `plots`; of the stages that validate also <stage>/, a file for each curve with steps of its own.

    A blank cell would be drawn as a zero: so no such curve shares a file, and one of nothing has a header alone.
    """
    write_curve(plots / f"{stage}.csv")
    for name, column in BY_ITSELF.items() if stage in VALIDATED else ():
        write_curve(plots / stage / f"{name}.csv", (column,))
    if stage == "align":
        for kind in KINDS:
            write_curve(plots / stage / f"{kind}.csv", [column.format(kind) for column in RETRIEVAL])
            write_curve(plots / stage / f"zero_shot/{kind}.csv", _zero_shot_columns(ZERO_SHOT.format(kind)))


def _zero_shot_columns(mean: str) -> list[str]:
    """The mean of the sets that encoders of a modality were asked, which is drawn, and all that was told with it."""
    path = current().path
    found: dict[str, None] = {mean: None}
    for event in _all_events(path) if path else ():
        if event["event"] == "metric" and mean in event["values"]:
            found |= dict.fromkeys(name for name in event["values"] if "." in name)
    return list(found)


def _hide(words: Mapping[str, str]) -> dict[str, str]:
    return {name: scrub(text) for name, text in words.items()}


def _all_events(path: Path) -> Iterable[dict[str, Any]]:
    offset = 0
    while True:
        events, after = read_events(path, offset)
        yield from events
        if after == offset:
            return
        offset = after


def _outline(path: Path) -> tuple[dict[str, Any], str]:
    """The last start event (with the first's identity), and the status it ended with, if it did."""
    start: dict[str, Any] = {}
    ended = ""
    for event in _all_events(path):
        if event["event"] == "start":
            start = {**event, "id": start.get("id", event["id"])}
            ended = ""
        elif event["event"] == "end":
            ended = event["status"]
    return start, ended


def _parse(line: bytes, path: Path) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    # A line cut by a power failure and then written on: unreadable, and not worth a run.
    return (
        event if isinstance(event, dict) and "event" in event else {"event": "unreadable", "path": str(path)}
    )


def _cell(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else repr(value)


def _cut_torn_line(path: Path) -> None:
    if not path.is_file():
        return
    with path.open("rb+") as stream:
        content = stream.read()
        if content and not content.endswith(b"\n"):
            stream.truncate(content.rfind(b"\n") + 1)


def seems_alive(start: Mapping[str, Any]) -> bool:
    """Whether the process of a start event lives, as far as can be seen: that of another host is taken to."""
    return start.get("host", socket.gethostname()) != socket.gethostname() or _alive(start["pid"])


def _goes_on(start: Mapping[str, Any]) -> bool:
    """Whether the process of a start event lives; one of another host is not seen from here, and taken to be gone."""
    return start.get("host", socket.gethostname()) == socket.gethostname() and _alive(start["pid"])


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _peak_rss_mib() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return round(peak * unit / 2**20, 1)
