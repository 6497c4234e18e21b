"""Stages of a micro workspace, started as a person starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from micro import ROOT, settings

from videollava.train.launch.fence import attempt_of

PLAIN = ("pretrain.cache_features=false", "finetune.cache_features=false")


def words(stage: str, *changes: str) -> list[str]:
    """The command line of a stage with the micro parameters."""
    options = [part for setting in settings(*PLAIN, *changes) for part in ("--set", setting)]
    return [stage, "--params", str(ROOT / "videollava/profiles/tiny.yaml"), *options]


def start(
    folder: Path, stage: str, *changes: str, group: bool = False, **environment: str
) -> subprocess.Popen[str]:
    """`videollava STAGE` in `folder`; group: in a session of its own."""
    given = {**os.environ, "PYTHONPATH": str(ROOT), "VIDEOLLAVA_FOLLOWED": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "videollava", *words(stage, *changes)],
        cwd=folder,
        env=given | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=group,
    )


def end(running: subprocess.Popen[str], seconds: float = 300.0) -> tuple[int, str]:
    """(exit status, all it said)."""
    said, _ = running.communicate(timeout=seconds)
    return running.returncode, said


def wait_for(condition: Callable[[], Any], running: subprocess.Popen[str] | None = None) -> Any:
    """What `condition` gives, once it is true."""
    deadline = time.monotonic() + 180.0
    while not (found := condition()):
        assert time.monotonic() < deadline
        assert running is None or running.poll() is None, end(running)[1]
        time.sleep(0.005)
    return found


def newest(folder: Path) -> int:
    """Step of the newest checkpoint of finetune, 0 without one."""
    found = (folder / "checkpoints").glob("finetune-*/step-????????")
    return max((int(one.name[5:]) for one in found), default=0)


def pulses(folder: Path, stage: str = "finetune") -> dict[int, dict[str, Any]]:
    """What the ranks of the attempt that holds tell, by rank."""
    found, ranks = {}, folder / "checkpoints/ranks" / stage
    for file in (ranks / attempt_of(ranks)).glob("rank-*.json"):
        told = json.loads(file.read_text())
        found[told["rank"]] = told
    return found


def last_end(folder: Path, stage: str = "finetune") -> dict[str, Any]:
    """The end of the stage's only journal."""
    (journal,) = (folder / "runs" / stage).glob("*.jsonl")
    ends = [json.loads(line) for line in journal.read_text().splitlines() if '"event": "end"' in line]
    return ends[-1]
