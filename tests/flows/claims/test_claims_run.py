"""`make claims` as a user starts it, on micro parameters: killed in the middle, and called again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from micro import settings, sources

ROOT = Path(__file__).resolve().parents[3]


def git(folder: Path, *words: str) -> str:
    line = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *words]
    return subprocess.run(line, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """This checkout's files as they are now, committed."""
    root = tmp_path / "home"
    for name in git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        if name and (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    git(root, "init", "--quiet")
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "-m", "x")
    return root


def start(home: Path, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(home), "PREFECT_HOME": str(home.parent / "no-profile")}
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE"):
        environment.pop(name, None)
    return subprocess.Popen(
        [sys.executable, "-m", "flows.claims", *words],
        cwd=home,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_two_arms_killed_in_the_middle_and_resumed(home: Path, tmp_path: Path) -> None:
    micro = settings(sources(tmp_path / "from"), "index.sources={}")
    words = ["--seeds", "1", "--arms", "no-stage-1", *(word for one in micro for word in ("--set", one))]
    outcomes = home / ".prefect/claims/outcomes"
    running = start(home, *words)
    deadline = time.monotonic() + 900
    log = home / ".prefect/claims/logs/0-no-stage-1.log"
    while not log.is_file():  # the first arm is done, the second begins
        assert running.poll() is None, running.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert len(list(outcomes.iterdir())) == 1

    again = start(home, *words)
    output, _ = again.communicate()
    assert again.returncode == 0, output
    assert "seed 0 aligned: done before" in output
    assert "[2/2] seed 0 no-stage-1: toy_video_qa " in output
    assert "(c) undecided: one seed says nothing about the next. " in output
    assert len(list(outcomes.iterdir())) == 2
    page = (home / "docs/claims.md").read_text()
    assert "Written by `make claims ARGS=" in page
    assert git(home, "status", "--porcelain", "--", "params.yaml", "dvc.yaml", "dvc.lock", "locks") == ""

    last = start(home, *words)
    output, _ = last.communicate()
    assert last.returncode == 0, output
    assert "(c) undecided: one seed says nothing about the next. " in output
    assert "Prefect" not in output
    assert "no-stage-1: toy_video_qa" not in output  # nothing ran
