"""What is done to a team at work: each takes the stack as it is laid and the id of the run that works, and leaves
servers and workers up again, as a person or a supervisor would.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from laid import Laid, wait_until

__all__ = [
    "Blow",
    "cancel",
    "fill",
    "has_clock",
    "jump",
    "kill_part",
    "kill_process",
    "kill_rank",
    "own_clock",
    "refuse",
]

AWAY_SECONDS = 5.0  # before somebody starts again what died
REFUSED_SECONDS = 60.0
SMALL_BYTES = 16 << 10
Blow = Callable[[Laid, str], None]


def kill_part(name: str) -> Blow:
    """kill -9 of a server, or of a worker with all that it does, as when its machine went away; it comes back."""

    def blow(laid: Laid, run: str) -> None:
        laid.stack.kill(name)
        time.sleep(AWAY_SECONDS)
        laid.stack.start(name)

    return blow


def kill_process(worker: str, pattern: str) -> Blow:
    """kill -9 of one process of a worker, the eldest whose command line has the pattern."""

    def blow(laid: Laid, run: str) -> None:
        found = wait_until(lambda: laid.processes(worker, pattern), f"{pattern} on {worker}", 60)
        os.kill(min(found), signal.SIGKILL)

    return blow


def kill_rank(laid: Laid, run: str) -> None:
    """kill -9 of the second of two ranks."""
    os.kill(wait_until(laid.ranks, "a rank", 60)[-1], signal.SIGKILL)


def cancel(laid: Laid, run: str) -> None:
    """What the page sends when somebody presses Cancel."""
    state = {"type": "CANCELLING", "name": "Cancelling", "message": "Cancelled from the page"}
    laid.ask(f"flow_runs/{run}/set_state", {"state": state})


def refuse(laid: Laid, run: str) -> None:
    """The store answers 503 for a minute, whatever it is asked."""
    laid.stack.kill("s3")
    with _unavailable(laid.stack.ground.ports["s3"]):
        time.sleep(REFUSED_SECONDS)
    laid.stack.start("s3")


def fill(laid: Laid, run: str) -> None:
    """No file of what the gpu worker does now grows beyond a few KiB, as on a file system that ran full; what it does
    later has room again.
    """
    limit = (SMALL_BYTES, SMALL_BYTES)
    for pid in laid.at_work("gpu"):
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)


def has_clock() -> bool:
    """Whether a program here can be shown another time than the machine's."""
    return sys.platform == "linux" and shutil.which("cc") is not None


@contextmanager
def own_clock(laid: Laid, name: str) -> Iterator[None]:
    """A worker, and all that it starts, by a clock of its own, right as yet (clock.c)."""
    library = laid.stack.folder.parent / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"], check=True)
    part, clock = laid.stack.parts[name], _clock(laid, name)
    clock.write_text("0")
    own = {"LD_PRELOAD": str(library), "CLOCK_FILE": str(clock)}
    laid.stack.parts[name] = replace(part, environment={**part.environment, **own})
    _again(laid, name)
    try:
        yield
    finally:
        laid.stack.parts[name] = part
        _again(laid, name)


def jump(name: str, seconds: int) -> Blow:
    """The clock of a worker's machine is set forward, or back. By less than the 15 minutes at which S3 refuses."""

    def blow(laid: Laid, run: str) -> None:
        file = _clock(laid, name)
        aside = file.with_suffix(".new")
        aside.write_text(str(seconds))
        aside.replace(file)

    return blow


def _clock(laid: Laid, name: str) -> Path:
    return laid.stack.folder.parent / f"clock of {name}"


def _again(laid: Laid, name: str) -> None:
    laid.stack.kill(name)
    laid.stack.start(name)


@contextmanager
def _unavailable(port: int) -> Iterator[None]:
    """A server that answers every request as S3 does when it is asked too much."""
    with ThreadingHTTPServer(("127.0.0.1", port), _Busy) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.1,))
        thread.start()
        try:
            yield
        finally:
            running.shutdown()
            thread.join()


class _Busy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if length := int(self.headers.get("Content-Length") or 0):
            self.rfile.read(length)
        body = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
        self.send_response(503)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")  # else who keeps one open is refused for ever
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def log_message(self, *_: Any) -> None:
        pass
