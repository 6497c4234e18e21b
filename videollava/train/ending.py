"""What a stage is told from outside while it trains: signals, and a request to finish that lies in a file.

SIGTERM and SIGINT ask for one last checkpoint, and the stage has `ending_seconds` for it; a second one ends it at
once. SIGUSR2, or a file that `videollava finish` writes, ask it to end after its step with what was learned. A rank
of a launcher has no second signal and no clock of its own: one sender may reach it in two ways, and it is the launcher
that kills what stays.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from videollava.ends import AGAIN, INTERRUPTED, Ended
from videollava.environment import RANKS
from videollava.tracking.journal import current
from videollava.train.launch.fence import ATTEMPT

__all__ = ["Asked", "ask_to_finish", "between_steps", "drop_request", "heeding"]

SAME = 1.0  # seconds: one sender may signal a process, its group, and by its parent's end
LOOK = 1.0  # seconds between two looks at the request's file


@dataclass
class Asked:
    """What this process has been asked. request: the file that asks to finish; stopped_by: the signal's number."""

    stage: str = ""
    request: Path | None = None
    grace: float = 0.0
    finish: bool = False
    stopped_by: int = 0
    in_steps: bool = False
    _when: float = 0.0
    _looked: float = 0.0
    _timer: threading.Timer | None = None

    @property
    def stop(self) -> bool:
        """Whether it has been asked to end with a last checkpoint."""
        return bool(self.stopped_by)

    @property
    def status(self) -> int:
        """The exit status that answers the signal."""
        return INTERRUPTED if self.stopped_by == signal.SIGINT else AGAIN

    def looks_for_request(self) -> bool:
        """Whether a request to finish this very run lies there; looked for once a second."""
        if self.request is None or time.monotonic() - self._looked < LOOK:
            return False
        self._looked = time.monotonic()
        with suppress(OSError, ValueError, KeyError):
            self.finish = json.loads(self.request.read_text())["run"] in _own_names()
        return self.finish

    def hear(self, number: int, _: FrameType | None = None) -> None:
        """A signal."""
        if number == signal.SIGUSR2:
            self.finish = True
        elif not self.stop:
            self.stopped_by, self._when = number, time.monotonic()
            if not self.in_steps:
                raise Ended(
                    self.status, f"{self.stage}: stopped, no step was under way; run it again to go on"
                )
            self._wait_no_longer()
        elif RANKS not in os.environ and time.monotonic() - self._when > SAME:
            os._exit(self.status)

    def _wait_no_longer(self) -> None:
        if RANKS in os.environ:
            return
        self._timer = threading.Timer(self.grace, self._give_up)
        self._timer.daemon = True
        self._timer.start()
        _say(
            f"{self.stage}: stopping: one last checkpoint, {self.grace:.0f} s at most; a second signal ends it at once"
        )

    def _give_up(self) -> None:
        late = f"{self.stage}: not ended within {self.grace:.0f} s, and so ended at once: "
        if self.in_steps:
            _say(late + "its newest checkpoint stays")
        else:
            _say(
                late
                + "its last checkpoint is whole; what MLflow was not told yet is told with the next stage"
            )
        os._exit(self.status)

    def finished(self) -> None:
        """The request is fulfilled, though the stage goes on with something else."""
        self.finish = False
        if self.request is not None:
            self.request.unlink(missing_ok=True)

    def close(self) -> None:
        """It has ended in time."""
        if self._timer is not None:
            self._timer.cancel()


_asked = Asked()  # this process's


@contextmanager
def heeding(stage: str, workspace: Path, grace: float) -> Iterator[None]:
    """Inside, the signals of this process are for the stage. Nothing outside of a main thread."""
    global _asked
    before, own = _asked, Asked(stage, request_file(workspace, stage), grace)
    _asked = own
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            handlers[number] = signal.signal(number, own.hear)
    try:
        yield
        drop_request(workspace, stage)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        own.close()
        _asked = before


@contextmanager
def between_steps() -> Iterator[Asked]:
    """Inside, a wish to stop is heard and waits for the step's end; one that came too late is followed at the end."""
    own = _asked
    own.in_steps = True
    try:
        yield own
    finally:
        own.in_steps = False
    if own.stop:
        raise Ended(
            own.status, f"{own.stage}: stopped after its last step; run it again: it writes its result"
        )


def request_file(workspace: Path, stage: str) -> Path:
    """Where a request to finish the stage lies."""
    return workspace / "checkpoints/finish" / f"{stage}.json"


def ask_to_finish(workspace: Path, stage: str, run: str) -> None:
    """Leave a request for the run: its journal's identity, or the name of its launch."""
    file = request_file(workspace, stage)
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(f".{os.getpid()}.tmp")
    aside.write_text(json.dumps({"run": run}))
    aside.replace(file)


def drop_request(workspace: Path, stage: str) -> None:
    """The stage is done: no request for it holds any more."""
    request_file(workspace, stage).unlink(missing_ok=True)


def _say(text: str) -> None:
    """Past Python's streams: a signal may have interrupted one of them."""
    with suppress(OSError):
        os.write(2, f"\n{text}\n".encode())


def _own_names() -> tuple[str, ...]:
    launch = os.environ.get(ATTEMPT, "").rpartition(".")[0]
    return tuple(filter(None, (current().identity, launch)))
