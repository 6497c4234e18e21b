"""Before the first stage: a tracker that refuses for good ends the retraining, one that is away does not."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from flows.session import open_session
from videollava.errors import InputError
from videollava.params import Tracking, load_params
from videollava.tracking.store import connect


def check(root: Path, tracking: Tracking | None = None) -> str:
    params = load_params(root / "params.yaml")
    with open_session(root, params.replace(tracking=tracking) if tracking else params) as session:
        return session.check_tracking()


def test_a_tracker_that_takes_everything_has_the_parameters_of_the_start(workspace: Path) -> None:
    assert check(workspace) == ""
    store = connect(workspace, Tracking())
    (run,) = store.client.search_runs([store.experiment])
    assert run.info.status == "FINISHED"
    assert [item.path for item in store.client.list_artifacts(run.info.run_id, "start")] == [
        "start/params.yaml"
    ]


def test_a_deleted_experiment_ends_it_with_the_remedy(workspace: Path) -> None:
    store = connect(workspace, Tracking())
    store.client.delete_experiment(store.experiment)
    with pytest.raises(InputError, match=r"was deleted: restore it.*nothing was trained"):
        check(workspace)


def test_a_store_that_takes_no_artifacts_ends_it(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    def refuse(*_: Any) -> None:
        raise PermissionError("[Errno 13] Permission denied: '/mlartifacts'")

    monkeypatch.setattr(MlflowClient, "log_artifact", refuse)
    with pytest.raises(InputError, match=r"Permission denied.*nothing was trained.*takes no artifacts"):
        check(workspace)


def test_a_server_that_is_away_is_a_warning(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        away = Tracking(uri=f"http://me:hunter2@127.0.0.1:{probe.getsockname()[1]}")
        told = check(workspace, away)
    assert "MLflow was not reached" in told
    assert "`videollava track` sends them" in told
    assert "hunter2" not in told
