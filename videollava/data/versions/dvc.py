"""DVC's own command line, asked as a person asks it: the package works without DVC until it is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from videollava.errors import InputError
from videollava.scrub import scrub

__all__ = ["run_dvc"]


def run_dvc(workspace: Path, *arguments: str) -> str:
    """What `dvc ARGUMENTS` prints. InputError where DVC isn't installed, or says why it can't."""
    if find_spec("dvc") is None:
        raise InputError("DVC is not installed in this environment: `pip install 'videollava[pipeline]'`")
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=workspace,
        env={**os.environ, "DVC_NO_ANALYTICS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.strip()]
        reason = next((line for line in said if not line.startswith("WARNING")), "no reason given")
        raise InputError(f"dvc {arguments[0]}: {scrub(reason)[:500]}")
    return done.stdout
