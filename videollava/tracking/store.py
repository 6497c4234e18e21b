"""The MLflow store that journals are sent to and versions are kept in: found, opened, asked for runs."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from videollava.environment import ask_loopback_directly
from videollava.errors import InputError
from videollava.params import Tracking
from videollava.scrub import scrub

__all__ = ["Store", "connect", "find_run", "tracking_uri"]

HOME = ".mlflow"
SQLITE = "sqlite:///"


@dataclass
class Store:
    """An MLflow tracking store, with our experiment in it.

    name: the experiment's. artifacts: where a new one keeps its files, None where the server knows. retry_at:
    before this moment (monotonic seconds) no artifact is tried: the last one was refused.
    """

    uri: str
    client: Any
    name: str
    artifacts: str | None = None
    retry_at: float = field(default=0.0, compare=False)

    @cached_property
    def experiment(self) -> str:
        """Id of our experiment, made where there is none. InputError where it was deleted: what somebody threw away
        is not brought back behind their back.
        """
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(self.name)
        if found is None:
            try:
                return str(self.client.create_experiment(self.name, artifact_location=self.artifacts))
            except MlflowException as error:
                found = self.client.get_experiment_by_name(self.name)  # another process was first
                if found is None:
                    raise error
        if found.lifecycle_stage != "active":
            raise InputError(
                f"the experiment {self.name!r} at {self.uri} was deleted: restore it (on the page, or `mlflow "
                f"experiments restore --experiment-id {found.experiment_id}`), or set tracking.experiment to "
                "another name"
            )
        return str(found.experiment_id)

    @property
    def label(self) -> str:
        """Short name of this store and experiment, for state files; a new password changes nothing in it."""
        return hashlib.sha256(f"{scrub(self.uri)}|{self.experiment}".encode()).hexdigest()[:8]


def tracking_uri(workspace: Path, tracking: Tracking) -> str:
    """params.tracking.uri, else MLFLOW_TRACKING_URI, else a SQLite store in the workspace.

    A path in it that is not absolute is one of the workspace, whatever folder a process works in.
    """
    root = workspace.resolve()
    named = tracking.uri.strip() or os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    uri = named or f"{SQLITE}{root / HOME / 'mlflow.db'}"
    if file := _sqlite_file(uri):
        return f"{SQLITE}{root / file}"
    if ":" not in uri and uri != "databricks":  # a bare path, as MLflow takes it
        return str(root / Path(uri).expanduser())
    if uri.startswith("file:") and not uri.startswith("file:/"):
        return f"file:{root / uri.removeprefix('file:')}"
    return uri


def _sqlite_file(uri: str) -> str:
    """The file of a SQLite address, "" where it is none (or one in SQLite's own URI form, or in memory)."""
    file = uri.removeprefix(SQLITE) if uri.startswith(SQLITE) else ""
    return "" if file.startswith(("file:", ":")) else file


def connect(workspace: Path, tracking: Tracking) -> Store:
    """Open the store. Whatever MLflow raises comes through.

    A server that is gone is given up after seconds, not minutes (see `_quiet`); one on loopback is asked directly,
    whatever proxy is set.
    """
    _quiet()
    ask_loopback_directly(os.environ)
    import mlflow

    uri = tracking_uri(workspace, tracking)
    file = _sqlite_file(uri).partition("?")[0]
    folder = Path(file).parent if file else None
    with _first_use(folder):
        _set_uri(uri)
        client = mlflow.MlflowClient(tracking_uri=uri)
        artifacts = (folder / "artifacts").as_uri() if folder else None  # a server knows its own place
        return Store(uri, client, tracking.experiment, artifacts)


def find_run(store: Store, **tags: str) -> str:
    """Id of the newest run with these tags, "" where there is none; finished ones go before others."""
    words = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    found = store.client.search_runs(
        [store.experiment], words, order_by=["attributes.start_time DESC"], max_results=50
    )
    done = [run for run in found if run.info.status == "FINISHED"]
    return next((run.info.run_id for run in [*done, *found]), "")


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
    """Bounded waits, no reports home, no migration log, no tracebacks of MLflow's own. What the environment sets
    already stays.
    """
    for name, value in (
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2"),
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", "10"),
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"),  # with the password that is in it
        ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false"),
        ("DO_NOT_TRACK", "true"),
        ("GIT_PYTHON_REFRESH", "quiet"),
    ):
        os.environ.setdefault(name, value)
    try:
        Path.home()
    except RuntimeError:  # a container's uid without a name: MLflow is not even imported without a home
        home = Path(tempfile.gettempdir()) / f"home-{os.getuid()}"
        home.mkdir(mode=0o700, exist_ok=True)
        os.environ["HOME"] = str(home)
    for noisy in ("alembic", "mlflow.utils.environment"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # They log what they raise as well: database errors with a traceback, each try of a request.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


@contextmanager
def _first_use(folder: Path | None) -> Iterator[None]:
    """One process at a time makes the tables of the local store."""
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        stream = (folder / "lock").open("w")
    except PermissionError:  # a store that is only read here has its tables
        yield
        return
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
