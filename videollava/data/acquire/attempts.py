"""Trying again: with longer and longer pauses, as long as something comes."""

from __future__ import annotations

import http.client
import random
import threading
from collections.abc import Callable
from typing import TypeVar

from videollava.data.acquire.addresses import shown
from videollava.data.acquire.replies import TransientError
from videollava.errors import InputError

__all__ = ["WORTH_ANOTHER", "Attempts", "ask_patiently"]

FIRST_PAUSE = 0.5  # seconds, doubled with every failure
LONGEST_PAUSE = 60.0
WORTH_ANOTHER = (TransientError, OSError, http.client.HTTPException)
T = TypeVar("T")


class Attempts:
    """Counts attempts in a row that brought nothing, and waits between them."""

    def __init__(self, url: str, origin: str, retries: int, stop: threading.Event) -> None:
        self._where = f"{origin}: {shown(url)}"
        self._retries, self._stop, self._failures = retries, stop, 0

    def check(self) -> None:
        """Raise InputError where all is to stop."""
        if self._stop.is_set():
            raise InputError(f"{self._where}: stopped; what has arrived is kept for the next run")

    def fail(self, error: Exception | str, brought: bool) -> None:
        """Wait before another attempt. InputError where this was the last, or all is to stop meanwhile."""
        reason = str(error) or type(error).__name__
        self._failures = 0 if brought else self._failures + 1
        if self._failures > self._retries:
            raise InputError(
                f"{self._where}: {self._failures} attempts brought nothing, the last: {reason}; "
                "what has arrived is kept: run the stage again once the server answers"
            )
        backoff = FIRST_PAUSE * 2**self._failures * random.uniform(0.5, 1)
        self._stop.wait(min(max(getattr(error, "pause", 0.0), backoff), LONGEST_PAUSE))
        self.check()


def ask_patiently(call: Callable[[], T], url: str, origin: str, retries: int) -> T:
    """What a call gives that may fail for a while. InputError as Attempts.fail."""
    attempts = Attempts(url, origin, retries, threading.Event())
    while True:
        try:
            return call()
        except WORTH_ANOTHER as error:
            attempts.fail(error, brought=False)
