"""Remotes that answer late, or answer and then give nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import flows.stages.remote
from flows.stages.remote import Crawling, expect_progress, why_unreached
from flows.stages.stage import push_stages, run_stage
from videollava.process import OutputLines, run_streamed

BUSY = "import os, time\nfor _ in range(15): os.write(os.open('/dev/null', 1), bytes(1_000_000)); time.sleep(0.05)"
ASLEEP = "import time; time.sleep(600)"
LOUD = "import time\nwhile True: print('.', flush=True); time.sleep(0.02)"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.stages.remote, "CRAWL_SECONDS", 0.3)
    monkeypatch.setattr("videollava.process.LOOK_SECONDS", 0.05)


def run(code: str, workspace: Path, begun: bool = False) -> int:
    look = expect_progress(workspace, lambda: begun)
    return run_streamed([sys.executable, "-S", "-c", code], workspace, {}, OutputLines(print), look=look)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody tells how much a process does")
def test_what_moves_nothing_is_ended_and_remembered(tmp_path: Path) -> None:
    for code in (ASLEEP, LOUD):
        with pytest.raises(Crawling, match="moved less than 5 MB"):
            run(code, tmp_path)
    assert "moved less than 5 MB" in why_unreached(tmp_path)


def test_what_moves_something_or_runs_a_stage_is_let_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows.stages.remote, "LEAST_BYTES", 500_000)
    assert run(BUSY, tmp_path) == 0
    assert run("import time; time.sleep(1)", tmp_path, begun=True) == 0
    monkeypatch.setattr(flows.stages.remote, "LEAST_CPU", 0.01)
    assert run("import time\nend = time.time() + 1\nwhile time.time() < end: pass", tmp_path) == 0


def test_where_nobody_tells_there_is_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videollava.process._work", lambda pid: None)
    assert run("import time; time.sleep(1)", tmp_path) == 0


def test_a_stage_goes_on_without_a_remote_that_crawls(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace / ".dvc" / "config.local").write_text(
        f"[core]\n    remote = far\n['remote \"far\"']\n    url = {workspace.parent / 'remote'}\n"
    )
    asked: list[list[str]] = []

    def crawl(command: list[str], cwd: Path, env: object, lines: OutputLines, *more: object) -> int:
        asked.append(command[3:])
        if more[-1]:  # how progress is looked at: only where a remote may be waited for
            raise Crawling("it moved next to nothing")
        lines.feed("Running stage 'fetch':\n")
        return 0

    monkeypatch.setattr("flows.stages.stage.why_unreached", lambda _: "")
    monkeypatch.setattr("flows.stages.stage.run_streamed", crawl)
    said: list[str] = []
    assert run_stage(workspace, "fetch", said.append).outcome == "ran"
    assert said[0].endswith("cannot be taken (it moved next to nothing); what is here is used")
    assert asked == [["repro", "--pull", "--allow-missing", "fetch"], ["repro", "fetch"]]
    assert push_stages(workspace, ["fetch"], said.append) == "it moved next to nothing"
