"""What ranks wish beside learning: to save, to stop, to finish now, to stop for what it has cost.

Each rank adds its wishes, as columns, to the counts that are summed over ranks a step anyhow: all read the same sums
at the same step, and so decide alike without another exchange. On a device the sums are read a step late, as figures
are: nobody waits for them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from videollava.ends import BUDGET, Ended
from videollava.tracking import log_tags
from videollava.train.ending import Asked
from videollava.train.late import Late
from videollava.train.spending import Spending

if TYPE_CHECKING:
    from videollava.train.loop import Job

__all__ = ["COLUMNS", "Decision", "Wishes", "decide", "end_early"]

COLUMNS = 4
MINUTE = 60.0


@dataclass(frozen=True)
class Decision:
    """What all ranks do after this step."""

    save: bool = False
    stop: bool = False
    finish: bool = False
    over_budget: bool = False

    @property
    def ends(self) -> bool:
        """Whether no further step is done."""
        return self.stop or self.finish or self.over_budget


class Wishes:
    """This rank's. minutes: between two checkpoints, by the clock of rank 0; 0: after every step. is_free: asked when
    the time has come, whether one can be written.
    """

    def __init__(
        self,
        rank: int,
        minutes: float,
        asked: Asked,
        spending: Spending,
        is_free: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rank, self.minutes, self.asked, self.spending = rank, minutes, asked, spending
        self._is_free, self._clock = is_free, clock
        self.begin()

    def begin(self) -> None:
        """Rank 0's clock of the next checkpoint starts."""
        self._saved, self._due = self._clock(), False

    def columns(self) -> tuple[int, ...]:
        """What this rank wishes now, COLUMNS numbers to be summed over ranks."""
        first = not self.rank
        return (
            int(first and self._is_due()),
            int(self.asked.stop),
            int(self.asked.finish or (first and self.asked.looks_for_request())),
            int(first and self.spending.over),
        )

    def _is_due(self) -> bool:
        """Once for each checkpoint: a wish that is read a step late is not to be wished twice."""
        if not self.minutes:
            return True
        if self._due or not self._clock() - self._saved >= MINUTE * self.minutes or not self._is_free():
            return False
        self._due = True
        return True


def decide(sums: Late | None, learned: bool = True) -> Decision:
    """What the sums of all ranks' columns come to; nothing where there are none. learned: there is something to
    finish with.
    """
    if sums is None:
        return Decision()
    save, stop, finish, over_budget = map(bool, sums.read())
    return Decision(save, stop, finish and learned, over_budget)


def end_early(job: Job, decision: Decision, start: int, done: int, asked: Asked) -> None:
    """Say, after the steps from `start` to `done`, that it ends before its last: Ended where it is to go on one day, a
    return where what was learned is the result.
    """
    at = f"after step {done:,} of {job.steps:,}"
    if decision.finish and done < job.steps:
        job.finished_at = done
        log_tags(finished_early=at)
        job.engine.say(f"{job.name}: finished early, {at}, as was asked: what it has learned is the result")
        if job.followed:  # what comes next is not meant
            asked.finished()
    elif decision.over_budget:
        assert job.spending is not None
        raise Ended(
            BUDGET,
            f"{job.name}: {job.spending.in_words()}, the ceiling is {job.spending.cost.ceiling:,.2f}: stopped {at}, it "
            "goes on from its newest checkpoint; raise cost.ceiling in machine.yaml and run it again, or take what it "
            f"has learned: `videollava finish {asked.stage or job.name}`, and run it again",
            done - start,
        )
    elif decision.stop:
        raise Ended(
            asked.status,
            f"{job.name}: stopped {at}; run it again: it goes on from its newest checkpoint",
            done - start,
        )
