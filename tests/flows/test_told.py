"""What a retraining tells people, at a real receiver: passed, promoted, refused by the gate, failed, too costly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.stages.stage import StageFailed
from flows.team.life.ends import as_state
from flows.team.runs import GroupFailed
from videollava.params import Tracking
from videollava.registry import news

REPOSITORY = Path(__file__).resolve().parents[2]
# A stage's ends, as `videollava` has them: a mistake of the user's, and the ceiling of its costs.
ENDS = """
if name == "finetune" and (root / "hang.end").is_file():
    status, words = (root / "hang.end").read_text().split(" ", 1)
    print(f"videollava finetune: {words}", file=sys.stderr)
    sys.exit(int(status))
"""
COSTLY = "cost 1.04 EUR, the ceiling is 1.00: stopped after step 7 of 20; token=hunter2secret"


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What was posted to VIDEOLLAVA_WEBHOOK."""
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
    monkeypatch.setenv("VIDEOLLAVA_WEBHOOK", f"http://127.0.0.1:{server.server_address[1]}/T0KEN")
    yield got
    server.shutdown()
    server.server_close()


def git(folder: Path, *words: str) -> None:
    line = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *words]
    subprocess.run(line, cwd=folder, check=True, capture_output=True)


def retrain(workspace: Path, server: str, *words: str) -> int:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PREFECT_API_URL": server}
    environment.pop("VIDEOLLAVA_FOLLOWED", None)
    done = subprocess.run(
        [sys.executable, "-m", "flows.retrain", *words],
        cwd=workspace,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 3, 77), done.stdout + done.stderr
    return done.returncode


@pytest.mark.slow
def test_people_are_told_how_it_ended(
    workspace: Path,
    received: list[dict[str, Any]],
    prefect_api: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "client"))
    stage, gate, end = workspace / "stage.py", workspace / "gate.yaml", workspace / "hang.end"
    stage.write_text(stage.read_text() + ENDS)
    assert retrain(workspace, prefect_api, "--no-promote") == 0
    assert retrain(workspace, prefect_api) == 0
    gate.write_text("videollava: {benchmarks: {easy_vqa: {minimum: 99.0}}}\n")
    git(workspace, "commit", "--quiet", "-m", "a higher bar", "gate.yaml")
    assert retrain(workspace, prefect_api, "--set", "finetune.epochs=3") == 0
    end.write_text("3 params.yaml: finetune: no such optimizer")
    assert retrain(workspace, prefect_api, "--set", "finetune.epochs=4") == 3
    end.write_text(f"77 {COSTLY}")
    assert retrain(workspace, prefect_api, "--set", "finetune.epochs=5") == 77
    assert [notice["event"] for notice in received] == ["passed", "moved", "refused", "failed", "ceiling"]
    passed, moved, refused, failed, ceiling = received
    assert passed["text"] == "videollava: version 1 passed the gate and waits: `videollava promote 1`"
    assert (passed["version"], passed["scores"]) == (1, {"easy_vqa": 62.0})
    assert (moved["version"], moved["scores"]) == (1, {"easy_vqa": 62.0})
    assert refused["version"] == 2
    assert refused["reasons"]
    assert "99" in refused["text"]
    assert failed["text"] == (
        "videollava: retraining failed: stage finetune failed (exit status 3): "
        "videollava finetune: params.yaml: finetune: no such optimizer"
    )
    assert ceiling["text"].startswith(
        "videollava: retraining reached its cost ceiling: stage finetune failed (exit status 77): videollava finetune: "
        "cost 1.04 EUR, the ceiling is 1.00: stopped after step 7 of 20"
    )
    assert "hunter2secret" not in json.dumps(received)
    assert len({notice["who"] for notice in received}) == 1


def test_a_stage_s_own_last_words_are_told() -> None:
    lines = [
        "Running stage 'finetune':",
        "> python x",
        "step 3",
        "videollava finetune: no disk",
        "ERROR: failed to",
    ]
    assert news.failed(Tracking(), StageFailed("finetune", 1, lines), "Ann").text == (
        "videollava: retraining failed: stage finetune failed (exit status 1): videollava finetune: no disk"
    )
    told = news.failed(Tracking(), StageFailed("finetune", 77, ["ERROR: failed"]), "Ann")
    assert (told.event, told.text) == (
        "ceiling",
        "videollava: retraining reached its cost ceiling: stage finetune failed (exit status 77)",
    )
    told = news.failed(Tracking(), RuntimeError("token=hunter2secret\nmore"), "Ann", "sync")
    assert (told.event, "hunter2" in told.text, told.text[:25]) == (
        "failed",
        False,
        "videollava: sync failed: ",
    )


def test_a_ceiling_that_a_worker_met_is_told_by_the_coordinator() -> None:
    ended = StageFailed(
        "finetune", 77, ["videollava finetune: the ceiling is 1.00: stopped", "ERROR: failed"]
    )
    group: Any = SimpleNamespace(title="finetune", pool="gpu")
    run: Any = SimpleNamespace(name="finetune abc-1")
    told = news.failed(Tracking(), GroupFailed(group, run, as_state(ended)), "Ann")
    assert (told.event, told.text) == (
        "ceiling",
        "videollava: retraining reached its cost ceiling: finetune on pool gpu: finetune abc-1: Budget: "
        "stage finetune failed (exit status 77): videollava finetune: the ceiling is 1.00: stopped",
    )
    told = news.failed(Tracking(), GroupFailed(group, run, as_state(RuntimeError("no"))), "Ann")
    assert told.event == "failed"
