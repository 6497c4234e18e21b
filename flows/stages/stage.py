"""One stage of dvc.yaml, run by DVC in a workspace: what ran anywhere with the same inputs is restored, not
run.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.servers.proxies import with_all_proxies
from flows.stages.graph import stage_outputs
from flows.stages.reading import Outcome, Reading
from flows.stages.remote import Crawling, expect_progress, why_unreached
from flows.stages.runcache import send_runs
from flows.storage import has_remote
from videollava.environment import ask_loopback_directly
from videollava.errors import InputError
from videollava.machine import load_machine
from videollava.process import GRACE_SECONDS, OutputLines, Supervised, run_streamed
from videollava.scrub import scrub

__all__ = ["StageFailed", "StageResult", "is_current", "push_stages", "run_stage"]

NOISE = re.compile(
    r"^(Updating lock file|Generating lock file|To track the changes with git|git add .*dvc\.lock|"
    r"To enable auto staging|dvc config core\.autostage|Use `dvc push`|Data and pipelines are up to date|"
    r"Stage '.*' didn't change, skipping|> .*videollava |WARNING: Process '.* in RWLock-file )"
)
PULL = ("--pull", "--allow-missing")
NO_RUNS = ("--no-run-cache",)
AGAIN = ("--force", "--single-item")
PUSH = "dvc push --run-cache"
LOCK_SECONDS = 600.0
LOCK_PAUSE = 5.0
CLUSTER_SECONDS = 30.0
OF_DVC = ("ERROR:", "Running stage", "> ", "Stage '")  # lines that DVC writes around a stage's own


class StageFailed(RuntimeError):
    """A stage ended badly; its text begins with the last that the stage said, and ends with its last lines.

    status: the exit status of the stage's command, DVC's own where it never came to that. lasting: whether another
    try would end the same.
    """

    def __init__(self, stage: str, status: int, tail: Iterable[str], lasting: bool = False) -> None:
        self.stage = stage
        self.status = status
        self.lasting = lasting
        lines = list(tail)
        own = [line.strip() for line in lines if line.strip() and not line.startswith(OF_DVC)]
        reason = f": {own[-1]}" if own else ""
        super().__init__(scrub(f"stage {stage} failed (exit status {status}){reason}\n" + "\n".join(lines)))


@dataclass(frozen=True)
class StageResult:
    """What became of a stage: it ran here, was restored from the cache, or was up to date.

    unpushed: why its outputs are not on the remote though they should be.
    """

    stage: str
    outcome: Outcome
    seconds: float
    unpushed: str = ""


def run_stage(
    workspace: Path,
    stage: str,
    say: Callable[[str], None] = print,
    env: Mapping[str, str] | None = None,
    keep: Iterable[int] = (),
    echo: Callable[[str], None] | None = None,
    whole: bool = False,
    again: bool = False,
    look: Callable[[Supervised], object] | None = None,
    recalled: bool = False,
) -> StageResult:
    """`dvc repro STAGE` in `workspace`, its output line by line to `say`; StageFailed where it fails.

    Whatever interrupts it (a cancelled flow, Ctrl-C, an error in `say`) ends every process of the stage
    first. keep: open files that the stage's processes hold too (a lock on the workspace). echo: what a person
    watches gets the same, on a terminal raw, progress bars included.

    A remote that does not answer, or lacks what it should have, costs a warning: what is here is used. Another DVC
    at work in here is waited for. whole: the outputs must lie here at the end, also where DVC leaves them on the
    remote since no stage needs them. again: it runs whether it ran before or not, and nothing is restored; what it
    reads must lie here. look: called every second or so meanwhile; what it raises ends the stage. recalled: the
    run-cache was asked for it before (flows/team/known.py), and is not brought here whole.
    """
    began = time.monotonic()
    if not again and is_current(workspace, stage):
        return StageResult(stage, "unchanged", time.monotonic() - began)
    live = echo is not None and sys.stdout.isatty()

    def tell(line: str) -> None:
        say(line)
        if echo and not live:
            echo(f"{line}\n")

    def warn(line: str) -> None:
        tell(f"{stage}: {line}")
        if echo and live:
            echo(f"{stage}: {line}\n")

    # FACTS: with a remote, what other machines made is restored without downloading what nobody needs.
    pull = has_remote(workspace) and not again
    if pull and (reason := why_unreached(workspace)):
        warn(f"the DVC remote is not reached ({reason}); what is here is used")
        pull = False
    while True:
        reading = Reading(stage, tell)
        words = ["repro", *(AGAIN if again else PULL if pull else ()), *(NO_RUNS if recalled else ()), stage]
        status = _dvc(
            words, workspace, reading, pull, env, keep, echo if live else None, _grace(workspace), look
        )
        if not status and not (whole and pull and _missing(workspace, stage)):
            return StageResult(stage, reading.outcome, time.monotonic() - began)
        bringing = Reading(stage, tell)
        if not status and not _dvc(["pull", stage], workspace, bringing, remote=True):
            return StageResult(stage, "restored", time.monotonic() - began)
        if reading.locked and time.monotonic() - began < LOCK_SECONDS:
            warn("another DVC is at work in this folder; waiting for it")
            time.sleep(LOCK_PAUSE)
        elif pull and reading.inner is None and not reading.locked:
            lacking = reading.error if status else f"outputs of this stage: {bringing.error.rstrip(':')}"
            warn(f"what the DVC remote has cannot be taken ({lacking}); what is here is used")
            pull = False
        else:
            raise StageFailed(stage, reading.inner or status, reading.tail, reading.lasting)


def push_stages(
    workspace: Path,
    stages: Sequence[str],
    say: Callable[[str], None] = print,
    echo: Callable[[str], None] | None = None,
) -> str:
    """Push stages' outputs and their entries in the run-cache, so that others restore them; "" or why it could not be.

    Nothing to do without a remote. What fails here is no reason to lose a training: it stays in the cache.
    """
    if not has_remote(workspace):
        return ""
    names = ", ".join(stages)
    if not (reason := why_unreached(workspace)):
        reading = Reading(stages[0], lambda _: None)
        if not _dvc(["push", *stages], workspace, reading, remote=True):
            reason = _send_runs(workspace, stages)
            if not reason:
                say(f"{names}: pushed to the remote")
                return ""
        reason = reason or reading.error
    text = f"{names}: not pushed to the DVC remote ({reason}); it is in the cache here, and `{PUSH}` sends it later"
    say(text)
    if echo:
        echo(f"{text}\n")
    return reason


def _send_runs(workspace: Path, stages: Sequence[str]) -> str:
    try:
        send_runs(workspace, stages)
    except (InputError, OSError) as error:
        return scrub(f"its run-cache: {error}")
    return ""


def is_current(workspace: Path, stage: str = "") -> bool:
    """Whether DVC has nothing to do for the stage and all it needs (for every stage without one)."""
    if not (workspace / "dvc.lock").is_file():
        return False
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)  # it warns of the locks of killed runs, and removes them
    try:
        with Repo(str(workspace)) as repo:
            target = [f"{workspace.resolve() / 'dvc.yaml'}:{stage}"] if stage else None
            return not repo.status(targets=target, with_deps=bool(stage))
    except DvcException:  # whatever it is, `dvc repro` will say it better
        return False


def _missing(workspace: Path, stage: str) -> bool:
    return not all((workspace / out).exists() for out in stage_outputs(workspace, stage))


def _grace(workspace: Path) -> float:
    """A last checkpoint, and for a cluster's job the time that the cluster takes to end it."""
    machine = load_machine(workspace)
    return machine.ending_seconds + GRACE_SECONDS + (CLUSTER_SECONDS if machine.launcher != "local" else 0)


def _dvc(
    words: Sequence[str],
    workspace: Path,
    reading: Reading,
    remote: bool,
    env: Mapping[str, str] | None = None,
    keep: Iterable[int] = (),
    terminal: Callable[[str], None] | None = None,
    grace: float = GRACE_SECONDS,
    watch: Callable[[Supervised], object] | None = None,
) -> int:
    """A DVC command; its exit status. remote: it may wait for one, which is given up when it crawls. grace: seconds
    that it has, interrupted, to end.
    """
    command = [sys.executable, "-m", "dvc", *words]
    lines = OutputLines(reading.take, terminal, NOISE)
    crawls = expect_progress(workspace, lambda: reading.begun) if remote else None
    looks = [one for one in (crawls, watch) if one]
    look = _all(looks) if looks else None
    environment = stage_environment(workspace, env)
    try:
        return run_streamed(command, workspace, environment, lines, keep, grace, bool(terminal), look)
    except Crawling as error:
        reading.error = str(error)
        return 1


def _all(looks: Sequence[Callable[[Supervised], object]]) -> Callable[[Supervised], None]:
    def look(running: Supervised) -> None:
        for one in looks:
            one(running)

    return look


def stage_environment(workspace: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment, with the running interpreter's programs and the workspace's own code first."""
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    width = str(shutil.get_terminal_size((110, 24)).columns)
    own = {
        "PATH": programs,
        "PYTHONPATH": str(workspace.resolve()),
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": width,
    }
    environment = {**with_all_proxies(dict(os.environ)), "DVC_NO_ANALYTICS": "1", **own, **(extra or {})}
    ask_loopback_directly(environment)
    return environment
