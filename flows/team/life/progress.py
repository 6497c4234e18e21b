"""How far a stage is, by what its journal has said since it was begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videollava.tracking.journal import read_events

__all__ = ["Progress"]


class Progress:
    """Of a stage at work in `workspace`; what its journals said before is not looked at.

    step, steps: done, and in all (0: nobody said). loss: of the last step. ended: its journal is closed. parent: the
    retraining's journal, where several may work beside each other.
    """

    def __init__(self, workspace: Path, stage: str, parent: str = "") -> None:
        self.stage = stage
        self.step = self.steps = 0
        self.loss: float | None = None
        self.ended = False
        self._folder = workspace / "runs" / stage
        self._parent = parent
        self._read = {path: path.stat().st_size for path in self._folder.glob("*.jsonl")}
        self._other: set[Path] = set()
        self._first: tuple[int, int] | None = None  # step, milliseconds
        self._last = (0, 0)

    def read(self) -> bool:
        """Take what is new; whether there was any."""
        news = False
        for path in sorted(self._folder.glob("*.jsonl")):
            if path in self._other or path.stat().st_size <= self._read.get(path, 0):
                continue
            events, self._read[path] = read_events(path, self._read.get(path, 0))
            if any(self._is_other(event) for event in events):
                self._other.add(path)
                continue
            for event in events:
                self._take(event)
            news = news or bool(events)
        return news

    def _is_other(self, event: dict[str, Any]) -> bool:
        return bool(self._parent and event["event"] == "start" and event["parent"] not in ("", self._parent))

    def _take(self, event: dict[str, Any]) -> None:
        if event["event"] == "start":
            self.ended = False
        elif event["event"] == "end":
            self.ended = True
        elif event["event"] == "tags" and "steps" in event["values"]:
            self.steps = int(event["values"]["steps"])
        elif event["event"] == "metric" and event["step"] and "loss" in event["values"]:
            self.step, self.loss = event["step"], event["values"]["loss"]
            self._last = self.step, event["time"]
            self._first = self._first or self._last

    @property
    def stepping(self) -> bool:
        """Whether it is between its first and its last step."""
        return self.step > 0 and not self.ended and self.step != self.steps

    @property
    def percent(self) -> float:
        """Of the steps, as far as it is known."""
        return min(100.0, 100.0 * self.step / self.steps) if self.steps else 0.0

    def words(self) -> str:
        """ "finetune: step 120 of 480, loss 1.234, 0:12:30 left"."""
        if not self.step:
            return f"{self.stage}: {'its work is done' if self.ended else 'at work'}"
        told = [f"{self.stage}: step {self.step:,}" + (f" of {self.steps:,}" if self.steps else "")]
        if self.loss is not None:
            told.append(f"loss {self.loss:.4g}")
        if (left := self._seconds_left()) is not None:
            told.append(f"{left // 3600}:{left % 3600 // 60:02d}:{left % 60:02d} left")
        return ", ".join(told)

    def _seconds_left(self) -> int | None:
        if not self._first or not self.steps or self._last[0] <= self._first[0]:
            return None
        each = (self._last[1] - self._first[1]) / 1000 / (self._last[0] - self._first[0])
        return round(each * (self.steps - self.step))
