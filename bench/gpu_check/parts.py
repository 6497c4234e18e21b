"""The parts of the check, each run as a process group of its own, with a time limit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.gpu_check.told import Row, read_rows
from videollava.environment import settle_torch

__all__ = ["GROUPS", "Outcome", "Part", "run_group"]

ROOT = Path(__file__).parents[2]
HERE = __package__
LEAST = 20.0  # seconds without which no part is begun
SAID = 12  # last lines of a part that failed
POLL = 0.1


@dataclass(frozen=True)
class Part:
    """A module that is run (`python -m`) with its options, and the seconds it may take."""

    name: str
    module: str
    seconds: float
    options: tuple[str, ...] = ()


# In order of worth: what is told last falls away first where time is short. Parts of one group run side by side; only
# the tiny ones, which are no timings, may.
GROUPS: tuple[tuple[Part, ...], ...] = (
    (Part("environment", f"{HERE}.environment", 90),),  # the first imports, from a cold disk
    (Part("tiny stages", f"{HERE}.stages", 150), Part("kill and resume", f"{HERE}.resume", 150)),
    (Part("sharded step", f"{HERE}.sharded", 60),),
    (Part("stage 2 steps", f"{HERE}.steps", 120, ("--stage", "finetune")),),
    (Part("padded way, stage 2", f"{HERE}.padded", 100, ("--stage", "2")),),
    (Part("stage 1 steps", f"{HERE}.steps", 90, ("--stage", "pretrain")),),
    (Part("generation", f"{HERE}.generation", 80),),
    (Part("adapters", f"{HERE}.adapters", 80),),
    (Part("checkpoints beside the work", f"{HERE}.saving", 60),),
    (Part("padded way, stage 1", f"{HERE}.padded", 110, ("--stage", "1")),),
)


@dataclass
class Outcome:
    """How a part ended, and what it told."""

    part: str
    status: str
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether it neither ended well nor was left out."""
        return not self.status.startswith(("done", "left out"))


@dataclass
class _Running:
    part: Part
    process: subprocess.Popen[bytes]
    log: Path
    began: float
    limit: float


def run_group(parts: Sequence[Part], deadline: float, logs: Path, options: Sequence[str]) -> list[Outcome]:
    """Run these parts side by side, until `deadline` (time.monotonic) at most; `options` go to each."""
    running: list[_Running] = []
    outcomes = []
    for part in parts:
        left = deadline - time.monotonic()
        if left < LEAST:
            outcomes.append(Outcome(part.name, f"left out: {max(0.0, left):.0f} s were left"))
        else:
            running.append(_start(part, min(part.seconds, left), logs, options))
    try:
        outcomes += _wait_for(running)
    finally:
        for one in running:
            _end(one.process)
    return outcomes


def _start(part: Part, limit: float, logs: Path, options: Sequence[str]) -> _Running:
    log = logs / f"{part.name.replace(',', '').replace(' ', '-')}.log"
    command = [sys.executable, "-m", part.module, *part.options, *options]
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VIDEOLLAVA_FOLLOWED": "1",  # nothing is sent to a tracking server
    }
    settle_torch(environment)
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=ROOT, start_new_session=True
        )
    return _Running(part, process, log, time.monotonic(), limit)


def _wait_for(running: Sequence[_Running]) -> list[Outcome]:
    """Each ends by itself or at its own limit, whichever the others still need."""
    ended: dict[int, Outcome] = {}
    while len(ended) < len(running):
        for place, one in enumerate(running):
            seconds = time.monotonic() - one.began
            if place not in ended and (one.process.poll() is not None or seconds >= one.limit):
                ended[place] = _finish(one, seconds)
        time.sleep(POLL)
    return [ended[place] for place in range(len(running))]


def _finish(one: _Running, seconds: float) -> Outcome:
    code = one.process.poll()
    _end(one.process)
    lines = one.log.read_text(errors="replace").splitlines()
    status = "done" if code == 0 else f"failed ({code})"
    if code is None:
        status = f"stopped after its {one.limit:.0f} s"
    said = [] if code == 0 else [line for line in lines if line.strip()][-SAID:]
    return Outcome(one.part.name, status, round(seconds, 1), list(read_rows(lines)), said)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The part and all that it started; a part that ended may have left some."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
