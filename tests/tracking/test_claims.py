"""Registered twice, at once, or after a kill between any two calls: one version, and nothing half made beside it."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from videollava.params import Params
from videollava.registry import list_versions, open_store, register, resolve

# What changes the store: each is a place to be killed before.
WRITES = {
    "mlflow.store.tracking.sqlalchemy_store.SqlAlchemyStore": (
        "create_run",
        "update_run_info",
        "log_metric",
        "create_logged_model",
        "log_logged_model_params",
        "set_logged_model_tags",
        "finalize_logged_model",
        "record_logged_model",
    ),
    "mlflow.store.model_registry.sqlalchemy_store.SqlAlchemyStore": (
        "create_registered_model",
        "create_model_version",
        "delete_model_version_tag",
    ),
    "mlflow.store.artifact.local_artifact_repo.LocalArtifactRepository": ("log_artifact", "log_artifacts"),
}
POINTS = 11
KILLED = 9


def _register(workspace: Path, params: Params, kill_at: int, count: Any) -> None:
    """Register, and end at the `kill_at`-th write without a goodbye."""
    from importlib import import_module

    def stop_before(owner: type, name: str) -> None:
        call = getattr(owner, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            count.value += 1
            if count.value == kill_at:
                os._exit(KILLED)
            return call(*arguments, **options)

        setattr(owner, name, counted)

    for place, names in WRITES.items():
        module, _, owner = place.rpartition(".")
        for name in names:
            if hasattr(getattr(import_module(module), owner), name):
                stop_before(getattr(import_module(module), owner), name)
    register(workspace, params)


def _left(workspace: Path, params: Params) -> tuple[list[int], list[str]]:
    """Numbers of versions, and the ids of logged models that can be seen."""
    store = open_store(workspace, params.tracking)
    numbers = [version.number for version in list_versions(workspace, params.tracking, store)]
    logged = [model.model_id for model in store.client.search_logged_models([str(store.experiment)])]
    return numbers, logged


@pytest.mark.parametrize("kill_at", range(1, POINTS + 1))
def test_a_kill_between_any_two_calls_leaves_one_version_after_a_retry(
    workspace: Path, params: Params, trained, kill_at: int
) -> None:
    trained("first", 90.0)
    context = multiprocessing.get_context("fork")
    count = context.Value("i", 0)
    process = context.Process(target=_register, args=(workspace, params, kill_at, count))
    process.start()
    process.join(60)
    assert process.exitcode == KILLED, f"only {count.value} writes: lower POINTS"
    version, _ = register(workspace, params)
    again, new = register(workspace, params)
    numbers, logged = _left(workspace, params)
    assert not new
    assert numbers == [version.number] == [again.number]
    assert len(logged) == 1
    assert (
        resolve(version.reference, workspace, params.tracking) / "model.safetensors"
    ).read_text() == "first"
    store = open_store(workspace, params.tracking)
    item = store.client.get_model_version(version.name, str(version.number))
    assert item.source == f"models:/{logged[0]}"
    assert "unsettled" not in item.tags
    assert {run.info.status for run in store.client.search_runs([store.experiment])} == {"FINISHED"}


def _race(workspace: Path, params: Params, start: Any, results: Any) -> None:
    open_store(workspace, params.tracking)
    start.wait()
    version, new = register(workspace, params)
    results.put((version.number, new))


def test_two_who_register_the_same_at_once_get_one_version(workspace: Path, params: Params, trained) -> None:
    trained("first", 90.0)
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(3), context.Queue()
    racers = [
        context.Process(target=_race, args=(workspace, params, start, results)) for _ in range(start.parties)
    ]
    for racer in racers:
        racer.start()
    got = [results.get(timeout=120) for _ in racers]
    for racer in racers:
        racer.join(60)
    numbers, logged = _left(workspace, params)
    assert numbers == [got[0][0]]
    assert {number for number, _ in got} == set(numbers)
    assert sum(new for _, new in got) == 1
    assert len(logged) == 1


def test_two_who_take_a_mark_away_in_one_moment(
    workspace: Path, params: Params, trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both saw it; the database refuses whoever finds nothing any more."""
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    trained("first", 90.0)
    taken = SqlAlchemyStore.delete_model_version_tag
    asked: list[str] = []

    def take_twice(self: Any, name: str, version: str, key: str) -> None:
        asked.append(key)
        taken(self, name, version, key)
        if len(asked) == 1:
            raise MlflowException("DELETE statement on table expected to delete 1 row(s); 0 were matched.")

    monkeypatch.setattr(SqlAlchemyStore, "delete_model_version_tag", take_twice)
    version, new = register(workspace, params)
    assert new
    assert len(asked) == 2
    assert _left(workspace, params)[0] == [version.number]


def test_a_try_that_lost_while_it_was_under_way_returns_the_winner(
    workspace: Path, params: Params, trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The winner clears away the loser's half-made model: the loser's next call is refused."""
    import videollava.registry.logged as module

    trained("first", 90.0)
    pins, made = module.pin_requirements, []

    def pin_late() -> list[str]:
        monkeypatch.setattr(module, "pin_requirements", pins)
        winner = threading.Thread(target=lambda: made.append(register(workspace, params)))
        winner.start()
        winner.join(60)
        return pins()

    monkeypatch.setattr(module, "pin_requirements", pin_late)
    version, new = register(workspace, params)
    assert made[0] == (version, True)
    assert not new
    assert _left(workspace, params)[0] == [version.number]
