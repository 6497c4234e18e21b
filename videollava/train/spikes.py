"""A loss that jumps, noticed against the steps before it."""

from __future__ import annotations

import math
from collections import deque
from statistics import median

__all__ = ["Spikes"]

WINDOW = 50  # steps that a loss is compared with; before there are as many nothing is a spike
DEVIATIONS = 8.0  # median deviations above the median, of logarithms: losses of small batches are skewed
LEAST = 1.5  # times the median: a flat curve's deviations are as good as nothing
TINY = 1e-6  # a loss below it is one of nothing
QUIET = 50  # steps after a notice without another


class Spikes:
    """Watches one run's loss, step by step."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._quiet = 0

    def above(self, loss: float) -> float | None:
        """The median of the steps before where `loss` is a spike; None otherwise, and for QUIET steps after one."""
        before, usual = list(self._losses), None
        self._losses.append(loss)
        self._quiet -= 1
        if len(before) == WINDOW and self._quiet < 0:
            middle = max(median(before), TINY)
            deviation = median(abs(math.log(max(value, TINY) / middle)) for value in before)
            if loss > middle * max(math.exp(DEVIATIONS * deviation), LEAST):
                self._quiet, usual = QUIET, middle
        return usual
