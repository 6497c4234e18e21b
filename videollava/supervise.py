"""Run a command so that nothing of it outlives its caller: `python -I -S supervise.py GRACE KEEP COMMAND...`

Standard input is a lifeline: when it closes (the caller ended, kill -9 included) or a signal comes, the
command and all its descendants get SIGTERM; after GRACE seconds, or at a second signal, SIGKILL. On Linux this
process adopts their orphans, so none can slip away by starting a session of its own. There are two of it, a guard
and the supervisor below it: whichever is killed, the other ends what was run. Exits as the command did. Standard
library only: it starts in milliseconds.

KEEP: open files (numbers, with commas) that the command holds too. The first becomes its standard input, the
one file that programs hand on to what they start: a lock is then held until the last of it is gone.
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
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
CALLER_GONE = 143
SAME = 1.0  # seconds
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def guard(grace: float, command: Sequence[str], keep: Sequence[int] = ()) -> int:
    """`supervise` in a process below this one, which ends all of it where that one is killed."""
    _control(PR_SET_CHILD_SUBREAPER, 1)
    mine = os.getpid()
    supervisor = os.fork()
    if not supervisor:
        _die_with(mine, signal.SIGTERM)
        os._exit(supervise(grace, command, keep))
    for number in ENDING:
        signal.signal(number, lambda *_: _send(supervisor, signal.SIGTERM))
    _, state = os.waitpid(supervisor, 0)
    status = os.waitstatus_to_exitcode(state)
    if status < 0:
        _end_all(None, grace)
    return status if status >= 0 else 128 - status


def supervise(grace: float, command: Sequence[str], keep: Sequence[int] = ()) -> int:
    """Run `command` to its end or the caller's; its exit status (128 + signal where it was killed)."""
    _control(PR_SET_CHILD_SUBREAPER, 1)
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end)
    for number in (signal.SIGCHLD, *ENDING):
        signal.signal(number, lambda *_: None)
    mine = os.getpid()
    try:
        child = subprocess.Popen(
            command,
            stdin=keep[0] if keep else subprocess.DEVNULL,
            pass_fds=keep,
            process_group=0,
            preexec_fn=lambda: _die_with(mine, signal.SIGKILL),
        )
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        return 127 if isinstance(error, FileNotFoundError) else 126
    lifeline = sys.stdin.fileno()
    while child.poll() is None:
        ready, _, _ = select.select([lifeline, read_end], [], [])
        stopped = read_end in ready and any(n != signal.SIGCHLD for n in os.read(read_end, 64))
        if stopped or (lifeline in ready and not os.read(lifeline, 64)):
            _end_all(child, grace, read_end)
            return CALLER_GONE
    _end_all(child, min(grace, 2.0))
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _end_all(child: subprocess.Popen[bytes] | None, grace: float, heard: int = -1) -> None:
    """SIGTERM to every descendant, then SIGKILL to those that stay. heard: tells of signals to this process."""
    _signal_all(child, signal.SIGTERM)
    began = time.monotonic()
    while _reap(child) and time.monotonic() < began + grace:
        time.sleep(0.02)
        ready = heard >= 0 and select.select([heard], [], [], 0)[0]
        # One sender may reach this process twice, by its group and by the guard.
        if ready and any(n != signal.SIGCHLD for n in os.read(heard, 64)) and time.monotonic() > began + SAME:
            break
    while _reap(child):
        _signal_all(child, signal.SIGKILL)
        time.sleep(0.02)


def _signal_all(child: subprocess.Popen[bytes] | None, number: int) -> None:
    if child:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)
    for pid in _descendants():
        _send(pid, number)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _reap(child: subprocess.Popen[bytes] | None) -> bool:
    """Collect what ended; whether anything is left."""
    left = bool(_descendants())  # looked for first: what ends meanwhile is collected, and not left to nobody
    if child:
        child.poll()
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return bool(child and child.returncode is None and _running(child.pid)) or left


def _running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _descendants() -> list[int]:
    """Processes below this one (Linux; elsewhere the process group is all there is).

    Zombies too: one whose threads are still ending is none to its parent, and one that ended while this is read may
    stand between.
    """
    parents: dict[int, int] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as stream:
                parents[int(name)] = int(stream.read().rsplit(")", 1)[1].split()[1])
    found: list[int] = []
    frontier = [os.getpid()]
    while frontier:
        frontier = [pid for pid, parent in parents.items() if parent in frontier]
        found += frontier
    return found


def _die_with(parent: int, number: int) -> None:
    """Have the kernel send this process a signal when `parent` ends, however it ends."""
    _control(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it ended before that
        os.kill(os.getpid(), number)


def _control(option: int, value: int) -> None:
    if _PRCTL is not None:
        _PRCTL(option, value, 0, 0, 0)


def _load_prctl() -> Any:
    if sys.platform != "linux":
        return None
    import ctypes

    return ctypes.CDLL(None).prctl


_PRCTL = _load_prctl()

if __name__ == "__main__":
    kept = [int(number) for number in sys.argv[2].split(",") if number]
    sys.exit(guard(float(sys.argv[1]), sys.argv[3:], kept))
