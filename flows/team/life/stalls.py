"""Whether a stage that runs gets on.

What counts as life. Between the first and the last step of a training: its journal, and bytes that are read or written
(a checkpoint); neither CPU time nor words, for ranks that wait in a collective for a lost one compute for ever, and may
complain. Before, after, and in stages without steps: a line of output and CPU time, too (downloading, compiling,
loading, hashing); CPU time by itself no longer than BUSY_TIMES as long. A job of a cluster may wait in a queue: its
ranks are watched by the launcher alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from flows.stages.stage import StageFailed
from flows.team.life.progress import Progress
from videollava.ends import STALLED
from videollava.machine import Work
from videollava.process import Supervised

__all__ = ["Vigil"]

EVERY = 5.0  # seconds between two looks
BUSY_TIMES = 4
LEAST_CPU = 0.05  # seconds a second
LEAST_BYTES = 1 << 18  # a second


class Vigil:
    """Over a stage's processes, with the machine file's patience."""

    def __init__(self, progress: Progress, work: Work, clock: Callable[[], float] = time.monotonic) -> None:
        self.progress = progress
        self._seconds = 60 * work.stall_minutes
        self._queues = work.launcher != "local"
        self._clock = clock
        self._looked = self._alive = self._busy = clock()
        self._heard = False
        self._before: tuple[int, float] | None = None

    def hear(self) -> None:
        """The stage said something."""
        self._heard = True

    def look(self, running: Supervised) -> None:
        """StageFailed (76) where nothing has counted for too long. Asks the system now and then only."""
        now = self._clock()
        if now - self._looked < EVERY:
            return
        self._take(running, now - self._looked, now)
        self._looked = now
        if self._queues:
            return
        since = now - (self._alive if self.progress.stepping else max(self._alive, self._busy))
        if since > self._seconds or now - self._alive > BUSY_TIMES * self._seconds:
            raise StageFailed(self.progress.stage, STALLED, [self._words(now)])

    def _take(self, running: Supervised, passed: float, now: float) -> None:
        was_stepping = self.progress.stepping
        news = self.progress.read()
        told, before = running.work(), self._before
        moved = spent = 0.0
        if told and before:
            # Less than before: some of its processes have ended since, so something happened.
            moved = abs(told[0] - before[0]) / passed
            spent = abs(told[1] - before[1]) / passed
        self._before = told or before
        # A machine that slept, or was stopped, did nothing meanwhile, and is not to blame.
        slept = passed > 6 * EVERY
        said = self._heard and not self.progress.stepping
        if news or said or slept or moved > LEAST_BYTES or was_stepping != self.progress.stepping:
            self._alive = now
        if spent > LEAST_CPU:
            self._busy = now
        self._heard = False

    def _words(self, now: float) -> str:
        minutes = (now - self._alive) / 60
        for_ = f"{minutes:.0f} min" if minutes >= 2 else f"{60 * minutes:.0f} s"
        at = self.progress.words().partition(": ")[2]
        return f"it hangs: nothing new in its journal for {for_} ({at}), so it is ended (machine.yaml: stall_minutes)"
