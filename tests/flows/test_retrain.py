"""`make retrain` end to end, with a real Prefect server, DVC and MLflow: a toy graph, and ours on micro parameters."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.history.keep import make_up
from videollava.params import Tracking, load_params
from videollava.registry import champion, list_versions
from videollava.tracking.store import connect

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = ["clips", "pictures_align"]
STAGES = [
    *(f"{stage}@{source}" for stage in ("fetch", "shards") for source in SOURCES),
    *("index", "bases", "align", "pretrain", "finetune", "evaluate"),
]
# As `python -m flows.retrain`, but blind to a server that happens to run on this machine.
MAIN = (
    "import sys; import flows.servers.server as s; s.LOCAL = 'http://127.0.0.1:9/api'\n"
    "from flows.local import main; sys.exit(main())"
)


def start(checkout: Path, code: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(code), "PREFECT_HOME": str(checkout.parent / "no-profile")}
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "VIDEOLLAVA_FOLLOWED"):
        environment.pop(name, None)
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments],
        cwd=checkout,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def retrain(checkout: Path, code: Path, *arguments: str) -> str:
    running = start(checkout, code, *arguments)
    output, _ = running.communicate()
    assert running.returncode == 0, output
    return output


def git(folder: Path, *arguments: str) -> str:
    line = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(line, cwd=folder, check=True, capture_output=True, text=True).stdout


def runs_of(checkout: Path) -> dict[str, list[str]]:
    """Status of every MLflow run, by name."""
    store = connect(checkout, Tracking())
    found: dict[str, list[str]] = {}
    for run in store.client.search_runs([store.experiment]):
        found.setdefault(run.info.run_name, []).append(run.info.status)
    return found


def tasks_of(checkout: Path) -> list[tuple[str, str]]:
    """(name, state) of Prefect's task runs, in order."""
    with sqlite3.connect(checkout / ".prefect" / "prefect.db") as database:
        rows = database.execute("select name, state_type from task_run order by start_time").fetchall()
    database.close()
    return rows


def page_of(checkout: Path, key: str) -> str:
    """The newest artifact of that key on Prefect's pages."""
    with sqlite3.connect(checkout / ".prefect" / "prefect.db") as database:
        rows = database.execute("select data from artifact where key = ? order by created", [key]).fetchall()
    database.close()
    return str(json.loads(rows[-1][0]))


def test_a_killed_flow_leaves_nothing_and_goes_on(
    workspace: Path,
    mentions: Callable[[str], list[int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    git(tmp_path, "init", "--quiet", "--bare", "shared.git")
    git(workspace, "remote", "add", "shared", str(tmp_path / "shared.git"))
    (tmp_path / "machine.yaml").write_text("push_to: shared\n")
    monkeypatch.setenv("VIDEOLLAVA_MACHINE", str(tmp_path / "machine.yaml"))
    (workspace / "hang").touch()
    running = start(workspace, REPOSITORY)
    deadline = time.monotonic() + 500
    while not (workspace / "hanging").exists():
        assert running.poll() is None, running.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    (workspace / "hang").unlink()
    output = retrain(workspace, REPOSITORY)
    assert mentions(str(workspace)) == []
    assert "fetch       unchanged" in output
    assert "finetune    ran" in output
    assert "model models:/videollava/1 (new) @champion" in output
    page = page_of(workspace, "retraining")
    assert page.startswith("# videollava 1: passed the gate, and is champion\n")
    assert "Unchanged, so not run: fetch." in page
    table = page_of(workspace, "retrainings")
    assert [line.split(" | ")[2] for line in table.split("\n")[4:6]][1:] == ["ended"]
    assert runs_of(workspace) == {
        "retrain": ["FINISHED", "KILLED"],
        "fetch": ["FINISHED"],
        "finetune": ["FINISHED"],
        "evaluate": ["FINISHED"],
    }
    (made,) = (workspace / "runs" / "finetune").glob("*.jsonl")
    assert made.read_text().count('"start"') == 2
    assert git(workspace, "status", "--short").split() == ["??", "dvc.lock"]
    (version,) = list_versions(workspace, Tracking())
    assert (
        git(workspace, "rev-parse", version.saved_ref, "refs/videollava/model/videollava/1").split()
        == [version.saved] * 2
    )
    assert git(tmp_path / "shared.git", "for-each-ref", "--format=%(refname)").split() == [version.saved_ref]
    told = json.loads(git(workspace, "show", f"{version.saved}:made.json"))
    assert set(told["hours"]) == set(told["runs"]) == {"fetch", "finetune", "evaluate"}
    assert told["retraining_run"] == version.run_id
    git(workspace, "update-ref", "-d", version.saved_ref)
    git(workspace, "update-ref", "-d", "refs/videollava/model/videollava/1")
    git(workspace, "gc", "--quiet", "--prune=now")  # as if the clone it was made in were gone
    # Nothing is stale now: no server, no version.
    shutil.rmtree(workspace / ".prefect")
    again = retrain(workspace, REPOSITORY)
    assert "nothing to retrain" in again
    assert "model models:/videollava/1 @champion" in again
    assert not (workspace / ".prefect" / "prefect.db").exists()
    (version,) = list_versions(workspace, Tracking())
    assert f"version 1 is saved as {version.saved[:12]}" in again
    assert git(workspace, "rev-parse", "refs/videollava/model/videollava/1").strip() == version.saved
    monkeypatch.chdir(workspace)
    assert make_up(workspace, load_params(), version) == []  # once is enough
    git(
        workspace, "update-ref", "-d", "refs/videollava/model/videollava/1"
    )  # as if killed before it was named
    assert make_up(workspace, load_params(), version) == [f"version 1 is saved as {version.saved[:12]}"]
    assert git(workspace, "rev-parse", "refs/videollava/model/videollava/1").strip() == version.saved
    assert len(list_versions(workspace, Tracking())) == 1


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This repository's files as they are now, committed in a repository of their own."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    folder = tmp_path / "checkout"
    for name in git(REPOSITORY, "ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (REPOSITORY / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    git(folder, "init", "--quiet")
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", "start")
    return folder


def test_the_whole_pipeline_on_micro_parameters(
    checkout: Path, mentions: Callable[[str], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "tests" / "train"))
    from micro import MICRO, sources

    (checkout / "gate.yaml").write_text("videollava: {minimum_over_blind: -100.0}\n")
    git(checkout, "commit", "--quiet", "-am", "loosen the gate")
    settings = [*MICRO, sources(checkout.parent / "pictures", ["align"])]
    output = retrain(checkout, checkout, *(word for item in settings for word in ("--set", item)))
    for stage in STAGES:
        assert f"\n{stage} " in output
    assert output.count(" ran  ") == len(STAGES)
    assert "toy_video_qa" in output
    assert "model models:/videollava/1 (new) @champion" in output
    assert mentions(str(checkout)) == []
    changed = git(checkout, "status", "--short").split("\n")
    assert {line[3:] for line in changed if line} == {
        *("dvc.yaml", "params.yaml", "dvc.lock"),
        *(f"locks/{source}.json" for source in SOURCES),
    }
    assert runs_of(checkout) == {name: ["FINISHED"] for name in ("retrain", *STAGES)}
    tasks = tasks_of(checkout)
    assert {state for _, state in tasks} == {"COMPLETED"}
    # When outputs are sent goes by how long the stages before took.
    names = [name for name, _ in tasks if not name.startswith("send ")]
    assert names == [*STAGES, "save", "register", "tag", "gate", "promote"]
    version = champion(checkout, Tracking())
    assert version.lineage.commit == git(checkout, "rev-parse", "HEAD").strip()
    assert "toy_video_qa" in version.metrics
    again = retrain(checkout, checkout)
    assert "nothing to retrain" in again
    ask = (
        "import mlflow, sys; mlflow.set_tracking_uri(sys.argv[1]);"
        "m = mlflow.pyfunc.load_model('models:/videollava@champion');"
        "print(m.predict([{'question': 'what shape is it?'}]))"
    )
    uri = connect(checkout, Tracking()).uri
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ask, uri],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("['", '["'))
