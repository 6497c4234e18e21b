"""The whole stack, as people use it: a team's retraining from a third folder, parts killed, all of it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from ground import git, make_origin

from flows.stack import asking, programs
from flows.stack.ground import lay_ground
from flows.stack.orchestrator import api, login
from flows.stack.part import Place
from flows.stack.stack import Stack, running_stack
from videollava.errors import InputError

pytestmark = pytest.mark.slow
BESIDE = Path(sys.executable).parent
LEAD = """\
import sys
import mlflow
from mlflow import MlflowClient
version = MlflowClient().get_model_version_by_alias("videollava", "champion")
print(version.version, MlflowClient().get_run(version.run_id).info.status)
"""


def run(words: list[str], folder: Path, environment: Mapping[str, str]) -> str:
    """A program's output, from a folder, with what stack.env says and nothing else of this process's."""
    bare = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    path = os.pathsep.join([str(BESIDE), os.defpath])
    done = subprocess.run(
        words,
        cwd=folder,
        env={**bare, "PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def stack_command(stack: Stack, *words: str) -> list[str]:
    return [sys.executable, "-m", "flows.stack", *words, "--folder", str(stack.folder)]


def name_registry(source: Path, url: str) -> None:
    """As a team does it: the params.yaml that all clone names their registry, so its versions get tags."""
    params = source / "params.yaml"
    params.write_text(params.read_text().replace("tracking: {", f"tracking: {{uri: {url!r}, "))
    assert url in params.read_text()
    git(source, "commit", "--quiet", "--all", "-m", "name the registry")


def made_by(home: Path) -> list[str]:
    """Outputs that lie in the clones a worker has worked in."""
    outputs = ("data/raw/toy", "data/shards/toy", "models/videollava")
    return [
        name
        for name in outputs
        for root in (home / ".prefect/workspaces").iterdir()
        if (root / name).exists()
    ]


def scheduled(stack: Stack) -> int:
    """Runs that the server made of a schedule, for later."""
    body = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    return int(asking.ask(f"{api(stack.ground)}/flow_runs/count", login(stack.ground), body))


def wait_until(what: Callable[[], bool], seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def check_keys(stack: Stack) -> None:
    """No key is on a command line or in a log."""
    keys = [key.encode() for key in stack.ground.keys.values()]
    texts = {path: path.read_bytes() for path in (stack.folder / "logs").iterdir()}
    for name in stack.parts:
        for pid in stack.processes(name):
            file = Path(f"/proc/{pid}/cmdline")
            texts[file] = file.read_bytes() if file.exists() else b""
    assert len(texts) > 10
    assert [path for path, text in texts.items() for key in keys if key in text] == []


def test_a_team_works_in_it_and_it_is_mended_whatever_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mentions: Callable[[str], list[int]]
) -> None:
    try:
        programs.check_programs()
    except InputError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("TEAM_FOLDER", str(tmp_path))  # where each stage that runs is noted
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    ran = tmp_path / "ran"
    make_origin(tmp_path)
    folder = tmp_path / "a stack"
    name_registry(tmp_path / "made", lay_ground(folder).url("mlflow"))
    third = tmp_path / "third folder"
    third.mkdir()
    with running_stack(folder, source=tmp_path / "made") as stack:
        assert set(stack.status().values()) == {"up"}
        told = {**stack.environment, "TEAM_FOLDER": str(tmp_path)}
        ask = ["prefect", "deployment", "run", "retrain/team", "--watch"]
        assert "Completed" in run(ask, third, told)
        did = ran.read_text().splitlines()
        assert [line.split()[0] for line in did] == ["fetch@toy", "shards@toy", "finetune", "evaluate"]
        # Each on its own machine: what a worker worked in holds that and no more.
        made = {name: sorted(made_by(folder / name)) for name in ("coordinator", "data", "gpu")}
        assert made["data"] == ["data/raw/toy", "data/shards/toy"]
        assert "models/videollava" in made["gpu"]
        assert "models/videollava" not in made["coordinator"]
        assert run([sys.executable, "-c", LEAD], third, told).split() == ["1", "FINISHED"]
        check_keys(stack)
        move = ["prefect", "deployment", "run", "promote/team", "--param", "version=1", "--watch"]
        assert "finished successfully in 'Completed'" in run(move, third, told)
        wait_until(lambda: scheduled(stack) > 0)  # the nightly look at the sources

        # Nothing is done twice; a third clone has what was made without making it.
        assert "Completed" in run(ask, third, told)
        here = [sys.executable, "-m", "flows.stack"]
        mine = third / "mine"
        run([*here, "join", str(mine), "--folder", str(folder)], tmp_path / "made", told)
        refs = run(["git", "ls-remote", "origin", "refs/exps/*", "refs/tags/*"], mine, told).splitlines()
        tag = next(line.split("\t")[1] for line in refs if line.endswith("model/videollava/1"))
        assert tag == "refs/tags/model/videollava/1"
        run(["git", "fetch", "--quiet", "origin", f"{tag}:{tag}"], mine, told)
        run(["git", "checkout", "--quiet", "model/videollava/1"], mine, told)
        run(["dvc", "repro", "--pull", "--allow-missing"], mine, {**told, "VIDEOLLAVA_FOLLOWED": "1"})
        run(["dvc", "pull", "finetune"], mine, told)
        assert (mine / "models/videollava/model.safetensors").read_text() == "weights after 2 of 0"
        assert ran.read_text().splitlines() == did

        # Whatever is killed comes back as it was.
        for name in ("postgres", "s3", "mlflow"):
            stack.kill(name)
        assert {name for name, state in stack.status().items() if state == "down"} == {
            "postgres",
            "s3",
            "mlflow",
        }
        two = [subprocess.Popen(stack_command(stack, "up"), cwd=tmp_path / "made") for _ in range(2)]
        assert [one.wait() for one in two] == [0, 0]
        assert set(
            json.loads(run(stack_command(stack, "status", "--json"), tmp_path / "made", {})).values()
        ) == {"up"}
        assert run([sys.executable, "-c", LEAD], third, told).split() == ["1", "FINISHED"]
        workers = {
            name: Place(folder, stack.ground.identity, name).pid() for name in ("coordinator", "data", "gpu")
        }
        stack.restart("prefect")
        assert {name: Place(folder, stack.ground.identity, name).pid() for name in workers} == workers
        assert "Completed" in run(ask, third, told)
        assert ran.read_text().splitlines() == did

        # So does a start that is killed in the middle.
        stack.down()
        assert mentions(str(folder)) == []
        halfway = subprocess.Popen(stack_command(stack, "up"), cwd=tmp_path / "made", start_new_session=True)
        while not (folder / "run/prefect.json").exists():
            assert halfway.poll() is None
            time.sleep(0.05)
        os.killpg(halfway.pid, signal.SIGKILL)
        halfway.wait()
        stack.up()
        assert set(stack.status().values()) == {"up"}
        assert run([sys.executable, "-c", LEAD], third, told).split() == ["1", "FINISHED"]
    assert mentions(str(folder)) == []
