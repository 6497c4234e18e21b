"""Journals sent on to MLflow, best effort: each event once, whatever is killed, whenever the server answers.

Beside a journal lies `<journal>.<server>.json`: the MLflow run it became and the byte it was sent up to. It
is written after the server took a batch. A batch sent twice (killed in between) changes nothing there: runs
are found again by the journal's identity, and metrics carry the journal's own times.
"""

from __future__ import annotations

import fcntl
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videollava.params import Tracking
from videollava.tracking.journal import ARTIFACT_LIMIT, PARENTS, journals, read_events
from videollava.tracking.store import Store, connect, find_run
from videollava.tracking.troubles import explain

__all__ = ["Follower", "Forwarded", "replay", "try_out"]

PARAM_LIMIT = 6000
BATCH = 1000
ARTIFACTS_AGAIN = 60.0  # seconds until a store that refused an artifact is asked again


@dataclass(frozen=True)
class Forwarded:
    """What one replay did. pending: bytes that are still only in journals. error: why, where some are; passing: it
    may be over by itself. skipped: entries that MLflow never takes. owed: artifacts that were refused and wait for
    the next replay, refusal: why.
    """

    runs: int = 0
    events: int = 0
    pending: int = 0
    skipped: int = 0
    error: str = ""
    passing: bool = False
    owed: int = 0
    refusal: str = ""

    def in_words(self) -> str:
        """What did not arrive, and what becomes of it; "" where all did."""
        told = []
        if self.error:
            told.append(f"MLflow was not reached: {self.error}; {self.pending} bytes wait in runs/")
        if self.owed:
            told.append(f"{self.owed} artifacts wait, the last was refused: {self.refusal}")
        return "; ".join([*told, "`videollava track` sends them"]) if told else ""


@dataclass
class _State:
    """How far a journal was sent, what it is there, and which artifacts were refused (path, folder)."""

    path: Path
    run_id: str = ""
    offset: int = 0
    skipped: int = 0
    owed: list[tuple[str, str]] = field(default_factory=list)
    refusal: str = ""

    def save(self) -> None:
        aside = self.path.with_name(self.path.name + ".tmp")
        values = {name: value for name, value in vars(self).items() if name != "path"}
        aside.write_text(json.dumps(values))
        aside.replace(self.path)


def replay(workspace: Path, tracking: Tracking, store: Store | None = None) -> Forwarded:
    """Send what is new in all journals of the workspace. A server's troubles are in `.error`, not raised."""
    runs = workspace / "runs"
    paths = journals(runs)
    if not paths:
        return Forwarded()
    try:
        store = store or connect(workspace, tracking)
        _ = store.experiment
    except Exception as error:  # the tracker's troubles never stop the work that is tracked
        trouble = explain(error)
        waiting = sum(p.stat().st_size for p in paths)
        return Forwarded(pending=waiting, error=trouble.text, passing=trouble.passing)
    # Parents begin first, so that children find them, and go on last, so that they find what they link.
    parents = [path for path in paths if path.parent.name == PARENTS]
    for path in parents:
        _send(store, path, begin=True)
    return _sum([_send(store, path) for path in [*(p for p in paths if p not in parents), *parents]])


def try_out(workspace: Path, tracking: Tracking, path: Path) -> Forwarded:
    """Send one journal's first entries before the work begins: what MLflow refuses now, it refuses afterwards."""
    try:
        store = connect(workspace, tracking)
        _ = store.experiment
    except Exception as error:
        trouble = explain(error)
        return Forwarded(error=trouble.text, passing=trouble.passing)
    return _send(
        store, path, wait=True
    )  # what a follower is told at this moment is an answer to this question too


def _sum(sent: Sequence[Forwarded]) -> Forwarded:
    failed = next((one for one in sent if one.error), Forwarded())
    return Forwarded(
        runs=sum(one.runs for one in sent),
        events=sum(one.events for one in sent),
        pending=sum(one.pending for one in sent),
        skipped=sum(one.skipped for one in sent),
        error=failed.error,
        passing=failed.passing,
        owed=sum(one.owed for one in sent),
        refusal=next((one.refusal for one in sent if one.refusal), ""),
    )


class Follower(threading.Thread):
    """Replays the workspace's journals every few seconds; waits longer after failures."""

    def __init__(self, workspace: Path, tracking: Tracking, interval: float = 3.0) -> None:
        super().__init__(name="follower", daemon=True)
        self.last = Forwarded()
        self._workspace = workspace
        self._tracking = tracking
        self._interval = interval
        self._stopping = threading.Event()
        self._store: Store | None = None

    def run(self) -> None:
        """The thread's body."""
        wait = self._interval
        while not self._stopping.wait(wait):
            self._forward()
            wait = min(wait * 2, 60.0) if self.last.error else self._interval

    def stop(self, timeout: float = 30.0) -> Forwarded:
        """Send what is left, for at most `timeout` seconds; what could not be sent stays in the journals."""
        self._stopping.set()
        if self.is_alive():
            self.join(timeout)
        if not self.is_alive():
            self._forward()
        return self.last

    def _forward(self) -> None:
        try:
            self._store = self._store or connect(self._workspace, self._tracking)
        except Exception as error:  # as in replay: reported, never raised
            trouble = explain(error)
            self.last = Forwarded(error=trouble.text, passing=trouble.passing)
            return
        self.last = replay(self._workspace, self._tracking, self._store)
        if self.last.error:  # the experiment may be another by now
            self._store = None


def _send(store: Store, path: Path, begin: bool = False, wait: bool = False) -> Forwarded:
    state_path = path.with_name(f"{path.stem}.{store.label}.json")
    known = _load_state(state_path)
    if known.offset >= path.stat().st_size and (begin or not known.owed):
        return Forwarded()
    with _exclusive(state_path.with_suffix(".lock"), wait) as mine:
        if not mine:  # another process is sending this journal
            return Forwarded()
        state = _load_state(state_path)
        try:
            events = _begin(store, path, state) if begin else _catch_up(store, path, state)
            if not begin and _pay(store, state, over=True):
                state.save()
        except Exception as error:  # as in replay: what was not sent stays in the journal
            if state.run_id and _run_is_gone(error):
                state_path.unlink(missing_ok=True)  # it is sent again from the start, as another run
            trouble = explain(error)
            return _told(path, state, 0, trouble.text, trouble.passing)
    return _told(path, state, events)


def _told(path: Path, state: _State, events: int, error: str = "", passing: bool = False) -> Forwarded:
    pending = path.stat().st_size - state.offset
    owed = len(state.owed)
    return Forwarded(1, events, pending, state.skipped, error, passing, owed, state.refusal if owed else "")


def _run_is_gone(error: Exception) -> bool:
    """Whether somebody deleted the run meanwhile, for good or into MLflow's bin."""
    return getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST" or "'active' state" in str(error)


def _catch_up(store: Store, path: Path, state: _State) -> int:
    done = 0
    while True:
        events, after = read_events(path, state.offset)
        if not events:
            return done
        if not state.run_id:
            state.run_id = _find_or_create(store, events[0])
        _apply(store, state, events)
        state.offset = after
        state.save()
        done += len(events)


def _begin(store: Store, path: Path, state: _State) -> int:
    events, _ = read_events(path, 0)
    if events and not state.run_id:
        state.run_id = _find_or_create(store, events[0])
        state.save()
    return 0


def _find_or_create(store: Store, start: dict[str, Any]) -> str:
    run_id = find_run(store, journal=start["id"])
    if run_id:
        return run_id
    tags = {
        "journal": start["id"],
        "parent_journal": start["parent"],
        "mlflow.runName": start["name"],
        "stage": start["name"],
        "input_key": start["key"],
    }
    parent = find_run(store, journal=start["parent"]) if start["parent"] else ""
    if parent:
        tags["mlflow.parentRunId"] = parent
    created = store.client.create_run(
        store.experiment, start_time=start["time"], tags=tags, run_name=start["name"]
    )
    if not start["parent"]:
        _adopt(store, start["id"], created.info.run_id)
    return str(created.info.run_id)


def _adopt(store: Store, journal: str, run_id: str) -> None:
    """Children of a run that was deleted and is sent again hang below the new one."""
    for child in store.client.search_runs([store.experiment], f"tags.parent_journal = '{journal}'"):
        store.client.set_tag(child.info.run_id, "mlflow.parentRunId", run_id)


def _apply(store: Store, state: _State, events: Sequence[dict[str, Any]]) -> None:
    from mlflow.entities import Metric

    metrics: list[Metric] = []
    for event in events:
        if event["event"] == "metric":
            metrics += [Metric(_key(k), v, event["time"], event["step"]) for k, v in event["values"].items()]
            continue
        _log(store, state, metrics=metrics)
        metrics = []
        _apply_one(store, state, event)
    _log(store, state, metrics=metrics)


def _apply_one(store: Store, state: _State, event: dict[str, Any]) -> None:
    from mlflow.entities import Metric, Param, RunTag

    client, run_id = store.client, state.run_id
    match event["event"]:
        case "start":
            params = [Param(k, v[:PARAM_LIMIT]) for k, v in event["params"].items()]
            _log(store, state, params=params, tags=[RunTag(k, v) for k, v in event["tags"].items()])
            client.update_run(run_id, status="RUNNING")
        case "data":
            client.log_inputs(run_id, [_data_set(one) for one in event["sets"]])
        case "tags":
            _log(store, state, tags=[RunTag(_key(k), v) for k, v in event["values"].items()])
        case "artifact":
            state.owed.append((event["path"], event["folder"]))
            _pay(store, state)
        case "link":
            made_by = find_run(store, stage_key=event["key"]) or find_run(store, input_key=event["inputs"])
            _log(store, state, tags=[RunTag(_key(f"from_cache.{event['stage']}"), made_by or "unknown")])
        case "end":
            ended = {name: event[name] for name in ("seconds", "peak_rss_mib") if name in event}
            _log(store, state, metrics=[Metric(k, v, event["time"], 0) for k, v in ended.items()])
            if event["error"]:
                _log(store, state, tags=[RunTag("error", event["error"])])
            client.set_terminated(run_id, event["status"], event["time"])
        case _:
            state.skipped += 1


def _key(name: str) -> str:
    """As MLflow takes it: a source's stage (fetch@clips) has a letter that names may not."""
    return name.replace("@", ":")


def _data_set(told: dict[str, str]) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    found = Dataset(told["name"], told["digest"], "dvc", told["source"], profile=told["profile"] or None)
    return DatasetInput(found, [InputTag("mlflow.data.context", told["context"])])


def _log(store: Store, state: _State, **batch: list[Any]) -> None:
    """log_batch in the sizes MLflow takes; entries it refuses for good are counted and left out."""
    from mlflow.exceptions import MlflowException

    for kind, entries in batch.items():
        size = BATCH if kind == "metrics" else 100
        for at in range(0, len(entries), size):
            part = entries[at : at + size]
            try:
                store.client.log_batch(state.run_id, **{kind: part}, synchronous=True)
            except MlflowException as error:
                refused = error.error_code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
                if not refused or _run_is_gone(error):
                    raise
                if len(part) == 1:
                    state.skipped += 1
                for single in part if len(part) > 1 else ():
                    _log(store, state, **{kind: [single]})


def _pay(store: Store, state: _State, over: bool = False) -> bool:
    """Send the artifacts that wait; whether anything changed. A store that refuses one keeps nothing else from
    arriving: they stay owed. over: the journal was sent whole, so a run that was deleted since stays so.
    """
    before = len(state.owed)
    while state.owed and time.monotonic() >= store.retry_at:
        path, folder = state.owed[0]
        try:
            _send_artifact(store, state, Path(path), folder)
        except Exception as error:
            if not _run_is_gone(error):
                store.retry_at = time.monotonic() + ARTIFACTS_AGAIN
                state.refusal = explain(error).text
                return True
            if not over:
                raise
            state.skipped += 1
        del state.owed[0]
    return len(state.owed) != before


def _send_artifact(store: Store, state: _State, path: Path, folder: str) -> None:
    files = [f for f in (path.rglob("*") if path.is_dir() else [path]) if f.is_file()]
    if not files or sum(f.stat().st_size for f in files) > ARTIFACT_LIMIT:
        state.skipped += 1
        return
    if path.is_dir():
        store.client.log_artifacts(state.run_id, str(path), folder or path.name)
    else:
        store.client.log_artifact(state.run_id, str(path), folder or None)


@contextmanager
def _exclusive(path: Path, wait: bool = False) -> Iterator[bool]:
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def _load_state(path: Path) -> _State:
    try:
        values = json.loads(path.read_text())
        owed = [(str(file), str(folder)) for file, folder in values.get("owed", ())]
        return _State(
            path, values["run_id"], values["offset"], values["skipped"], owed, values.get("refusal", "")
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return _State(path)
