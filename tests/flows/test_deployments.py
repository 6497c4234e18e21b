"""Every deployment of prefect.yaml runs on a real server, by a real worker; those of one machine here, a team's in
their own tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from videollava.params import Tracking
from videollava.process import Supervised
from videollava.registry import champion

REPOSITORY = Path(__file__).resolve().parents[2]
# The test, below tests/, that runs each.
TESTS = {
    "retrain/retrain": "flows/test_deployments.py",
    "evaluate/evaluate": "flows/test_deployments.py",
    "promote/promote": "flows/test_deployments.py",
    "promote/team": "flows/stack/test_stack_whole.py",
    "sync/team": "flows/triggers/test_sync.py",
    "sweep/team": "flows/team/life/test_life_and_death.py",
    **dict.fromkeys(
        ("retrain/team", "stage/data", "stage/gpu", "stage/eval", "sweep/team"),
        "flows/triggers/test_seen_through.py",
    ),
}
PATIENCE = 900.0  # seconds for a run


def entries() -> dict[str, dict[str, Any]]:
    """The deployments of prefect.yaml as FLOW/NAME."""
    told = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
    return {f"{one['entrypoint'].rpartition(':')[2]}/{one['name']}": one for one in told}


def test_every_deployment_has_a_test_that_runs_it() -> None:
    assert set(entries()) == set(TESTS)
    for name, file in TESTS.items():
        text = (REPOSITORY / "tests" / file).read_text()
        assert name in text, f"{file} runs no {name}"
        assert "pytest.mark.slow" in text


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_api: str) -> Iterator[Path]:
    """A checkout of these files with micro parameters, its deployments on a server, and a worker in it."""
    for name in ("MLFLOW_TRACKING_URI", "VIDEOLLAVA_FOLLOWED", "VIDEOLLAVA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.syspath_prepend(str(REPOSITORY / "tests" / "train"))
    from micro import MICRO, sources

    folder = tmp_path / "checkout"
    for name in git(REPOSITORY, "ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (REPOSITORY / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "PREFECT_API_URL": prefect_api,
        "PREFECT_HOME": str(tmp_path / "client"),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "DVC_SITE_CACHE_DIR": str(tmp_path / "site"),
        "DO_NOT_TRACK": "1",
    }
    monkeypatch.setattr(os, "environ", environment)
    write = "import sys; from pathlib import Path; from flows.places.workspace import apply_params as a; "
    call(folder, "-c", f"{write}a(Path('.'), 'tiny', sys.argv[1:])", *MICRO, sources(tmp_path / "pictures"))
    (folder / "gate.yaml").write_text("videollava: {minimum_over_blind: -100.0}\n")
    git(folder, "init", "--quiet")
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", "start")
    call(folder, "-m", "flows.pools")
    call(folder, "-m", "prefect", "--no-prompt", "deploy", "--all")
    with (tmp_path / "worker.log").open("wb") as log:
        line = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "local", "--type", "process"]
        with Supervised(line, folder, environment, log.fileno(), 10.0):
            yield folder


def git(folder: Path, *words: str) -> str:
    line = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *words]
    return subprocess.run(line, cwd=folder, check=True, capture_output=True, text=True).stdout


def call(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run(folder: Path, deployment: str, **parameters: Any) -> FlowRun:
    """A run of a deployment as a person asks for it, over."""
    words = [word for name, value in parameters.items() for word in ("--param", f"{name}={value}")]
    name = f"{deployment.replace('/', '-')}-{time.monotonic_ns()}"
    call(folder, "-m", "prefect", "deployment", "run", deployment, "--flow-run-name", name, *words)
    until = time.monotonic() + PATIENCE
    with get_client(sync_client=True) as client:
        while True:
            (found,) = [one for one in client.read_flow_runs() if one.name == name]
            if found.state is not None and found.state.is_final():
                return found
            assert time.monotonic() < until, found.state
            time.sleep(0.5)


@pytest.mark.slow
def test_the_deployments_of_one_machine(checkout: Path, prefect_api: str) -> None:
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        for deployment, parameters, told in (
            ("retrain/retrain", {}, ""),
            ("evaluate/evaluate", {"benchmarks": '["toy_video_qa"]'}, ""),
            ("promote/promote", {"version": "1"}, "version 1 is champion already"),
        ):
            state = run(checkout, deployment, **parameters).state
            assert state is not None
            assert state.is_completed(), (deployment, state.message)
            assert not told or state.message == told
        wrong = run(checkout, "promote/promote", version="7").state
        assert wrong is not None
        assert wrong.is_failed()
        assert "7" in str(wrong.message)
    live = champion(checkout, Tracking())
    assert live is not None
    assert live.number == 1
    assert (checkout / "runs" / "evaluate").is_dir()
    assert git(checkout, "status", "--porcelain") == ""  # whoever works in it finds it as it was
