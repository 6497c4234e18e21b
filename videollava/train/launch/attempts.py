"""What the launchers of a cluster share: how they are told to end, and what they leave in the launch's folder."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

__all__ = ["CANCELLED", "STOPPED", "forget_pulses", "stop_once"]

CANCELLED = "cancelled"  # a file in the launch's folder: somebody cancelled the job
STOPPED = 143
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def stop_once() -> None:
    """From now on the first signal ends this process by way of its `finally`, and no other one is heard.

    A second one must not cut short how the job is cancelled, nor reach the programs that do it.
    """
    for number in ENDING:
        signal.signal(number, _stop)


def forget_pulses(folder: Path) -> None:
    """A job that waits has no ranks: what they were at last is no hang."""
    for file in folder.glob("*/rank-*.json"):
        file.unlink(missing_ok=True)


def _stop(*_: object) -> None:
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(STOPPED)
