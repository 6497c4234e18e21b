"""How long each rank works on its own in a step, read from the ranks' pulses by rank 0 as training goes on.

A rank that waits for the others spends no time of its own: what is left tells who holds them up, and by how much.
Where a GPU works by itself a rank's own time is the host's: reading and decoding, mostly.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from videollava.environment import RANKS
from videollava.train.launch.fence import ATTEMPT
from videollava.train.launch.pulse import OTHERS

__all__ = ["Paces", "paces_of", "spent_between"]

APART = 30.0  # seconds between two looks: every rank's pulse is a file


class Paces:
    """Of the ranks whose pulses lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._began: dict[int, Mapping[str, Any]] = {}
        self._looked = time.monotonic()

    def look(self, now: float | None = None) -> dict[str, float]:
        """Seconds a step of its own since the last look: of the median and the slowest rank, and which that is.

        Empty where it is too soon, or no two ranks made a step since.
        """
        now = time.monotonic() if now is None else now
        if now - self._looked < APART:
            return {}
        self._looked = now
        before, self._began = self._began, _read(self.folder)
        own = {}
        for rank, told in self._began.items():
            steps, spent = spent_between(before.get(rank, told), told)
            if steps > 0:
                own[rank] = sum(spent.values()) / steps
        if len(own) < 2:
            return {}
        slowest = max(own, key=own.__getitem__)
        return {
            "rank_seconds_median": median(own.values()),
            "rank_seconds_slowest": own[slowest],
            "slowest_rank": float(slowest),
        }


def paces_of(environment: Mapping[str, str] = os.environ) -> Paces | None:
    """Of this launch, on its rank 0; None on the others, and where no launcher of ours started this process."""
    if RANKS not in environment or environment.get("RANK") != "0":
        return None
    return Paces(Path(environment[RANKS]) / environment[ATTEMPT])


def spent_between(begun: Mapping[str, Any], told: Mapping[str, Any]) -> tuple[int, dict[str, float]]:
    """Steps between two pulses of a rank, and the seconds that it spent on its own, by phase."""
    spent = {
        phase: seconds - begun["spent"].get(phase, 0.0)
        for phase, seconds in told["spent"].items()
        if phase != OTHERS
    }
    return told["step"] - begun["step"], spent


def _read(folder: Path) -> dict[int, Mapping[str, Any]]:
    found = {}
    for file in folder.glob("rank-*.json"):
        try:
            told = json.loads(file.read_text())
        except (OSError, ValueError):  # it is being replaced, on a file system that shows it
            continue
        found[int(told["rank"])] = told
    return found
