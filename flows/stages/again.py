"""A stage that ended early, with a checkpoint, is started again as long as it gets on; one that hung, once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from flows.stages.stage import StageFailed
from videollava.ends import AGAIN, STALLED

__all__ = ["run_on"]

TRIES = 3  # in a row that may end early without a step
Result = TypeVar("Result")


def run_on(workspace: Path, stage: str, run: Callable[[], Result], say: Callable[[str], None]) -> Result:
    """What `run` gives; where its stage says "again" (status 75) it is called again, unless TRIES did no step; where it
    was ended since it hung (76), once.
    """
    fruitless, hung = 0, False
    while True:
        before = _steps_done(workspace, stage)
        try:
            return run()
        except StageFailed as error:
            if error.status == STALLED and not hung:
                hung = True
                say(f"{error}; it is tried again, once")
                continue
            if error.status != AGAIN:
                raise
            fruitless = 0 if _steps_done(workspace, stage) > before else fruitless + 1
            if fruitless >= TRIES:
                raise
            say(f"{stage}: ended early, with a checkpoint: it is started again and goes on from there")


def _steps_done(workspace: Path, stage: str) -> int:
    """By the journals: steps that were done twice count twice."""
    files = (workspace / "runs" / stage).glob("*.jsonl")
    return sum(path.read_bytes().count(b'"step_seconds"') for path in files)
