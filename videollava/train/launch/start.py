"""A stage that wants several ranks: its wishes are checked, the ranks started, watched over, and their end told.

The process that a person, DVC or a flow called is the launcher, no rank. Whatever ends it ends the ranks: what it
starts runs under `videollava.process.Supervised`, which holds on to a pipe of the launcher's.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import videollava
from videollava.alarms import alarm
from videollava.ends import AGAIN, INTERRUPTED, STALLED, TRAINING, Ended
from videollava.environment import RANKS
from videollava.machine import Machine, Work
from videollava.params import Params
from videollava.process import Supervised
from videollava.tracking.journal import close_abandoned
from videollava.train.ending import ask_to_finish
from videollava.train.launch import setup, slurm
from videollava.train.launch.agent import SECONDS, UNKEPT
from videollava.train.launch.attempts import CANCELLED
from videollava.train.launch.failures import first_failure, read_ended
from videollava.train.launch.fence import attempt_of, offer
from videollava.train.launch.kubernetes.manifests import plan_launch
from videollava.train.launch.rank import is_rank
from videollava.train.launch.watch import Watch

__all__ = ["launch", "wants_ranks"]

# Seconds, beside those for a last checkpoint, between SIGTERM and SIGKILL.
GRACE = {"local": 8.0, "slurm": 30.0, "kubernetes": 30.0}
SAME = 1.0  # seconds between two signals of one sender
LOOK = 1.0
STOPPED = 143
OVERTIME = 124


def wants_ranks(work: Work, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a stage is to be started again by `launch`: not where this is one of the ranks already.

    One rank is started so where its time is limited: somebody has to watch the clock.
    """
    watched = work.ranks > 1 or work.launcher != "local" or work.time_limit_hours > 0
    return watched and not is_rank(environment)


def launch(stage: str, words: Sequence[str], machine: Machine, params: Params, workspace: Path) -> int:
    """Run `videollava WORDS...` on the ranks that machine.yaml wants for `stage`; its exit status.

    InputError where the set-up is wrong, before anything is started.
    """
    work = machine.work(stage)
    setup.check_launcher(work)
    if work.launcher == "local":
        setup.check_host(stage, work, params, workspace)
    folder, name = workspace.resolve() / "checkpoints/ranks" / stage, uuid.uuid4().hex[:12]
    shutil.rmtree(folder, ignore_errors=True)
    offer(folder, name)
    agent = ["-m", "videollava.train.launch.agent", name, str(work.per_node), str(work.gpus)]
    agent += [str(0 if work.launcher == "local" else work.nodes), "--", *words]
    command = [sys.executable, "-P", *_launcher(folder, name, stage, machine, agent)]
    with _asked_to_finish(stage, workspace, name), _signals() as told:
        try:
            with _started(command, workspace, folder, work) as running:
                told.hurry = running.hurry
                reason, status = _follow(running, folder, work)
        except BaseException as error:
            if told.number:
                return _stopped(stage, workspace, folder, told)
            _close(workspace, stage, "KILLED", type(error).__name__)
            raise
    if (folder / CANCELLED).exists():  # by a person: whatever its ranks kept, nobody is to start it again
        reason = _reason(folder)
    if status and not reason and (ended := read_ended(folder / attempt_of(folder))):
        return _say_ended(stage, workspace, ended)
    if status:
        _tell(stage, workspace, folder, reason, status)
        failure = first_failure(folder / attempt_of(folder)) if not reason else None
        return failure.exit_status if failure else status
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def _launcher(folder: Path, name: str, stage: str, machine: Machine, agent: Sequence[str]) -> list[str]:
    """What Python runs: the agent itself, or what has agents run on a cluster's hosts. InputError where it cannot."""
    work = machine.work(stage)
    if work.launcher == "slurm":
        slurm.write_job(folder, name, stage, work, machine.slurm, agent, _path())
        return ["-m", "videollava.train.launch.slurm", str(folder), f"{stage}-{name}"]
    if work.launcher == "kubernetes":
        plan_launch(folder, name, stage, work, machine.kubernetes, agent, _path())
        return ["-m", "videollava.train.launch.kubernetes", str(folder)]
    return list(agent)


def _started(command: Sequence[str], workspace: Path, folder: Path, work: Work) -> Supervised:
    environment = {**os.environ, RANKS: str(folder), "PYTHONPATH": _path(), "PYTHONUNBUFFERED": "1"}
    environment[SECONDS] = str(work.ending_seconds)
    return Supervised(command, workspace, environment, grace=work.ending_seconds + GRACE[work.launcher])


def _stopped(stage: str, workspace: Path, folder: Path, told: _Told) -> int:
    """All ranks are gone, as somebody wished; the exit status."""
    status = INTERRUPTED if told.number == signal.SIGINT else AGAIN
    ended = read_ended(folder / attempt_of(folder)) if attempt_of(folder) else None
    sentence = ended.sentence if ended else UNKEPT
    return _say_ended(stage, workspace, Ended(status, sentence))


def _say_ended(stage: str, workspace: Path, ended: Ended) -> int:
    print(f"videollava {stage}: {ended.sentence}", file=sys.stderr, flush=True)
    _close(workspace, stage, "KILLED", ended.sentence)
    return ended.status


def _path() -> str:
    """PYTHONPATH of the ranks: the launcher's own code, whatever the folder it is called in holds."""
    root = str(Path(videollava.__file__).parents[1])
    return os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])


def _follow(running: Supervised, folder: Path, work: Work) -> tuple[str, int]:
    """(why the launcher ended it or "", exit status)."""
    began = time.monotonic()
    watch = Watch(folder, 60 * work.slow_minutes, 60 * work.stall_minutes, _warn)
    while True:
        try:
            running.process.wait(LOOK)
            return "", running.poll() or 0
        except subprocess.TimeoutExpired:
            pass
        if reason := watch.look():
            return reason, STALLED
        if work.time_limit_hours and time.monotonic() - began > 3600 * work.time_limit_hours:
            return f"not done after {work.time_limit_hours:g} h (machine.yaml: time_limit_hours)", OVERTIME


def _tell(stage: str, workspace: Path, folder: Path, reason: str, status: int) -> None:
    """On stderr where the first failing rank was and what happened, once; and the journal's end."""
    failure = None if reason else first_failure(folder / attempt_of(folder))
    if failure and failure.trace:
        print(failure.trace, end="", file=sys.stderr)
    said = reason or (
        failure.sentence() if failure else _reason(folder) or f"the ranks ended with status {status}"
    )
    print(f"videollava {stage}: {said}", file=sys.stderr, flush=True)
    _close(workspace, stage, "FAILED", said)


def _reason(folder: Path) -> str:
    """What Slurm or Kubernetes says of the job's end."""
    return (folder / "reason").read_text() if (folder / "reason").is_file() else ""


def _close(workspace: Path, stage: str, status: Any, reason: str) -> None:
    """The end that rank 0 could not write to its journal."""
    close_abandoned(workspace / "runs", stage, status, reason)


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
    alarm(text)


@dataclass
class _Told:
    """The signal that ends this process, when it came, and how to end without a last checkpoint."""

    number: int = 0
    when: float = 0.0
    hurry: Callable[[], None] = lambda: None

    def hear(self, number: int, _: FrameType | None) -> None:
        """The first ends it by way of what has to be ended first, a second one that as well, at once."""
        if not self.number:
            self.number, self.when = number, time.monotonic()
            raise SystemExit(STOPPED)
        if time.monotonic() - self.when > SAME:
            self.hurry()


@contextmanager
def _signals() -> Iterator[_Told]:
    """Inside, signals end this process in good order."""
    told = _Told()
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = {number: signal.signal(number, told.hear) for number in numbers}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _asked_to_finish(stage: str, workspace: Path, name: str) -> Iterator[None]:
    """Inside, SIGUSR2 to this process is a request to the ranks of the launch of that name, wherever they are."""
    if stage not in TRAINING:
        yield
        return
    before = signal.signal(signal.SIGUSR2, lambda *_: ask_to_finish(workspace, stage, name))
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR2, before)
