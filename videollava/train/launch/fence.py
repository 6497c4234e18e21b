"""Of two attempts at one stage the newer one alone writes.

Slurm requeues a job whose node it lost sight of, while ranks of the first attempt may live on (slurmd is gone,
slurmstepd is not). The folder of a launch holds a file `attempt`, "<launch>.<number>"; a process whose own attempt it
is not seals no checkpoint, writes no output, and ends. A process that no launcher started has nothing to fear.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from videollava.environment import RANKS

__all__ = ["ATTEMPT", "Superseded", "attempt_of", "check_held", "is_held", "offer", "take"]

ATTEMPT = "VIDEOLLAVA_ATTEMPT"  # the attempt this process belongs to
FILE = "attempt"


class Superseded(RuntimeError):
    """A newer attempt at this stage is at work."""

    def __init__(self, own: str, newer: str) -> None:
        super().__init__(f"attempt {own} is superseded by {newer or 'another'}: it writes nothing more")


def offer(folder: Path, launch: str) -> None:
    """A new launch: from now on no attempt of an earlier one holds."""
    _write(folder, f"{launch}.-1")


def take(folder: Path, launch: str, number: int) -> str:
    """Begin attempt `number` of a launch; its name. Superseded where another launch or a later attempt is there."""
    own, held = f"{launch}.{number}", attempt_of(folder)
    whose, _, last = held.rpartition(".")
    if whose != launch or int(last) > number:
        raise Superseded(own, held)
    (folder / own).mkdir(parents=True, exist_ok=True)
    _write(folder, own)
    return own


def attempt_of(folder: Path) -> str:
    """The attempt that holds; "" where none began."""
    try:
        return (folder / FILE).read_text()
    except FileNotFoundError:
        return ""


def is_held(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process may write: its attempt is the newest, or it belongs to none."""
    own = environment.get(ATTEMPT, "")
    return not own or attempt_of(Path(environment[RANKS])) in ("", own)


def check_held(environment: Mapping[str, str] = os.environ) -> None:
    """Before a checkpoint is sealed or an output replaced: Superseded where this attempt is not the newest."""
    if not is_held(environment):
        raise Superseded(environment[ATTEMPT], attempt_of(Path(environment[RANKS])))


def _write(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f"{FILE}.{os.getpid()}.tmp"
    with open(aside, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(folder / FILE)
