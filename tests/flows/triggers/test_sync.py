"""A real server, a worker, S3 and a bare origin: an object comes, its lock goes to data/<date>, a retraining is asked
for once; and what goes wrong is said to a real receiver of notices.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from seaweed import KEY, SECRET, Seaweed

from flows.servers.server import start_server
from videollava.process import Supervised

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).resolve().parents[3]
SOURCES = {
    "drawn": {"kind": "generated", "format": "clips", "train": 4, "test": 2, "seed": 1},
    "far": {"kind": "archive", "format": "auto", "urls": ["s3://data/clips/"]},
}
PATIENCE = 180.0  # seconds for a run


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    line = ["git", *who, *words]
    return subprocess.run(line, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@dataclass
class Team:
    """A lead's checkout and a worker's, both of `origin`; a store, a server, and what the receiver of notices got."""

    lead: Path
    store: Any
    client: SyncPrefectClient
    environment: dict[str, str]
    notices: list[dict[str, Any]]
    seen: list[str] = field(default_factory=list)

    def run(self, *words: str, given: str = "") -> str:
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=self.lead,
            env={**self.environment, "PYTHONPATH": str(self.lead)},
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def sync(self) -> FlowRun:
        """A sync that a person asks for, over."""
        self.run("prefect", "deployment", "run", "sync/team")
        return self.finished(1)[0]

    def finished(self, least: int) -> list[FlowRun]:
        """The new runs of sync that were begun, once all are over and there are so many at least."""
        until = time.monotonic() + PATIENCE
        while True:
            runs = [
                run for run in self.runs("sync") if str(run.id) not in self.seen and not run.auto_scheduled
            ]
            if len(runs) >= least and all(run.state and run.state.is_final() for run in runs):
                self.seen += [str(run.id) for run in runs]
                return runs
            assert time.monotonic() < until, [(run.name, run.state) for run in runs]
            time.sleep(0.5)

    def runs(self, flow: str) -> list[FlowRun]:
        (one,) = [found for found in self.client.read_flows() if found.name == flow]
        return [run for run in self.client.read_flow_runs() if run.flow_id == one.id]

    def page(self, run: FlowRun) -> str:
        """The page of a run of sync."""
        (found,) = [
            one for one in self.client.read_artifacts() if one.flow_run_id == run.id and one.key == "sync"
        ]
        return str(found.data)

    def show(self, what: str) -> str:
        return git(self.lead, f"--git-dir={self.lead.parent / 'origin.git'}", *what.split())


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Team]:
    with ExitStack() as stack:
        seaweed = Seaweed(_make(tmp_path / "seaweed"))
        stack.callback(seaweed.stop)
        seaweed.start()
        store = seaweed.client()
        store.create_bucket(Bucket="data")
        store.put_bucket_versioning(Bucket="data", VersioningConfiguration={"Status": "Enabled"})
        lead = _lay_out(tmp_path)
        server = stack.enter_context(start_server(_make(tmp_path / "server"), grace=3.0))
        address, notices = _receive(stack)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
            # A deployment with a `pull` runs the `python` of the worker's PATH.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PREFECT_API_URL": server.url,
            "PREFECT_HOME": str(tmp_path / "client"),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "DVC_SITE_CACHE_DIR": str(tmp_path / "site"),
            "AWS_ENDPOINT_URL": seaweed.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "VIDEOLLAVA_WEBHOOK": address,
        }
        server.wait()
        stack.enter_context(temporary_settings({PREFECT_API_URL: server.url}))
        client = stack.enter_context(get_client(sync_client=True))
        made = Team(lead, store, client, environment, notices)
        _deploy(made)
        worker = tmp_path / "worker"
        with (tmp_path / "worker.log").open("wb") as log:
            line = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "team", "--type", "process"]
            here = {**environment, "PYTHONPATH": str(worker), "VIDEOLLAVA_HOME": str(worker)}
            stack.enter_context(Supervised(line, worker, here, log.fileno(), 10.0))
            yield made


def _make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _lay_out(tmp_path: Path) -> Path:
    """`origin` with these sources, and the checkouts `lead` and `worker` of it."""
    lead = tmp_path / "lead"
    for name in git(REPOSITORY, "ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (REPOSITORY / name).is_file() and name != "dvc.lock":
            (lead / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, lead / name)
    have(lead, SOURCES)
    for name in ("easy_vqa", "toy_clips"):
        (lead / f"locks/{name}.json").unlink()
    (lead / "locks/drawn.json").write_text(
        '{"source": {"kind": "generated", "seed": 1, "test": 2, "train": 4},\n "files": [ ]}\n'
    )
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", "origin.git")
    git(lead, "init", "--quiet", "--initial-branch=main")
    git(lead, "remote", "add", "origin", str(tmp_path / "origin.git"))
    push(lead, "start")
    git(tmp_path, "clone", "--quiet", "--depth=1", (tmp_path / "origin.git").as_uri(), "worker")
    return lead


def have(lead: Path, sources: dict[str, Any]) -> None:
    file = lead / "params.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "sources": sources}, sort_keys=False))


def push(lead: Path, message: str) -> None:
    git(lead, "add", "-A")
    git(lead, "commit", "--quiet", "-m", message)
    git(lead, "push", "--quiet", "origin", "HEAD:main")


def _receive(stack: ExitStack) -> tuple[str, list[dict[str, Any]]]:
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    return f"http://127.0.0.1:{server.server_address[1]}/hooks/T0KENT0KEN", got


def _deploy(team: Team) -> None:
    """prefect.yaml's; retrainings wait in a pool that nobody works on."""
    file = team.lead / "prefect.yaml"
    text = file.read_text()
    told = yaml.safe_load(text)
    told["deployments"] = [one for one in told["deployments"] if one["entrypoint"].endswith(":sync")]
    waiting = {"name": "team", "entrypoint": "flows/deployed.py:retrain", "work_pool": {"name": "idle"}}
    told["deployments"].append(waiting)
    file.write_text(yaml.safe_dump(told))
    for pool in ("team", "idle"):
        team.run("prefect", "work-pool", "create", pool, "--type", "process")
    team.run("prefect", "--no-prompt", "deploy", "--all")
    file.write_text(text)


def test_an_object_that_comes_is_locked_on_a_branch_and_retrained_once(team: Team) -> None:
    today = f"data/{datetime.now(UTC):%Y-%m-%d}"
    main = team.show("rev-parse main")
    team.store.put_object(Bucket="data", Key="clips/a.tar", Body=b"a" * 100)

    first = team.sync()
    assert first.state is not None
    assert first.state.is_completed(), first.state.message
    commit = team.show(f"rev-parse {today}")
    assert str(first.state.message).startswith(f"{today} at {commit[:12]}: far: 1 new (a.tar); sync-")
    assert team.show("rev-parse main") == main
    assert team.show(f"diff --name-only main {today}") == "locks/far.json"
    (file,) = json.loads(team.show(f"show {today}:locks/far.json"))["files"]
    assert (file["name"], file["size"], file["seen"]) == ("a.tar", 100, 1)
    assert not file["version"].startswith('"')  # the bucket keeps versions: an id, and no ETag
    (asked,) = team.runs("retrain")
    assert asked.parameters["commit"] == commit
    (notice,) = team.notices
    assert (notice["event"], notice["reasons"]) == ("data", ["far: 1 new (a.tar)"])
    assert f"`git fetch origin && git merge origin/{today}` takes it into main" in notice["text"]
    page = team.page(first)
    assert f"git merge origin/{today} && git push origin main" in page
    assert "| drawn | generated | as before |" in page
    assert SECRET not in page

    second = team.sync()
    assert second.state is not None
    assert second.state.message == (
        f"nothing changed: 2 sources as {today} has them, which main lacks "
        f"(`git fetch origin && git merge origin/{today}`)"
    )
    assert (len(team.runs("retrain")), len(team.notices)) == (1, 1)

    _ten_events_are_one_or_two_syncs(team, today, commit)
    _a_silent_source_keeps_no_other(team, today)


def _ten_events_are_one_or_two_syncs(team: Team, today: str, before: str) -> None:
    minutes = set()
    for number in range(10):
        key = f"clips/new {number}.tar"
        team.store.put_object(Bucket="data", Key=key, Body=b"b")
        event = {"s3": {"bucket": {"name": "data"}, "object": {"key": key.replace(" ", "+")}}}
        told = team.run("videollava", "notify", given=json.dumps({"Records": [event]}))
        assert "it looks at far" in told
        minutes.add(told.partition(" UTC ")[0][-8:])
    other = {"s3": {"bucket": {"name": "data"}, "object": {"key": "elsewhere/x"}}}
    told = team.run("videollava", "notify", given=json.dumps({"Records": [other]}))
    assert told == "nothing to look at: no source of params.yaml has s3://data/elsewhere/x\n"
    runs = team.finished(len(minutes))
    assert len(runs) == len(minutes)  # one or two, where this machine has nothing else to do
    assert {run.parameters["sources"][0] for run in runs} == {"far"}
    locked = json.loads(team.show(f"show {today}:locks/far.json"))["files"]
    assert [file["name"] for file in locked] == ["a.tar", *(f"new {number}.tar" for number in range(10))]
    commits = team.show(f"rev-list --first-parent {before}..{today}").splitlines()
    assert len(commits) <= len(runs)
    asked = {run.parameters["commit"] for run in team.runs("retrain")}
    assert asked == {before, *commits}
    assert len(team.runs("retrain")) == len(asked)


def _a_silent_source_keeps_no_other(team: Team, today: str) -> None:
    gone = {"kind": "archive", "format": "auto", "urls": ["s3://no-such-bucket/x/"]}
    have(team.lead, {"gone": gone, **SOURCES})
    push(team.lead, "a source that is not there")
    team.store.delete_object(Bucket="data", Key="clips/a.tar")
    count = len(team.notices)
    (run,) = [team.sync()]
    assert run.state is not None
    assert run.state.is_failed()
    assert str(run.state.message).startswith("gone could not be looked at (the others were): params.yaml: ")
    assert "no-such-bucket" in str(run.state.message)
    assert [notice["event"] for notice in team.notices[count:]] == ["data", "failed"]
    assert "sync failed: gone could not be looked at" in team.notices[-1]["text"]
    commit = team.show(f"rev-parse {today}")
    assert "a.tar" not in [
        file["name"] for file in json.loads(team.show(f"show {commit}:locks/far.json"))["files"]
    ]
    assert "no-such-bucket" in team.show(f"show {commit}:params.yaml")  # main was merged into it
    assert commit in {run.parameters["commit"] for run in team.runs("retrain")}
    assert "| gone | archive | **not seen**: params.yaml" in team.page(run)
