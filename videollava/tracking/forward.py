"""Journals sent on to MLflow, best effort: each event once, whatever is killed, whenever the server answers.

Beside a journal lies `<journal>.<server>.json`: the MLflow run it became and the byte it was sent up to. It
is written after the server took a batch. A batch sent twice (killed in between) changes nothing there: runs
are found again by the journal's identity, and metrics carry the journal's own times.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videollava.params import Tracking
from videollava.tracking.journal import PARENTS, journals, read_events

__all__ = ["Follower", "Forwarded", "Store", "connect", "find_run", "replay", "tracking_uri"]

STORE = ".mlflow"
ARTIFACT_LIMIT = 64 << 20
PARAM_LIMIT = 6000
BATCH = 1000


@dataclass(frozen=True)
class Forwarded:
    """What one replay did. pending: bytes that are still only in journals. error: why, where some are."""

    runs: int = 0
    events: int = 0
    pending: int = 0
    skipped: int = 0
    error: str = ""


@dataclass
class Store:
    """An MLflow tracking store and our experiment in it."""

    uri: str
    client: Any
    experiment: str

    @property
    def label(self) -> str:
        """Short name of this store and experiment, for state files."""
        return hashlib.sha256(f"{self.uri}|{self.experiment}".encode()).hexdigest()[:8]


@dataclass
class _State:
    """How far a journal was sent, and what it is there."""

    path: Path
    run_id: str = ""
    offset: int = 0
    skipped: int = 0

    def save(self) -> None:
        aside = self.path.with_name(self.path.name + ".tmp")
        values = {"run_id": self.run_id, "offset": self.offset, "skipped": self.skipped}
        aside.write_text(json.dumps(values))
        aside.replace(self.path)


def tracking_uri(workspace: Path, tracking: Tracking) -> str:
    """params.tracking.uri, else MLFLOW_TRACKING_URI, else a SQLite store in the workspace."""
    local = f"sqlite:///{workspace.resolve() / STORE / 'mlflow.db'}"
    return tracking.uri or os.environ.get("MLFLOW_TRACKING_URI", "") or local


def connect(workspace: Path, tracking: Tracking) -> Store:
    """Open the store and find or make the experiment. Whatever MLflow raises comes through.

    A server that is gone is given up after seconds, not minutes (see `_quiet`).
    """
    _quiet()
    import mlflow

    uri = tracking_uri(workspace, tracking)
    folder = Path(uri.removeprefix("sqlite:///")).resolve().parent if uri.startswith("sqlite:///") else None
    with _first_use(folder):
        _set_uri(uri)
        client = mlflow.MlflowClient(tracking_uri=uri)
        artifacts = (folder / "artifacts").as_uri() if folder else None  # a server knows its own place
        return Store(uri, client, _experiment(client, tracking.experiment, artifacts))


def replay(workspace: Path, tracking: Tracking, store: Store | None = None) -> Forwarded:
    """Send what is new in all journals of the workspace. A server's troubles are in `.error`, not raised."""
    runs = workspace / "runs"
    paths = journals(runs)
    if not paths:
        return Forwarded()
    try:
        store = store or connect(workspace, tracking)
    except Exception as error:  # the tracker's troubles never stop the work that is tracked
        return Forwarded(pending=sum(p.stat().st_size for p in paths), error=_reason(error))
    # Parents begin first, so that children find them, and go on last, so that they find what they link.
    parents = [path for path in paths if path.parent.name == PARENTS]
    for path in parents:
        _send(store, path, begin=True)
    sent = [_send(store, path) for path in [*(p for p in paths if p not in parents), *parents]]
    return Forwarded(
        runs=sum(s.runs for s in sent),
        events=sum(s.events for s in sent),
        pending=sum(s.pending for s in sent),
        skipped=sum(s.skipped for s in sent),
        error=next((s.error for s in sent if s.error), ""),
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
            self.last = Forwarded(error=_reason(error))
            return
        self.last = replay(self._workspace, self._tracking, self._store)


def find_run(store: Store, **tags: str) -> str:
    """Id of the newest run with these tags, "" where there is none; finished ones go before others."""
    words = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    found = store.client.search_runs(
        [store.experiment], words, order_by=["attributes.start_time DESC"], max_results=50
    )
    done = [run for run in found if run.info.status == "FINISHED"]
    return next((run.info.run_id for run in [*done, *found]), "")


def _send(store: Store, path: Path, begin: bool = False) -> Forwarded:
    state_path = path.with_name(f"{path.stem}.{store.label}.json")
    if _sent_offset(state_path) >= path.stat().st_size:
        return Forwarded()
    with _exclusive(state_path.with_suffix(".lock")) as mine:
        if not mine:  # another process is sending this journal
            return Forwarded()
        state = _load_state(state_path)
        try:
            events = _begin(store, path, state) if begin else _catch_up(store, path, state)
        except Exception as error:  # as in replay: what was not sent stays in the journal
            if state.run_id and getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
                state_path.unlink(
                    missing_ok=True
                )  # the run was deleted there: it is sent again from the start
            return Forwarded(1, 0, path.stat().st_size - state.offset, state.skipped, _reason(error))
    return Forwarded(1, events, path.stat().st_size - state.offset, state.skipped)


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
    return str(created.info.run_id)


def _apply(store: Store, state: _State, events: Sequence[dict[str, Any]]) -> None:
    from mlflow.entities import Metric

    metrics: list[Metric] = []
    for event in events:
        if event["event"] == "metric":
            metrics += [Metric(k, v, event["time"], event["step"]) for k, v in event["values"].items()]
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
        case "tags":
            _log(store, state, tags=[RunTag(k, v) for k, v in event["values"].items()])
        case "artifact":
            _send_artifact(store, state, Path(event["path"]), event["folder"])
        case "link":
            made_by = find_run(store, stage_key=event["key"]) or find_run(store, input_key=event["inputs"])
            _log(store, state, tags=[RunTag(f"from_cache.{event['stage']}", made_by or "unknown")])
        case "end":
            ended = {name: event[name] for name in ("seconds", "peak_rss_mib") if name in event}
            _log(store, state, metrics=[Metric(k, v, event["time"], 0) for k, v in ended.items()])
            if event["error"]:
                _log(store, state, tags=[RunTag("error", event["error"])])
            client.set_terminated(run_id, event["status"], event["time"])
        case _:
            state.skipped += 1


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
                if error.error_code not in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST"):
                    raise
                if len(part) == 1:
                    state.skipped += 1
                for single in part if len(part) > 1 else ():
                    _log(store, state, **{kind: [single]})


def _send_artifact(store: Store, state: _State, path: Path, folder: str) -> None:
    files = [f for f in (path.rglob("*") if path.is_dir() else [path]) if f.is_file()]
    if not files or sum(f.stat().st_size for f in files) > ARTIFACT_LIMIT:
        state.skipped += 1
        return
    if path.is_dir():
        store.client.log_artifacts(state.run_id, str(path), folder or path.name)
    else:
        store.client.log_artifact(state.run_id, str(path), folder or None)


def _experiment(client: Any, name: str, artifacts: str | None) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifacts))
        except MlflowException as error:
            found = client.get_experiment_by_name(name)  # another process was first
            if found is None:
                raise error
    return str(found.experiment_id)


def _set_uri(uri: str) -> None:
    """mlflow.set_tracking_uri without its writing the environment variable that `tracking_uri` reads."""
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    if before is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    else:
        os.environ["MLFLOW_TRACKING_URI"] = before


def _quiet() -> None:
    """Bounded waits, no reports home, no migration log. What the environment sets already stays."""
    for name, value in (
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2"),
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", "10"),
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("DO_NOT_TRACK", "true"),
        ("GIT_PYTHON_REFRESH", "quiet"),
    ):
        os.environ.setdefault(name, value)
    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.utils.environment"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


@contextmanager
def _first_use(folder: Path | None) -> Iterator[None]:
    """One process at a time makes the tables of the local store."""
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextmanager
def _exclusive(path: Path) -> Iterator[bool]:
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _load_state(path: Path) -> _State:
    try:
        values = json.loads(path.read_text())
        return _State(path, values["run_id"], values["offset"], values["skipped"])
    except (FileNotFoundError, ValueError, KeyError):
        return _State(path)


def _sent_offset(path: Path) -> int:
    return _load_state(path).offset


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:500]
