"""Rank 0's log as it comes. The API server ends a stream now and then: it is taken up where it broke off."""

from __future__ import annotations

import re
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

from videollava.train.launch.kubernetes.kubectl import Kubectl
from videollava.train.launch.kubernetes.pods import CONTAINER

__all__ = ["Log"]

AGAIN = 1.0  # seconds between two streams of one pod
STAMPED = re.compile(r"(\d{4}-\d\d-\d\dT\S+Z) ?(.*\n?)", re.S)


class Log:
    """Of one pod's container, to standard output and into `file`. A context: it ends with the last of what is there."""

    def __init__(self, kubectl: Kubectl, pod: str, file: Path) -> None:
        self.kubectl, self.pod, self.file = kubectl, pod, file
        self._last, self._done = "", False
        self._stream: subprocess.Popen[str] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="log", daemon=True)
        self._thread.start()

    def finish(self, seconds: float) -> None:
        """Its pod has ended: what has not been shown yet is, for so many seconds at most."""
        self._done = True
        self._thread.join(seconds)
        self._stop.set()
        if self._stream and self._stream.poll() is None:
            self._stream.kill()
        self._thread.join(AGAIN)

    def _follow(self) -> None:
        while not self._stop.is_set():
            done = self._done  # looked at before: what comes after is the whole rest
            if self._show() and done:
                return
            self._stop.wait(AGAIN)

    def _show(self) -> bool:
        """One stream to its end; whether the API server gave it."""
        since = [f"--since-time={self._last}"] if self._last else []
        words = ["logs", "--follow", "--timestamps", f"--container={CONTAINER}", *since, self.pod]
        with suppress(OSError), open(self.file, "a") as kept:
            self._stream = subprocess.Popen(
                self.kubectl.line(*words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, text=True, errors="replace",
            )  # fmt: skip
            assert self._stream.stdout is not None
            for line in self._stream.stdout:
                if text := self._new(line):
                    kept.write(text)
                    kept.flush()
                    print(text, end="", flush=True)
            return self._stream.wait() == 0
        return False

    def _new(self, line: str) -> str:
        """What follows the time, where it has not been shown: a stream begins with whole seconds."""
        found = STAMPED.match(line)
        if not found:
            return line
        if found[1] <= self._last:
            return ""
        self._last = found[1]
        return found[2] or "\n"
