"""One part of a stack: a program in a session of its own that outlives who started it, found again and ended whole.

It runs below videollava/supervise.py, which ends all that the part started when the part ends or is told to; and what
it started carries the part's mark in its environment, so that the rest is found even if all of that was killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from videollava.environment import SUPERVISED
from videollava.errors import InputError
from videollava.process import SUPERVISE, end_carrying, find_carrying
from videollava.scrub import scrub
from videollava.who import name_process

__all__ = ["MARK", "Part", "Place", "runs"]

MARK = "VIDEOLLAVA_STACK_PART"
LOG_BYTES = 20 << 20  # a log beyond this is set aside as NAME.log.1 when its part starts
LOOK_SECONDS = 0.1
END_SECONDS = 20.0  # for the system to take back what was killed


@dataclass(frozen=True)
class Place:
    """Where a part of a stack is known by: its log and who it is now. Enough to end it, whatever it ran."""

    folder: Path
    identity: str
    name: str

    @property
    def log(self) -> Path:
        """What the part says."""
        return self.folder / "logs" / f"{self.name}.log"

    @property
    def mark(self) -> str:
        """NAME=VALUE in the environment of the part and of all that it started."""
        return f"{MARK}={self.identity}-{self.name}"

    @property
    def file(self) -> Path:
        """The process it is now."""
        return self.folder / "run" / f"{self.name}.json"

    def pid(self) -> int:
        """Of the process that all of the part is below; 0 where it does not run."""
        try:
            noted = json.loads(self.file.read_text())
            pid, process = int(noted["pid"]), str(noted["process"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)  # one of our own that ended is there until it is asked for
        return pid if process and _process(pid) == process else 0

    def processes(self) -> list[int]:
        """All that is left of it."""
        return find_carrying(self.mark)

    def start(
        self, command: tuple[str, ...], cwd: Path, environment: Mapping[str, str], grace: float
    ) -> None:
        """Start it. What an earlier one left is ended first."""
        self.stop(0.0)
        self.file.parent.mkdir(exist_ok=True)
        if self.log.is_file() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        name, _, value = self.mark.partition("=")
        marked = {**environment, name: value, SUPERVISED: value}
        line = [sys.executable, "-I", "-S", str(SUPERVISE), str(grace), "", *command]
        # Its lifeline: it holds the other end itself, so that it does not end with this process.
        lifeline, held = os.pipe()
        try:
            with open(self.log, "ab", opener=_private) as log:
                running = subprocess.Popen(
                    line, cwd=cwd, env=marked, stdin=lifeline, stdout=log, stderr=log,
                    start_new_session=True, pass_fds=(held,),
                )  # fmt: skip
        finally:
            os.close(lifeline)
            os.close(held)
        aside = self.file.with_suffix(".tmp")
        aside.write_text(json.dumps({"pid": running.pid, "process": _process(running.pid)}))
        aside.replace(self.file)
        running.returncode = 0  # it is not this process that waits for it

    def tell(self) -> bool:
        """Tell it to end; whether it runs. It is waited for by `stop`: told twice at once is told once."""
        if pid := self.pid():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        return bool(pid)

    def stop(self, grace: float) -> None:
        """End it and all that it started: politely, and after so many seconds by force."""
        if grace and self.tell():
            deadline = time.monotonic() + grace + 5
            while self.pid() and time.monotonic() < deadline:
                time.sleep(LOOK_SECONDS)
        self.kill()
        self.file.unlink(missing_ok=True)

    def kill(self) -> None:
        """kill -9 for all of it at once, as when its machine went away; it stays known as what it was."""
        if pid := self.pid():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)  # it is not to end politely what is about to be killed
        left = self.processes()
        end_carrying(self.mark)
        deadline = time.monotonic() + END_SECONDS
        # What ends has no environment any more, and its files are still open.
        while any(map(runs, left)) and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        while self.pid():  # elsewhere than on Linux nothing is marked
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            time.sleep(LOOK_SECONDS)

    def last_words(self) -> str:
        """What it said last, and where the rest is."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.is_file() else []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return scrub(f"{f' ({last[:300]})' if last else ''}; its log is {self.log}")


@dataclass(frozen=True)
class Part:
    """A part as it is to run. answers: whether it does its work now. patience, grace: seconds it has to do so, and to
    end. after: names of those that must be there before it starts.
    """

    place: Place
    command: tuple[str, ...]
    cwd: Path
    environment: Mapping[str, str]
    answers: Callable[[], bool]
    prepare: Callable[[], None] = lambda: None
    settle: Callable[[], None] = lambda: None
    after: tuple[str, ...] = ()
    patience: float = 300.0
    grace: float = 10.0
    serves: bool = True  # others ask it, so that it can hang; one that asks others is up while it runs

    @property
    def name(self) -> str:
        """As a person calls it."""
        return self.place.name

    def launch(self) -> None:
        """Start it, without waiting until it answers."""
        self.prepare()
        self.place.start(self.command, self.cwd, self.environment, self.grace)

    def wait(self) -> None:
        """Return when it answers; InputError when it ended instead, or after `patience` seconds."""
        deadline = time.monotonic() + self.patience
        while True:
            ended = not self.place.pid()
            if not ended and self.answers():
                self.settle()
                return
            if ended or time.monotonic() > deadline:
                what = "ended" if ended else f"does not answer after {self.patience:.0f} s"
                raise InputError(f"{self.name} {what}{self.place.last_words()}")
            time.sleep(LOOK_SECONDS)

    def state(self) -> str:
        """ "up", "down", or "hangs": it runs and does not answer."""
        if not self.place.pid():
            return "down"
        return "up" if not self.serves or self.answers() else "hangs"


def runs(pid: int) -> bool:
    """Whether any thread of it does: the first is gone before others, which hold its ports and files till then."""
    for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(OSError):
            if thread.read_text().rpartition(")")[2].split()[0] not in "ZX":
                return True
    return False


def _process(pid: int) -> str:
    """A process by its number and when it began."""
    if named := name_process(pid):
        return named
    import psutil  # type: ignore[import-untyped]  # where there is no /proc

    try:
        return f"{pid} {psutil.Process(pid).create_time()}"
    except psutil.Error:
        return ""


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
