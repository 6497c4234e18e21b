"""Every part of a team dies once while stage 2 trains and once while a version is registered; so do disks, stores and
people's patience. What was there before is there after; the next trigger ends with the digits of the undisturbed run.

FAULTS_FOLDER=DIR keeps the stack there, and up, between two calls of pytest: a case alone is then minutes, not ten.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from blows import Blow, cancel, fill, has_clock, jump, kill_part, kill_process, kill_rank, own_clock, refuse
from laid import FINAL, Laid, command_line, laid, wait_until

from flows.stack import programs
from videollava.errors import InputError

pytestmark = pytest.mark.slow
STAGE, REGISTRATION = "stage 2", "registration"
GONE_SECONDS = 150.0  # for what ends by itself, and for a sweep that the schedule has just begun
ENGINE = r"prefect[. ]engine|flow-run execute"
SAVED = re.compile(r"refs/\S+: (?:[0-9a-f]{40}|saved before)")  # what a coordinator says before it registers


@dataclass(frozen=True)
class Case:
    """when: the blow falls. ends: how the run that is struck may end, the next trigger aside; without any it is closed
    by whoever comes next, for nobody is left to do so.
    """

    what: str
    when: str
    blow: Blow
    ends: tuple[str, ...] = ("COMPLETED",)

    @property
    def name(self) -> str:
        """Of the test, of the branch and of the model."""
        return f"{self.what}-{self.when}".replace(" ", "-")


FAIL = ("COMPLETED", "FAILED", "CRASHED")  # where nobody can go on by himself, it must at least end
BLOWS: dict[str, tuple[Blow, tuple[str, ...]]] = {
    "gpu-worker": (kill_part("gpu"), ("COMPLETED",)),
    "prefect": (kill_part("prefect"), ("COMPLETED",)),
    "mlflow": (kill_part("mlflow"), ("COMPLETED",)),
    "cancel": (cancel, ("CANCELLED", "COMPLETED")),  # the latter where it was done already
    "coordinator": (kill_part("coordinator"), ()),
    "coordinator-flow": (kill_process("coordinator", ENGINE), FAIL),
    "rank": (kill_rank, ("COMPLETED",)),
    "stage": (kill_process("gpu", "videollava finetune"), ("COMPLETED",)),
    "s3": (kill_part("s3"), FAIL),
    "postgres": (kill_part("postgres"), FAIL),
    "s3-503": (refuse, FAIL),
    "disk-full": (fill, FAIL),
    "clock-forward": (jump("gpu", 600), ("COMPLETED",)),
    "clock-back": (jump("gpu", -600), ("COMPLETED",)),
    "clock-forward-of-coordinator": (jump("coordinator", 600), ("COMPLETED",)),
    # By less: a worker asks, by its own clock, for what is to begin by now, so the next trigger begins as much later.
    "clock-back-of-coordinator": (jump("coordinator", -120), ("COMPLETED",)),
}
# Nothing of these is there to be struck once stage 2 is done.
TRAINING = ("rank", "stage", "disk-full", "clock-forward", "clock-back")
CLOCKS = {what: "coordinator" if "coordinator" in what else "gpu" for what in BLOWS if "clock" in what}
CASES = [
    Case(what, when, blow, ends)
    for what, (blow, ends) in BLOWS.items()
    for when in (STAGE, REGISTRATION)
    if when == STAGE or what not in TRAINING
]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laid]:
    """The stack, for all cases."""
    try:
        programs.check_programs()
    except InputError as error:
        pytest.skip(str(error))
    kept = os.environ.get("FAULTS_FOLDER", "")
    with ExitStack() as stack:
        found = stack.enter_context(
            laid(Path(kept) if kept else tmp_path_factory.mktemp("faults"), keep=bool(kept))
        )
        found.stack.up()
        yield found


@pytest.fixture(scope="module")
def undisturbed(ground: Laid) -> tuple[str, str]:
    """The digits of a run that nothing happens to."""
    if "undisturbed" not in ground.registry():
        run = ground.trigger(ground.commit("undisturbed", 0))
        assert ground.wait(run, 1800) == "COMPLETED", ground.why(run)
    return ground.digits("undisturbed")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_next_trigger_ends_as_if_nothing_had_happened(
    ground: Laid, undisturbed: tuple[str, str], case: Case
) -> None:
    with clock_of(ground, case):
        strike(ground, undisturbed, case)


def strike(ground: Laid, undisturbed: tuple[str, str], case: Case) -> None:
    """Let a run be struck, trigger it again, and look what is there then."""
    before = ground.registry()
    name = ground.fresh(case.name, before)
    commit = ground.commit(name, 1 + CASES.index(case) + 100 * len(before) if case.when == STAGE else 0)
    ground.mark()
    run = ground.trigger(commit)
    at_stage(ground, run) if case.when == STAGE else at_registration(ground, run)
    struck = time.monotonic()
    case.blow(ground, run)
    ended = ground.wait(run) if case.ends else ""
    seconds = time.monotonic() - struck
    if ended and ended != "COMPLETED":
        check_gone(ground)
    next_one = ground.trigger(commit)
    assert ground.wait(next_one) == "COMPLETED", ground.why(next_one)
    done = seconds if ended == "COMPLETED" else time.monotonic() - struck
    ended = ended or ground.wait(run)
    equal = ground.digits(name) == undisturbed
    ground.note(case.what, case.when, f"{ended.lower()} after {seconds:.0f} s", done, equal)
    assert ended in (case.ends or FAIL), ground.why(run)
    assert equal, (ground.digits(name), undisturbed)
    check_registry(before, ground.registry(), name)
    check_gone(ground)
    assert ground.corrupt() == []


def test_two_leads_promote_at_once_and_one_champion_is_left(
    ground: Laid, undisturbed: tuple[str, str]
) -> None:
    before = ground.registry()
    name = ground.fresh("two-leads", before)
    for changes in ((), ("finetune.learning_rate=0.002",)):
        run = ground.trigger(ground.commit(name, 0, *changes), promote=False)
        assert ground.wait(run) == "COMPLETED", ground.why(run)
    told = ground.promote_at_once(name, (1, 2))
    after = ground.registry()
    assert after[name]["champion"] in after[name]["versions"], told
    assert set(after[name]["versions"]) == {"1", "2"}
    assert {other: after[other] for other in before} == before
    assert 0 in [status for status, _ in told], told
    ground.note("two leads", "promotion", f"champion is version {after[name]['champion']}", 0.0, True)
    check_gone(ground)


def clock_of(ground: Laid, case: Case) -> AbstractContextManager[None]:
    """Of the machine that is struck, where its clock is what jumps."""
    if case.what not in CLOCKS:
        return nullcontext()
    if not has_clock():
        pytest.skip("no C compiler here")
    return own_clock(ground, CLOCKS[case.what])


def at_stage(ground: Laid, run: str) -> None:
    """Return when stage 2 has made a checkpoint, and trains."""
    known = set(ground.objects("checkpoints"))

    def trains() -> bool:
        made = [key for key in ground.objects("checkpoints") if key not in known and "finetune" in key]
        return len(made) > 3 and bool(ground.ranks())

    wait_until(lambda: trains() or over(ground, run), "stage 2 to make a checkpoint", 900)


def at_registration(ground: Laid, run: str) -> None:
    """Return when the coordinator is about to register."""
    deadline = time.monotonic() + 600
    while not SAVED.search(ground.said("coordinator")):
        assert time.monotonic() < deadline
        over(ground, run)
        time.sleep(0.1)


def over(ground: Laid, run: str) -> bool:
    """False; an assertion where the run ended before the blow."""
    now = ground.state(run)
    assert now not in FINAL, f"{now} before the blow: {ground.why(run)}"
    return False


def check_registry(before: dict[str, Any], after: dict[str, Any], name: str) -> None:
    """Others' versions are as they were; there is one version of this model, whole, and it is champion."""
    assert {other: after[other] for other in before} == before
    assert list(after[name]["versions"]) == ["1"]
    assert after[name]["champion"] == "1"


def check_gone(ground: Laid) -> None:
    """Nothing is at work any more: no process but the workers', no run, no slot, no lock."""

    def left() -> list[str]:
        workers = ("coordinator", "data", "gpu")
        return [f"{name}: {command_line(pid)[:200]}" for name in workers for pid in ground.at_work(name)]

    deadline = time.monotonic() + GONE_SECONDS
    while left() or ground.unfinished() or ground.slots() or ground.locks():
        if time.monotonic() > deadline:
            raise AssertionError(
                json.dumps([left(), ground.unfinished(), ground.slots(), ground.locks()], indent=1)
            )
        time.sleep(0.5)
