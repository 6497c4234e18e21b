"""A rank that hangs or lags is named: which, where, at what, since when; one that waits for it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from videollava.train.launch.fence import offer, take
from videollava.train.launch.pulse import CHECKPOINT, COMPUTING, DATA, OTHERS, STARTING
from videollava.train.launch.watch import Watch

SLOW, STALL = 300.0, 1800.0


class Ranks:
    """Pulses of two ranks, a clock that the test turns, and what the watch says."""

    def __init__(self, folder: Path) -> None:
        self.now, self.beats, self.said = 0.0, 0, []
        offer(folder, "launch")
        self.folder = folder / take(folder, "launch", 0)
        self.watch = Watch(folder, SLOW, STALL, self.said.append, clock=lambda: self.now)
        self.told: list[dict[str, Any]] = [
            {
                "rank": rank,
                "host": f"h{rank}",
                "step": 0,
                "moves": 0,
                "phase": STARTING,
                "spent": {},
                "work": [0, 0],
            }
            for rank in range(2)
        ]

    def set(self, rank: int, **values: Any) -> None:
        self.told[rank].update(values, moves=self.told[rank]["moves"] + 1)

    def look(self, seconds: float = 0.0, silent: tuple[int, ...] = ()) -> str:
        self.now += seconds
        self.beats += 1
        for rank, told in enumerate(self.told):
            if rank not in silent:
                (self.folder / f"rank-{rank:05d}.json").write_text(json.dumps(told | {"beats": self.beats}))
        return self.watch.look()


@pytest.fixture
def ranks(tmp_path: Path) -> Ranks:
    found = Ranks(tmp_path)
    assert found.look() == ""
    return found


def test_the_rank_that_is_waited_for_is_named_not_those_that_wait(ranks: Ranks) -> None:
    ranks.set(0, phase=OTHERS, step=7)
    ranks.set(1, phase=DATA, step=7)
    assert ranks.look(1) == ""
    assert ranks.look(SLOW - 1) == ""
    assert ranks.said == []
    assert ranks.look(2) == ""
    assert ranks.said == ["rank 1 (on h1) has been waiting for data for 5 min, in step 7"]
    ranks.look(60)
    assert len(ranks.said) == 1  # once
    reason = ranks.look(STALL - SLOW)
    assert reason == "rank 1 (on h1) has been waiting for data for 31 min, in step 7; the run is ended"


def test_a_stopped_process_says_nothing(ranks: Ranks) -> None:
    ranks.set(0, phase=OTHERS, step=3)
    ranks.set(1, phase=OTHERS, step=3)
    ranks.look(1)
    for _ in range(4):
        assert ranks.look(100, silent=(1,)) == ""
    assert ranks.said == [
        "rank 1 (on h1) has said nothing for 7 min: it is stopped, or its host is lost "
        "(last waiting for the other ranks, step 3)"
    ]


def test_all_wait_for_each_other_at_one_step_or_for_who_is_behind(ranks: Ranks) -> None:
    for rank in range(2):
        ranks.set(rank, phase=OTHERS, step=9 - rank)
    ranks.look(1)
    ranks.look(SLOW + 1)
    assert ranks.said == ["rank 1 (on h1) has been waiting for the other ranks for 5 min, in step 8"]


@pytest.mark.parametrize("work", [[40.0, 0], [0.0, 400 << 20]])
def test_long_work_of_one_rank_is_no_hang_while_it_works(ranks: Ranks, work: list[float]) -> None:
    ranks.set(0, phase=CHECKPOINT, step=100)
    ranks.set(1, phase=OTHERS, step=100)
    ranks.look(1)
    for number in range(1, 40):
        ranks.told[0]["work"] = [number * amount for amount in work]
        assert ranks.look(400) == ""
    assert ranks.said == []
    for _ in range(5):  # a disk that does not answer
        reason = ranks.look(400)
    assert "rank 0 (on h0) has been writing a checkpoint" in reason


def test_a_rank_that_lags_is_named_with_what_it_does(ranks: Ranks) -> None:
    ranks.look(1)
    for step in range(1, 32):
        ranks.set(0, step=step, phase=COMPUTING, spent={COMPUTING: 3.0 * step, OTHERS: 7.0 * step})
        ranks.set(1, step=step, phase=COMPUTING, spent={COMPUTING: 3.0 * step, DATA: 7.0 * step})
        assert ranks.look(10) == ""
    assert ranks.said == [
        "rank 1 (on h1) lags: 10 s a step (7 of them waiting for data), the others 3 s; they wait for it"
    ]


def test_pulses_of_an_older_attempt_and_of_a_job_that_waits_count_for_nothing(
    ranks: Ranks, tmp_path: Path
) -> None:
    ranks.set(1, phase=DATA, step=7)
    ranks.look(1)
    take(tmp_path, "launch", 1)
    assert ranks.look(2 * STALL) == ""
    assert ranks.said == []
