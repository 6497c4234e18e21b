"""Whether DVC's default remote answers: asked before anything depends on it, in seconds, not minutes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from videollava.environment import ask_loopback_directly
from videollava.scrub import scrub

__all__ = ["why_unreached"]

REACH_SECONDS = 30.0
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
