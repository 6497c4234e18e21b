"""`videollava notify` at a real server: what is asked for, when, and how often."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

import flows.notify
from flows.deployed import retrain, sync
from flows.sync import Look, Outcome, ask_to_retrain, describe
from flows.triggers.branch import Start
from flows.triggers.runs import ask_for_run, check_deployment
from videollava import cli
from videollava.errors import InputError

PARAMS = """\
profile: tiny
sources:
  far: {kind: archive, format: auto, urls: ["s3://data/clips/"]}
  other: {kind: archive, format: auto, urls: ["s3://data/clips/x.tar"]}
"""
NOON = datetime(2031, 5, 1, 12, 0, 10, tzinfo=UTC)


@pytest.fixture
def server(prefect_api: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SyncPrefectClient]:
    """A client of a server with deployments sync/notified and retrain/notified; the current folder has sources."""
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(PARAMS)
    with temporary_settings({PREFECT_API_URL: prefect_api}), get_client(sync_client=True) as client:
        for flow in (sync, retrain):
            schema = flow.parameters.model_dump()
            client.create_deployment(client.create_flow(flow), "notified", parameter_openapi_schema=schema)
        yield client


@pytest.fixture
def notify(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command, given a body at a time; its exit status."""

    def run(*words: str, body: Any = "", at: datetime = NOON) -> int:
        text = body if isinstance(body, str) else json.dumps(body)
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        monkeypatch.setattr(flows.notify, "_now", lambda: at)
        return cli.main(["notify", "--deployment", "sync/notified", *words])

    return run


def event(key: str) -> dict[str, Any]:
    return {"Records": [{"s3": {"bucket": {"name": "data"}, "object": {"key": key}}}]}


def runs(client: SyncPrefectClient) -> list[FlowRun]:
    found = client.read_deployment_by_name("sync/notified")
    return [run for run in client.read_flow_runs() if run.deployment_id == found.id]


def test_events_of_a_minute_are_one_run_when_it_is_over(
    server: SyncPrefectClient, notify: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(10):
        at = NOON + timedelta(seconds=4 * number)
        assert notify(body=event(f"clips/{number}.tar"), at=at) == 0
    (run,) = runs(server)
    assert run.parameters == {"sources": ["far"]}
    assert run.next_scheduled_start_time == datetime(2031, 5, 1, 12, 1, tzinfo=UTC)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{run.name} was asked for: at 12:01:00 UTC it looks at far"
    assert set(said[1:]) == {f"{run.name} was asked for before and waits: at 12:01:00 UTC it looks at far"}
    # The next minute, other sources, and no word of which.
    assert notify(body=event("clips/10.tar"), at=NOON + timedelta(seconds=50)) == 0
    assert notify(body=event("clips/x.tar")) == 0
    assert notify("--source", "other", "--source", "far", body="not read") == 0
    assert notify() == 0
    assert sorted(
        (run.parameters["sources"], f"{run.next_scheduled_start_time:%H:%M}") for run in runs(server)
    ) == [([], "12:01"), (["far"], "12:01"), (["far"], "12:02"), (["far", "other"], "12:01")]
    assert "looks at all sources" in capsys.readouterr().out
    count = len(runs(server))
    assert notify(body=event("elsewhere/x")) == 0
    assert notify(body={"Event": "s3:TestEvent"}) == 0
    assert capsys.readouterr().out.splitlines() == [
        "nothing to look at: no source of params.yaml has s3://data/elsewhere/x",
        "nothing to look at: a test message",
    ]
    assert len(runs(server)) == count


def test_what_is_wrong_is_one_sentence(
    server: SyncPrefectClient, notify: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    for words, body, told in (
        ([], "hello", "standard input: 'hello' is not an event of S3"),
        ([], "x" * (1 << 21), "standard input: more than 1,048,576 characters; an event is shorter"),
        (["--source", "absent"], "", "params.yaml: sources: no 'absent'; there are: far, other"),
    ):
        assert notify(*words, body=body) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"videollava notify: {told}")
        assert said.count("\n") == 1


def test_a_deployment_that_is_not_there_or_takes_other_parameters(server: SyncPrefectClient) -> None:
    check_deployment("retrain/notified", {"commit": ""})
    with pytest.raises(InputError, match="no deployment retrain/absent; `prefect deploy --all` makes"):
        check_deployment("retrain/absent", {})
    with pytest.raises(InputError, match=r"deployment sync/notified has no parameter 'commit'"):
        check_deployment("sync/notified", {"commit": ""})
    for name in ("retrain", "retrain/", "/team", "a/b/c"):
        with pytest.raises(InputError, match="names no deployment: they are written FLOW/NAME"):
            check_deployment(name, {})
    with pytest.raises(InputError, match=r"Prefect's server refuses: .*HTTP 4\d\d"):
        ask_for_run("retrain/notified", {"commit": 3}, "wrong")
    first = ask_for_run("retrain/notified", {"commit": "abc"}, "once", label="sync-abc")
    again = ask_for_run("retrain/notified", {"commit": "abc"}, "once", label="sync-abc")
    assert (first.new, again.new) == (True, False)
    assert (again.identity, again.name) == (first.identity, first.name)
    assert first.name.startswith("sync-abc-")


def test_without_a_server_it_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert cli.main(["notify", "--source", "far"]) == 2
    assert "PREFECT_API_URL is http://127.0.0.1:9/api, but no server answers there" in capsys.readouterr().err
    away = temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"})
    with away, pytest.raises(InputError, match="Prefect's server does not answer"):
        check_deployment("retrain/x", {})


def test_a_retraining_that_a_killed_sync_owed_is_asked_for_once(server: SyncPrefectClient) -> None:
    start = Start("data/2031-05-02", "b" * 40, "data/2031-05-01", "5" * 40)
    outcome = Outcome(start, [Look("far", "archive")])
    first = ask_to_retrain(outcome, "retrain/notified")
    again = ask_to_retrain(outcome, "retrain/notified")
    assert first is not None
    assert again is not None
    assert (first.new, again.new, again.identity) == (True, False, first.identity)
    assert server.read_flow_run(first.identity).parameters["commit"] == "5" * 40
    quiet = (
        "nothing changed: 1 source as data/2031-05-01 has it, which main lacks "
        "(`git fetch origin && git merge origin/data/2031-05-01`)"
    )
    late = f"; {first.name} retrains, which a sync before was kept from asking for"
    assert describe(outcome, first, "main") == f"{quiet}{late}"
    assert describe(outcome, again, "main") == quiet
    assert ask_to_retrain(outcome, "") is None
    assert ask_to_retrain(Outcome(Start("data/2031-05-02", "b"), []), "retrain/notified") is None
