"""Whether DVC's default remote answers: asked before anything depends on it, in seconds, not minutes; and how long
it may take when it does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from videollava.environment import ask_loopback_directly
from videollava.process import Supervised
from videollava.scrub import scrub

__all__ = ["Crawling", "expect_progress", "why_unreached"]

REACH_SECONDS = 30.0
CRAWL_SECONDS = 300.0
# In that time: less than a megabyte a minute, and no work either (lists of many files cost time, not bytes).
LEAST_BYTES = 5_000_000
LEAST_CPU = 3.0
REMEMBER_SECONDS = 300.0
# In a process of its own, which can be ended: clients of stores try again for minutes.
ASK = """
import sys
from dvc.repo import Repo
try:
    with Repo(sys.argv[1]) as repo:
        odb = repo.cloud.get_remote_odb()
        odb.fs.exists(odb.path)
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}".replace("\\n", " "))
"""
_known: dict[Path, tuple[float, str]] = {}


def why_unreached(workspace: Path) -> str:
    """Why the workspace's default remote does not answer; "" where it does. Remembered for some minutes."""
    root = workspace.resolve()
    asked, reason = _known.get(root, (-REMEMBER_SECONDS, ""))
    if time.monotonic() - asked > REMEMBER_SECONDS:
        reason = _ask(root)
        _known[root] = time.monotonic(), reason
    return reason


class Crawling(Exception):
    """A remote that answers and then gives, or takes, next to nothing."""


def expect_progress(workspace: Path, begun: Callable[[], bool] = bool) -> Callable[[Supervised], None]:
    """What `run_streamed` calls while DVC moves files: it raises Crawling where nearly none move for minutes.

    begun: whether DVC is done with the remote and runs a stage, which may be silent for hours. Linux: elsewhere
    nobody tells how much a process does, and there is no limit.
    """
    since, before = time.monotonic(), (0, 0.0)

    def look(running: Supervised) -> None:
        nonlocal since, before
        if time.monotonic() - since < CRAWL_SECONDS or begun():
            return
        now = running.work()
        if now is None:
            return
        since, (size, spent), before = time.monotonic(), before, now
        if 0 <= now[0] - size < LEAST_BYTES and 0 <= now[1] - spent < LEAST_CPU:
            reason = f"it moved less than {LEAST_BYTES // 1_000_000} MB in {CRAWL_SECONDS / 60:.0f} minutes"
            _known[workspace.resolve()] = time.monotonic(), reason
            raise Crawling(reason)

    return look


def _ask(root: Path) -> str:
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    ask_loopback_directly(environment)
    command = [sys.executable, "-c", ASK, str(root)]
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=REACH_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {REACH_SECONDS:.0f} s"
    lines = done.stderr.strip().splitlines()
    return scrub(lines[-1][:300] if lines else "no reason given") if done.returncode else ""
