"""What a run has cost so far, over all its attempts, and whether that is as much as it may."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from videollava.machine import Cost, Work
from videollava.tracking import read_spent
from videollava.tracking.journal import current

__all__ = ["Spending", "open_spending"]

HOUR = 3600.0


@dataclass
class Spending:
    """hours: of all ranks until now that this was made; what comes is counted from there on."""

    cost: Cost
    ranks: int
    on_gpus: bool
    before: float
    clock: Callable[[], float] = time.monotonic
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        self._began = self.clock()

    @property
    def hours(self) -> float:
        """Of all ranks, over all attempts."""
        return self.before + self.ranks * (self.clock() - self._began) / HOUR

    @property
    def over(self) -> bool:
        """Whether the ceiling is reached."""
        return bool(self.cost.ceiling) and self.hours * self.cost.per_gpu_hour >= self.cost.ceiling

    def in_words(self) -> str:
        """Hours and their price."""
        kind = "GPU-hours" if self.on_gpus else "process-hours"
        spent, currency = self.hours * self.cost.per_gpu_hour, self.cost.currency
        return f"{spent:,.2f} {currency} are spent ({self.hours:,.2f} {kind} at {self.cost.per_gpu_hour:g})"


def open_spending(work: Work, ranks: int, until_checkpoint: float) -> Spending:
    """Of a run that goes on now: by its journal, which knows of attempts that left no checkpoint, or, on a machine
    that has not seen them, by its checkpoint (`until_checkpoint`, hours) and this attempt.
    """
    journal = current()
    here = ranks * journal.seconds / HOUR
    told = read_spent(journal.path).hours if journal.path is not None else 0.0
    return Spending(work.cost, ranks, bool(work.gpus), max(told, until_checkpoint + here))
