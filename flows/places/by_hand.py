"""A DVC command that a person started in a checkout: parameters are not changed under it.

DVC reads params.yaml once more when a stage has ended, and would stamp its outputs with what then stands there. Its own
list of who is at work is written in place: a full disk or a kill leaves half of it, and then no DVC works there again.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from videollava.errors import InputError

__all__ = ["await_dvc", "drop_torn"]

USED = ".dvc/tmp/rwlock"  # by path, the processes that read or write it now
WAIT_SECONDS = 30.0
LOOKS, LOOK_SECONDS = 10, 0.1


def await_dvc(root: Path, wait: float = WAIT_SECONDS) -> None:
    """Return once no DVC runs a stage in `root`; InputError names it where one still does after `wait` seconds."""
    drop_torn(root)
    deadline = time.monotonic() + wait
    while at_work := _at_work(root / USED):
        if time.monotonic() > deadline:
            told = ", ".join(f"process {pid}: {command}" for pid, command in sorted(at_work.items())[:3])
            raise InputError(f"{root}: DVC is at work here ({told}); wait for it or stop it")
        time.sleep(0.2)


def drop_torn(root: Path) -> None:
    """Remove DVC's list where it is torn, and stays so: one that is just being written is whole in a moment."""
    file = root / USED
    for _ in range(LOOKS):
        try:
            json.loads(file.read_text())
            return
        except ValueError:
            time.sleep(LOOK_SECONDS)
        except OSError:
            return
    file.unlink(missing_ok=True)


def _at_work(file: Path) -> dict[int, str]:
    """Commands of the processes that the file names and that live; those of killed ones stay in it."""
    try:
        held = json.loads(file.read_text())
        users = [*held["write"].values(), *(one for some in held["read"].values() for one in some)]
        return {one["pid"]: str(one["cmd"]) for one in users if _lives(one["pid"])}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}  # none there, or of another DVC


def _lives(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
