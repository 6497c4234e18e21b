"""From an object in S3 to a new version, by a team's own deployments: notify, sync/team, retrain/team, stage/data,
stage/gpu, stage/eval, sweep/team, each by a worker in a checkout of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from seaweed import KEY, SECRET, Seaweed

pytestmark = pytest.mark.slow
HERE = Path(__file__).resolve().parent
WEBHOOK = """\
[notification.webhook]
enabled = true
endpoint = "{}"
path_prefixes = ["/buckets/data/"]
"""
PARAMS = '{kind: archive, format: auto, urls: ["s3://data/clips/"]}'
# The real fetch, of a source of S3; what comes after it reads the names of its files.
FETCH = """
def fetch():
    from videollava.data.acquire.fetch import fetch_source

    lock = fetch_source(params.sources["toy"], root)
    (root / "data/raw/toy/clips").write_text(" ".join(file.name for file in lock.files))


"""


@pytest.fixture
def posted() -> Iterator[tuple[str, dict[str, list[Any]]]]:
    """An address, and what was posted below it, by path."""
    got: dict[str, list[Any]] = {"/store": [], "/people": []}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got[self.path].append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", got
    server.shutdown()
    server.server_close()


@pytest.fixture
def ground(
    tmp_path: Path, posted: tuple[str, dict[str, list[Any]]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """The team of tests/flows/team, whose one source lies in a store that tells of its objects; `store` is a client."""
    monkeypatch.syspath_prepend(str(HERE.parent / "team"))
    from ground import MACHINE, team

    with ExitStack() as stack:
        folder = tmp_path / "store"
        folder.mkdir()
        (folder / "notification.toml").write_text(WEBHOOK.format(f"{posted[0]}/store"))
        seaweed = Seaweed(folder)
        with monkeypatch.context() as patch:
            patch.chdir(folder)  # where it looks for its settings
            seaweed.start()
        stack.callback(seaweed.stop)
        base = {
            **os.environ,
            "AWS_ENDPOINT_URL": seaweed.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "TEAM_HOOK": f"{posted[0]}/people",
        }
        made = stack.enter_context(team(tmp_path / "team", ("team", "data", "gpu", "eval"), base))
        (made.folder / "worker-team/machine.yaml").write_text(MACHINE.replace("eval: gpu", "eval: eval"))
        _change(made.folder / "lead")
        made.store = seaweed.client()
        made.store.create_bucket(Bucket="data")
        yield made


def _change(lead: Path) -> None:
    """Origin's main with the source, and somebody to tell."""
    params, stage = lead / "params.yaml", lead / "stage.py"
    toy = "{kind: generated, format: clips, train: 4, test: 2, seed: 1}"
    params.write_text(params.read_text().replace(toy, PARAMS))
    before, _, rest = stage.read_text().partition("\ndef fetch():")
    stage.write_text(before + FETCH + rest[rest.index("def shards") :])
    (lead / "locks/toy.json").write_text('{"source": {},\n "files": [ ]}\n')
    gate = "{benchmarks: {easy_vqa: {minimum: 50.0}}, notify: [TEAM_HOOK]}"
    (lead / "gate.yaml").write_text(f"videollava: {gate}\n")
    git(lead, "commit", "--quiet", "--all", "-m", "a source in the store")
    git(lead, "push", "--quiet", "origin", "HEAD:main")


def git(folder: Path, *words: str) -> str:
    line = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *words]
    return subprocess.run(line, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def call(ground: Any, *words: str, body: Any = "") -> str:
    """A program, in the lead's checkout; what it said."""
    lead = ground.folder / "lead"
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=lead,
        env={**ground.environment, "PYTHONPATH": str(lead)},
        input=json.dumps(body),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def notify(ground: Any, body: Any) -> str:
    return call(ground, "videollava", "notify", body=body)


def put(ground: Any, key: str, told: list[Any]) -> dict[str, Any]:
    """An object in the store; what the store tells of it, of itself."""
    ground.store.put_object(Bucket="data", Key=key, Body=key.encode())
    until = time.monotonic() + 60
    while not (found := [one for one in told if one["key"].endswith(key)]):
        assert time.monotonic() < until, told
        time.sleep(0.1)
    return dict(found[0])


def asked_for(ground: Any, flow: str, known: list[str]) -> dict[str, Any]:
    """The one run of a flow that is new, over."""
    until = time.monotonic() + 240
    while not (
        found := [run for run in ground.runs(flow) if run["id"] not in known and not run["auto_scheduled"]]
    ):
        assert time.monotonic() < until
        time.sleep(0.5)
    (run,) = found
    known.append(run["id"])
    return dict(ground.wait(run["id"], seconds=600)[0])


def test_an_object_becomes_a_version(ground: Any, posted: tuple[str, dict[str, list[Any]]]) -> None:
    today, known = f"data/{datetime.now(UTC):%Y-%m-%d}", []
    main = git(ground.origin, "rev-parse", "main")

    assert "it looks at toy" in notify(ground, put(ground, "clips/a.tar", posted[1]["/store"]))
    looked = asked_for(ground, "sync", known)
    assert looked["state_type"] == "COMPLETED", looked["state"]
    commit = git(ground.origin, "rev-parse", today)
    assert f"{today} at {commit[:12]}: toy: 1 new (a.tar)" in looked["state"]["message"]
    made = asked_for(ground, "retrain", known)
    assert made["parameters"]["commit"] == commit
    assert made["state_type"] == "COMPLETED", made["state"]
    first = [line.split()[0] for line in ground.ran()]
    assert first == ["fetch@toy", "shards@toy", "finetune", "evaluate"]
    places = {run["work_pool_name"] for run in ground.runs("stage")}
    assert places == {"data", "gpu", "eval"}
    assert {run["state_type"] for run in ground.runs("stage")} == {"COMPLETED"}

    # A second one: only new names, so all that reads them; the day's branch grows, and main is where it was.
    notify(ground, put(ground, "clips/b.tar", posted[1]["/store"]))
    looked = asked_for(ground, "sync", known)
    assert "toy: 1 new (b.tar)" in looked["state"]["message"]
    second = asked_for(ground, "retrain", known)
    assert second["state_type"] == "COMPLETED", second["state"]
    assert second["parameters"]["commit"] == git(ground.origin, "rev-parse", today)
    assert git(ground.origin, "rev-list", "--count", f"main..{today}") == "2"
    assert git(ground.origin, "rev-parse", "main") == main
    assert [line.split()[0] for line in ground.ran()[len(first) :]][:2] == ["fetch@toy", "shards@toy"]

    # Merged by a person, and looked at again: nothing.
    lead = ground.folder / "lead"
    git(lead, "fetch", "--quiet", "origin")
    git(lead, "merge", "--quiet", f"origin/{today}")
    git(lead, "push", "--quiet", "origin", "HEAD:main")
    call(ground, "prefect", "deployment", "run", "sync/team")
    quiet = asked_for(ground, "sync", known)
    assert quiet["state"]["message"] == "nothing changed: 1 source as main has it"
    assert len(ground.runs("retrain")) == 2
    told = [notice["event"] for notice in posted[1]["/people"]]
    assert told[:2] == ["data", "moved"]
    assert told.count("data") == 2
    assert not {"failed", "ceiling"} & set(told)

    # Nothing was left over.
    call(ground, "prefect", "deployment", "run", "sweep/team")
    swept = asked_for(ground, "sweep", known)
    assert swept["state_type"] == "COMPLETED", swept["state"]
