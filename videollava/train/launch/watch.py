"""Reads the ranks' pulses: who hangs, who lags, and waiting for what.

A rank that says "waiting for the other ranks" is not to blame as long as another one is behind. Times are this
process's own: the clocks of hosts differ.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from videollava.train.launch.fence import attempt_of
from videollava.train.launch.paces import spent_between
from videollava.train.launch.pulse import LONG, OTHERS

__all__ = ["Watch"]

SILENT = 15.0  # seconds without a beat: stopped, or its host is lost
BUSY = (0.05, 1 << 18)  # CPU seconds, bytes a second: less is no work
LAG = 1.5  # times the others' own seconds a step
SHARE = 0.2  # of the window, that the others waited for it


@dataclass
class _Seen:
    """The last that a rank told, when it last went on and when it last told anything."""

    told: dict[str, Any]
    moved: float
    heard: float
    begun: dict[str, Any] = field(default_factory=dict)  # what it told when the window for lags began

    def take(self, told: dict[str, Any], now: float) -> None:
        if told["beats"] != self.told["beats"]:
            if told["moves"] != self.told["moves"] or _works(self.told, told, now - self.heard):
                self.moved = now
            self.told, self.heard = told, now

    @property
    def name(self) -> str:
        return f"rank {self.told['rank']} (on {self.told['host']})"


class Watch:
    """Over the ranks whose pulses lie in `folder`; `slow` and `stall` in seconds, `say` gets the warnings."""

    def __init__(
        self,
        folder: Path,
        slow: float,
        stall: float,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self.slow, self.stall, self.say, self.clock = folder, slow, stall, say, clock
        self._attempt = ""
        self._ranks: dict[int, _Seen] = {}
        self._warned: set[int] = set()
        self._window = clock()

    def look(self) -> str:
        """Read all pulses, warn where one is due; why the run has to end, or ""."""
        self._read()
        now = self.clock()
        stuck = self._stuck(now)
        self._warned &= {seen.told["rank"] for seen in stuck}
        for seen in stuck:
            if seen.told["rank"] not in self._warned:
                self._warned.add(seen.told["rank"])
                self.say(self._words(seen, now))
        if now - self._window >= self.slow:
            self._window = now
            self._name_laggard()
        lost = [seen for seen in stuck if now - seen.moved > self.stall]
        return f"{self._words(lost[0], now)}; the run is ended" if lost else ""

    def _read(self) -> None:
        attempt, now = attempt_of(self.folder), self.clock()
        if attempt != self._attempt:
            self._attempt, self._ranks = attempt, {}
        found = {}
        for file in sorted((self.folder / attempt).glob("rank-*.json")) if attempt else ():
            try:
                told = json.loads(file.read_text())
            except (OSError, ValueError):  # it is being replaced, on a file system that shows it
                continue
            found[told["rank"]] = self._ranks.get(told["rank"]) or _Seen(told, now, now, told)
            found[told["rank"]].take(told, now)
        self._ranks = found  # a job that waits for its nodes again has none

    def _stuck(self, now: float) -> list[_Seen]:
        idle = [seen for seen in self._ranks.values() if now - seen.moved > self.slow]
        blamed = [seen for seen in idle if seen.told["phase"] != OTHERS or now - seen.heard > SILENT]
        if not blamed and len(idle) == len(self._ranks):
            # All wait for each other: those that are behind, or else every one.
            first = min((seen.told["step"] for seen in idle), default=0)
            blamed = [seen for seen in idle if seen.told["step"] == first]
        return blamed

    def _words(self, seen: _Seen, now: float) -> str:
        for_ = _minutes(now - seen.moved)
        if now - seen.heard > SILENT:
            return (
                f"{seen.name} has said nothing for {_minutes(now - seen.heard)}: it is stopped, or its host is lost "
                f"(last {seen.told['phase']}, step {seen.told['step']})"
            )
        return f"{seen.name} has been {seen.told['phase']} for {for_}, in step {seen.told['step']}"

    def _name_laggard(self) -> None:
        """Warn of a rank for which the others waited a good part of the window."""
        ranks = list(self._ranks.values())
        windows = [spent_between(seen.begun, seen.told) for seen in ranks]
        for seen in ranks:
            seen.begun = seen.told
        steps = min((steps for steps, _ in windows), default=0)
        if len(ranks) < 2 or steps < 1:
            return
        own = [sum(spent.values()) / steps for _, spent in windows]
        worst = max(range(len(ranks)), key=own.__getitem__)
        others = median(own[:worst] + own[worst + 1 :])
        if own[worst] > LAG * others and (own[worst] - others) * steps > SHARE * self.slow:
            phase, seconds = max(windows[worst][1].items(), key=lambda item: item[1])
            self.say(
                f"{ranks[worst].name} lags: {own[worst]:.2g} s a step ({seconds / steps:.2g} of them {phase}), "
                f"the others {others:.2g} s; they wait for it"
            )


def _works(before: dict[str, Any], told: dict[str, Any], seconds: float) -> bool:
    """Whether a rank in something long computed, read or wrote since."""
    if told["phase"] not in LONG:
        return False
    done: Sequence[float] = [new - old for old, new in zip(before["work"], told["work"], strict=True)]
    return any(amount > least * seconds for amount, least in zip(done, BUSY, strict=True))


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
