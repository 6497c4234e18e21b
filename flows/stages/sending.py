"""Outputs on their way to the DVC remote: what took long to make at once, what took seconds along with the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from flows.stages.stage import StageResult
from flows.stages.tasks import push_task

__all__ = ["Sending"]

AT_ONCE = 30.0  # seconds of work that a lost machine may cost again


class Sending:
    """Of one workspace. must: a remote that takes them not is an error, for others read there; else a warning, told in
    the results.
    """

    def __init__(self, root: Path, must: bool, echo: Callable[[str], None] | None = None) -> None:
        self._root, self._must, self._echo = root, must, echo
        self._waiting: list[str] = []
        self._seconds = 0.0
        self._refused: dict[str, str] = {}

    def add(self, result: StageResult) -> None:
        """A stage is done."""
        self._waiting.append(result.stage)
        self._seconds += result.seconds
        if self._seconds > AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        if self._waiting:
            reason = push_task(self._waiting)(self._root, self._waiting, self._must, self._echo)
            self._refused |= dict.fromkeys(self._waiting if reason else (), reason)
        self._waiting, self._seconds = [], 0.0

    def tell(self, result: StageResult) -> StageResult:
        """The result, with why its outputs are not on the remote."""
        return replace(result, unpushed=self._refused.get(result.stage, ""))
