"""A stage that says "again" is started again while it gets on, and no longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.stages.again import TRIES, run_on
from flows.stages.stage import StageFailed
from videollava.ends import AGAIN


class Stage:
    """Does so many steps at each start, then ends early; None: it is done."""

    def __init__(self, workspace: Path, *steps: int | None) -> None:
        self.journal, self.steps, self.starts = workspace / "runs/finetune/k-001.jsonl", steps, 0
        self.journal.parent.mkdir(parents=True)

    def __call__(self) -> str:
        steps = self.steps[self.starts]
        self.starts += 1
        if steps is None:
            return "done"
        with self.journal.open("a") as file:
            file.write('{"event": "metric", "values": {"step_seconds": 1.0}}\n' * steps)
        raise StageFailed("finetune", AGAIN, [])


def test_it_goes_on_while_steps_are_done(tmp_path: Path) -> None:
    stage, said = Stage(tmp_path, 2, 0, 0, 1, 0, 0, 3, None), []
    assert run_on(tmp_path, "finetune", stage, said.append) == "done"
    assert stage.starts == len(stage.steps)
    assert (
        said == ["finetune: ended early, with a checkpoint: it is started again and goes on from there"] * 7
    )


def test_without_a_step_it_is_given_up(tmp_path: Path) -> None:
    stage = Stage(tmp_path, 1, *[0] * 9)
    with pytest.raises(StageFailed):
        run_on(tmp_path, "finetune", stage, print)
    assert stage.starts == 1 + TRIES


def test_another_failure_is_one(tmp_path: Path) -> None:
    def fail() -> None:
        raise StageFailed("finetune", 1, [])

    with pytest.raises(StageFailed, match="exit status 1"):
        run_on(tmp_path, "finetune", fail, print)
