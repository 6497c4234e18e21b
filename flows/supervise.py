"""Run a command so that nothing of it outlives its caller: `python -I -S supervise.py GRACE COMMAND...`

Standard input is a lifeline: when it closes (the caller ended, kill -9 included) or a signal comes, the
command and all its descendants get SIGTERM, after GRACE seconds SIGKILL. On Linux this process adopts their
orphans, so none can slip away by starting a session of its own. Exits as the command did. Standard library
only: it starts in milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

PR_SET_CHILD_SUBREAPER = 36
CALLER_GONE = 143


def supervise(grace: float, command: Sequence[str]) -> int:
    """Run `command` to its end or the caller's; its exit status (128 + signal where it was killed)."""
    _adopt_orphans()
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    lifeline = sys.stdin.fileno()
    while child.poll() is None:
        ready, _, _ = select.select([lifeline, read_end], [], [])
        stopped = read_end in ready and any(n != signal.SIGCHLD for n in os.read(read_end, 64))
        if stopped or (lifeline in ready and not os.read(lifeline, 64)):
            _end_all(child, grace)
            return CALLER_GONE
    _end_all(child, min(grace, 2.0))
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _end_all(child: subprocess.Popen[bytes], grace: float) -> None:
    """SIGTERM to every descendant, then SIGKILL to those that stay."""
    _signal_all(child, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while _reap(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    while _reap(child):
        _signal_all(child, signal.SIGKILL)
        time.sleep(0.02)


def _signal_all(child: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)
    for pid in _descendants():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _reap(child: subprocess.Popen[bytes]) -> bool:
    """Collect what ended; whether anything is left."""
    child.poll()
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return (child.returncode is None and _running(child.pid)) or bool(_descendants())


def _running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _descendants() -> list[int]:
    """Processes below this one, zombies aside (Linux; elsewhere the process group is all there is)."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as stream:
                state, parent = stream.read().rsplit(")", 1)[1].split()[:2]
                if state != "Z":
                    parents[int(name)] = int(parent)
    found: list[int] = []
    frontier = [os.getpid()]
    while frontier:
        frontier = [pid for pid, parent in parents.items() if parent in frontier]
        found += frontier
    return found


def _adopt_orphans() -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(supervise(float(sys.argv[1]), sys.argv[2:]))
