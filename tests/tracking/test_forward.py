"""Journals reach MLflow once and whole: after kills, after outages, from two processes at a time."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

import videollava.tracking.forward as forward
from videollava.params import Tracking
from videollava.tracking.forward import Follower, replay
from videollava.tracking.journal import Journal, open_journal
from videollava.tracking.store import connect, find_run

AT = Tracking()


def write_run(workspace: Path, steps: int = 20, parent: str = "") -> Journal:
    with open_journal(workspace / "runs", "finetune", "k" * 64) as journal:
        journal.start("finetune", {"finetune.epochs": "2"}, {"commit": "c0"}, parent, "k" * 64)
        for step in range(steps):
            journal.metrics(step, {"loss": 1 / (step + 1)})
        (workspace / "report.html").write_text("<p>report</p>")
        journal.artifact(workspace / "report.html")
        journal.tags({"stage_key": "s1"})
    return journal


def test_everything_arrives(workspace: Path) -> None:
    parent = Journal(workspace / "runs" / "retrain" / "p-001.jsonl", "the-parent")
    parent.start("retrain", {}, {})
    journal = write_run(workspace, parent="the-parent")
    parent.tags({"outcome.fetch@clips": "ran"})  # a letter that MLflow takes in no name
    parent.metrics(0, {"seconds.fetch@clips": 2.5})
    parent.link("fetch@clips", "k", "i")
    parent.end()
    done = replay(workspace, AT)
    assert (done.runs, done.pending, done.skipped, done.error) == (2, 0, 0, "")
    store = connect(workspace, AT)
    whole = store.client.get_run(find_run(store, journal="the-parent")).data
    assert whole.tags["outcome.fetch:clips"] == "ran"
    assert whole.tags["from_cache.fetch:clips"] == "unknown"
    assert whole.metrics["seconds.fetch:clips"] == 2.5
    run = store.client.get_run(find_run(store, journal=journal.identity))
    assert run.data.params == {"finetune.epochs": "2"}
    assert run.data.tags["commit"] == "c0"
    assert run.data.tags["mlflow.parentRunId"] == find_run(store, journal="the-parent")
    assert run.info.status == "FINISHED"
    assert [m.step for m in store.client.get_metric_history(run.info.run_id, "loss")] == list(range(20))
    assert [item.path for item in store.client.list_artifacts(run.info.run_id)] == ["report.html"]
    assert find_run(store, stage_key="s1") == run.info.run_id
    assert find_run(store, stage_key="other") == ""
    assert replay(workspace, AT).events == 0


class Killed(BaseException):
    pass


def test_a_replay_killed_anywhere_sends_nothing_twice(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = write_run(workspace)
    monkeypatch.setattr(forward, "read_events", lambda path, offset: _few(path, offset))
    for deaths in (("save", 1), ("create", 1), ("save", 3), ("batch", 2)):
        with monkeypatch.context() as patch:
            _die(patch, *deaths)
            with pytest.raises(Killed):
                replay(workspace, AT)
    assert replay(workspace, AT).pending == 0
    store = connect(workspace, AT)
    runs = store.client.search_runs([store.experiment])
    assert [run.data.tags["journal"] for run in runs] == [journal.identity]
    assert [m.step for m in store.client.get_metric_history(runs[0].info.run_id, "loss")] == list(range(20))
    assert runs[0].info.status == "FINISHED"


def _few(path: Path, offset: int):
    from videollava.tracking.journal import read_events

    return read_events(path, offset, limit=400)


def _die(patch: pytest.MonkeyPatch, where: str, after: int) -> None:
    """Kill the replay at the n-th saved state, created run or sent batch, after it was done there."""
    count = [after]

    def dying(original):
        def call(*args, **kwargs):
            result = original(*args, **kwargs) if where != "save" else None
            count[0] -= 1
            if not count[0]:
                raise Killed
            return original(*args, **kwargs) if where == "save" else result

        return call

    owner, name = {
        "save": (forward._State, "save"),
        "create": (forward, "_find_or_create"),
        "batch": (forward, "_log"),
    }[where]
    patch.setattr(owner, name, dying(getattr(owner, name)))
    if where == "create":  # only reached while nobody knows the run
        patch.setattr(forward, "_load_state", lambda path: forward._State(path))


def test_a_dead_server_stops_nothing_and_misses_nothing(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        dead = Tracking(uri=f"http://127.0.0.1:{probe.getsockname()[1]}")
    follower = Follower(workspace, dead, interval=0.01)
    follower.start()
    journal = write_run(workspace)
    lost = follower.stop()
    assert lost.error
    assert replay(workspace, dead).pending > 0
    assert replay(workspace, AT).pending == 0
    store = connect(workspace, AT)
    assert find_run(store, journal=journal.identity)


def test_a_follower_sends_while_the_run_goes_on(workspace: Path) -> None:
    store = connect(workspace, AT)
    follower = Follower(workspace, AT, interval=0.01)
    follower.start()
    with open_journal(workspace / "runs", "align", "k") as journal:
        journal.start("align", {}, {})
        journal.metrics(0, {"loss": 1.0})
        for _ in range(2000):
            if run_id := find_run(store, journal=journal.identity):
                break
        assert store.client.get_run(run_id).info.status == "RUNNING"
    assert follower.stop().error == ""
    assert store.client.get_run(run_id).info.status == "FINISHED"


def test_what_mlflow_refuses_for_good_is_counted_and_the_rest_arrives(workspace: Path) -> None:
    with open_journal(workspace / "runs", "align", "k") as journal:
        journal.start("align", {}, {})
        journal.metrics(0, {"loss": 1.0, "bad*name?": 2.0, "nan": float("nan")})
        journal.artifact(workspace / "not there")
        with journal.path.open("a") as stream:
            stream.write("torn\n")
    done = replay(workspace, AT)
    assert (done.skipped, done.pending, done.error) == (3, 0, "")
    store = connect(workspace, AT)
    run = store.client.get_run(find_run(store, journal=journal.identity))
    assert run.data.metrics["loss"] == 1.0
    assert "nan" in run.data.metrics


def test_a_deleted_run_is_sent_again(workspace: Path) -> None:
    journal = write_run(workspace)
    replay(workspace, AT)
    store = connect(workspace, AT)
    (state,) = (workspace / "runs" / "finetune").glob("*.json")
    state.write_text(json.dumps({**json.loads(state.read_text()), "run_id": "0" * 32, "offset": 0}))
    assert "0000" in replay(workspace, AT).error
    assert replay(workspace, AT).pending == 0
    assert len(store.client.search_runs([store.experiment])) == 1
    assert find_run(store, journal=journal.identity)


def test_restored_stages_name_the_run_that_made_them(workspace: Path) -> None:
    made = write_run(workspace)
    with open_journal(workspace / "runs", "retrain", "p") as parent:
        parent.start("retrain", {}, {})
        parent.link("finetune", "s1", "k" * 64)
        parent.link("align", "s2", "none")
    replay(workspace, AT)
    store = connect(workspace, AT)
    tags = store.client.get_run(find_run(store, journal=parent.identity)).data.tags
    assert tags["from_cache.align"] == "unknown"
    assert tags["from_cache.finetune"] == find_run(store, journal=made.identity)
