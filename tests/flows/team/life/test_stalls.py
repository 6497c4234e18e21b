"""What counts as life of a stage that runs."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from flows.stages.stage import StageFailed
from flows.team.life.progress import Progress
from flows.team.life.stalls import BUSY_TIMES, Vigil
from videollava.ends import STALLED
from videollava.machine import Machine
from videollava.process import Supervised
from videollava.tracking.journal import Journal

MINUTES = 10.0


class Stage:
    """Stands for its processes: so many bytes and seconds of CPU so far. A clock, too."""

    def __init__(self, folder: Path, launcher: str = "local") -> None:
        self.now = self.size = self.spent = 0.0
        work = Machine(stall_minutes=MINUTES).work("finetune").replace(launcher=launcher)
        self.vigil = Vigil(Progress(folder, "finetune"), work, lambda: self.now)
        self.journal = Journal(folder / "runs/finetune/k-001.jsonl", "k")
        self.journal.start("finetune", {}, {})

    def work(self) -> tuple[float, float]:
        return self.size, self.spent

    def goes_on(self, minutes: float, cpu: float = 0.0, size: float = 0.0, said: bool = False) -> None:
        """So long, with so much of a core and so many bytes a second."""
        for _ in range(round(minutes * 6)):
            self.now += 10
            self.spent += 10 * cpu
            self.size += 10 * size
            if said:
                self.vigil.hear()
            self.vigil.look(cast(Supervised, self))

    def hangs_within(self, minutes: float, **busy: float) -> None:
        with pytest.raises(StageFailed) as failed:
            self.goes_on(minutes, **busy)
        assert failed.value.status == STALLED

    def step(self, number: int) -> None:
        self.journal.metrics(number, {"loss": 1.0})


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_what_does_nothing_hangs(stage: Stage) -> None:
    stage.goes_on(MINUTES)
    stage.hangs_within(1)


def test_loading_compiling_and_downloading_are_life(stage: Stage) -> None:
    stage.goes_on(3 * MINUTES, cpu=1.0)
    stage.goes_on(6 * MINUTES, size=1e6)
    stage.goes_on(6 * MINUTES, said=True)


def test_cpu_time_alone_is_no_life_for_ever(stage: Stage) -> None:
    stage.goes_on((BUSY_TIMES - 1) * MINUTES, cpu=1.0)
    stage.hangs_within(2 * MINUTES, cpu=1.0)


def test_between_steps_a_busy_core_and_words_are_none(stage: Stage) -> None:
    stage.journal.tags({"steps": "480"})
    for number in range(1, 121):
        stage.step(number)
        stage.goes_on(1, cpu=1.0)
    stage.goes_on(3 * MINUTES, size=1e6)  # a large checkpoint
    with pytest.raises(StageFailed, match="step 120 of 480, loss 1"):
        stage.goes_on(MINUTES + 1, cpu=8.0, said=True)


def test_after_the_last_step_work_is_life_again(stage: Stage) -> None:
    stage.journal.tags({"steps": "2"})
    for number in (1, 2):
        stage.step(number)
        stage.goes_on(1)
    stage.goes_on(3 * MINUTES, cpu=1.0)  # sums of what was made
    stage.journal.end()
    stage.goes_on(2 * MINUTES, cpu=1.0)


def test_what_was_stopped_for_long_is_not_to_blame(stage: Stage) -> None:
    stage.goes_on(MINUTES - 1)
    stage.now += 3600
    stage.goes_on(MINUTES - 1)


def test_a_job_may_wait_in_a_queue(tmp_path: Path) -> None:
    Stage(tmp_path, "slurm").goes_on(20 * MINUTES)


def test_progress_is_of_this_attempt_and_this_retraining(tmp_path: Path) -> None:
    old = Journal(tmp_path / "runs/finetune/a-001.jsonl", "a")
    old.start("finetune", {}, {}, parent="mine")
    old.metrics(7, {"loss": 7.0})
    progress = Progress(tmp_path, "finetune", "mine")
    assert not progress.read()
    assert progress.words() == "finetune: at work"
    other = Journal(tmp_path / "runs/finetune/b-001.jsonl", "b")
    other.start("finetune", {}, {}, parent="theirs")
    other.metrics(9, {"loss": 9.0})
    assert not progress.read()
    old.tags({"steps": "1200"})
    old.metrics(600, {"loss": 0.12345})
    assert progress.read()
    assert progress.words() == "finetune: step 600 of 1,200, loss 0.1235"
    assert progress.percent == 50.0
    assert progress.stepping
    old.metrics(1200, {"loss": 0.1})
    progress.read()
    assert not progress.stepping
