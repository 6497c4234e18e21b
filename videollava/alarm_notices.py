"""Alarms of a stage as notices to the people of gate.yaml's `notify` and VIDEOLLAVA_WEBHOOK, sent beside the work."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from videollava.alarms import heard_by
from videollava.errors import InputError
from videollava.notices import Notice, addresses, send
from videollava.scrub import scrub

__all__ = ["alarms_told"]

APART = 60.0  # seconds between two notices: what comes meanwhile is told together
SHOWN = 5  # sentences in a notice
LAST = 10.0  # seconds that the end of a stage waits for a notice


@contextmanager
def alarms_told(stage: str, model: str, workspace: Path) -> Iterator[None]:
    """Inside, alarms are sent as notices (event "alarm") of the registered model's name; by rank 0 alone.

    Nothing of it slows or ends the stage: addresses are looked up at the first alarm, and what does not arrive is
    printed.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    sender = _Sender(stage, model, workspace)
    with heard_by(sender.take):
        try:
            yield
        finally:
            sender.end()


class _Sender:
    """A queue of sentences and the thread that sends them, begun by the first."""

    def __init__(self, stage: str, model: str, workspace: Path) -> None:
        self.stage, self.model, self.workspace = stage, model, workspace
        self._waiting: list[str] = []
        self._some, self._ending = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def take(self, text: str) -> None:
        with self._lock:
            self._waiting.append(scrub(text))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="alarms", daemon=True)
                self._thread.start()
        self._some.set()

    def end(self) -> None:
        """What waits is sent now."""
        self._ending.set()
        self._some.set()
        if self._thread is not None:
            self._thread.join(LAST)

    def _run(self) -> None:
        try:
            targets = _addresses(self.workspace, self.model)
        except InputError as error:
            print(f"no notice of an alarm was sent: {error}", file=sys.stderr, flush=True)
            return
        while targets:
            with self._lock:
                texts, self._waiting = self._waiting, []
            if texts:
                self._send(texts, targets)
                self._ending.wait(APART)
            elif self._ending.is_set():
                return
            else:
                self._some.wait()
                self._some.clear()

    def _send(self, texts: list[str], targets: list[str]) -> None:
        more = f"; and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
        said = f"{self.model}: {self.stage}: {'; '.join(texts[:SHOWN])}{more}"
        for trouble in send(Notice("alarm", said, self.model), targets):
            print(trouble, file=sys.stderr, flush=True)


def _addresses(workspace: Path, model: str) -> list[str]:
    from videollava.gate.reading import read_rules

    return addresses(read_rules(workspace, model).gate.notify)
