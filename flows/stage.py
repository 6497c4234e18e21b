"""One stage of dvc.yaml, run by DVC in a workspace: what ran anywhere with the same inputs is restored, not
run.

As a program: `python -m flows.stage NAME [WORKSPACE]`.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flows.process import OutputLines, run_streamed
from flows.proxies import with_all_proxies
from flows.storage import has_remote
from videollava.environment import ask_loopback_directly

__all__ = ["StageFailed", "StageResult", "is_current", "push_stage", "run_stage"]

NOISE = re.compile(
    r"^(Updating lock file|Generating lock file|To track the changes with git|git add .*dvc\.lock|"
    r"To enable auto staging|dvc config core\.autostage|Use `dvc push`|Data and pipelines are up to date|"
    r"Stage '.*' didn't change, skipping|> .*videollava |WARNING: Process '.* in RWLock-file )"
)
USAGE_ERROR = 2  # what `videollava` exits with on a user's mistake: another try would end the same
TAIL = 30


class StageFailed(RuntimeError):
    """A stage ended badly; its text ends with the last lines the stage wrote."""

    def __init__(self, stage: str, status: int, tail: Iterable[str]) -> None:
        self.stage = stage
        self.status = status
        super().__init__(f"stage {stage} failed (exit status {status})\n" + "\n".join(tail))


@dataclass(frozen=True)
class StageResult:
    """What became of a stage: it ran here, was restored from the cache, or was up to date."""

    stage: str
    outcome: Literal["ran", "restored", "unchanged"]
    seconds: float


def run_stage(
    workspace: Path,
    stage: str,
    say: Callable[[str], None] = print,
    env: Mapping[str, str] | None = None,
    keep: Iterable[int] = (),
    echo: Callable[[str], None] | None = None,
) -> StageResult:
    """`dvc repro STAGE` in `workspace`, its output line by line to `say`; StageFailed where it fails.

    Whatever interrupts it (a cancelled flow, Ctrl-C, an error in `say`) ends every process of the stage
    first. keep: open files that the stage's processes hold too (a lock on the workspace). echo: what a person
    watches gets the same, on a terminal raw, progress bars included.
    """
    began = time.monotonic()
    if is_current(workspace, stage):
        return StageResult(stage, "unchanged", time.monotonic() - began)
    outcome: Literal["ran", "restored", "unchanged"] = "unchanged"
    live = echo is not None and sys.stdout.isatty()
    tail: list[str] = []

    def take(line: str) -> None:
        nonlocal outcome
        if line.startswith(f"Running stage '{stage}'"):
            outcome = "ran"
        elif line.startswith(f"Stage '{stage}' is cached"):
            outcome = "restored"
        tail.append(line)
        del tail[:-TAIL]
        say(line)
        if echo and not live:
            echo(f"{line}\n")

    # FACTS: with a remote, what other machines made is restored without downloading what nobody needs.
    pull = ["--pull", "--allow-missing"] if has_remote(workspace) else []
    status = run_streamed(
        [sys.executable, "-m", "dvc", "repro", *pull, stage],
        workspace,
        stage_environment(workspace, env),
        OutputLines(take, echo if live else None, NOISE),
        keep,
        terminal=live,
    )
    if status:
        raise StageFailed(stage, _inner_status(tail, status), tail)
    return StageResult(stage, outcome, time.monotonic() - began)


def push_stage(workspace: Path, stage: str, say: Callable[[str], None] = print) -> bool:
    """Push a stage's outputs and the run-cache, so that others restore them; False without a remote."""
    if not has_remote(workspace):
        return False
    tail: list[str] = []
    lines = OutputLines(lambda line: tail.append(line), noise=NOISE)
    command = [sys.executable, "-m", "dvc", "push", "--quiet", "--run-cache", stage]
    status = run_streamed(command, workspace, stage_environment(workspace), lines)
    if status:
        raise StageFailed(f"{stage} (dvc push)", status, tail[-TAIL:])
    say(f"{stage}: pushed to the remote")
    return True


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


def _inner_status(tail: Iterable[str], status: int) -> int:
    found = re.findall(r"exited with (\d+)", "\n".join(tail))
    return int(found[-1]) if found else status


if __name__ == "__main__":
    try:
        result = run_stage(Path(sys.argv[2] if len(sys.argv) > 2 else "."), sys.argv[1])
    except StageFailed as failure:
        raise SystemExit(failure.status) from failure
    print(f"{result.stage}: {result.outcome} in {result.seconds:.1f} s")
