"""Every server, worker and process killed once, in stage 2 and while a version is registered.

Nothing is lost, nothing is left, and the next trigger ends with the digits of an undisturbed run.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from field import Field, full, lay_out, refusing

from flows.stack import programs
from videollava.errors import InputError

pytestmark = pytest.mark.slow
AWAY = 10.0  # seconds that a server is gone
GONE = 30.0  # seconds in which all that was cancelled is gone
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    try:
        programs.check_programs()
    except InputError as error:
        pytest.skip(str(error))
    with lay_out(tmp_path_factory.mktemp("faults")) as made:
        yield made


def lose(name: str) -> Callable[[Field], None]:
    """kill -9 of a part with all that it started; whoever looks after it starts it again."""

    def act(field: Field) -> None:
        field.stack.kill(name)
        time.sleep(AWAY)
        field.stack.up()

    return act


def kill_rank(field: Field) -> None:
    os.kill(field.ranks()[-1], signal.SIGKILL)


def kill_stage(field: Field) -> None:
    os.kill(field.launcher(), signal.SIGKILL)


def refuse(field: Field) -> None:
    field.stack.kill("s3")
    with refusing(field.stack.ground.ports["s3"]):
        time.sleep(60)
    field.stack.start("s3")


def jump(field: Field) -> None:
    (field.stack.folder / "clock").write_text("+3h")


WORKS = {
    "gpu worker": lose("gpu"),
    "rank": kill_rank,
    "stage": kill_stage,
    "coordinator": lose("coordinator"),
    "prefect": lose("prefect"),
    "mlflow": lose("mlflow"),
    "s3": lose("s3"),
    "postgres": lose("postgres"),
    "503 for a minute": refuse,
}
REGISTERS = {name: WORKS[name] for name in ("coordinator", "prefect", "mlflow", "s3", "postgres")}


@pytest.fixture
def case(field: Field, request: pytest.FixtureRequest) -> Iterator[Field]:
    """The field with a recipe that no other case has; afterwards, what always holds."""
    known = sorted(item.name for item in request.session.items if "field" in item.fixturenames)
    field.rate = round(0.001 + 0.000001 * (1 + known.index(request.node.name)), 9)
    before = field.versions()
    field.stack.up()
    yield field
    field.stack.up()
    assert before <= field.versions()
    field.check_caches()


def end_well(field: Field, run: str, began: float, what: str) -> None:
    """Trigger until one completes; what it made is what an undisturbed run makes, and nothing is left at work."""
    ended, asked = [field.wait(run)], 1
    while ended[-1] != "COMPLETED":
        assert asked < 3, field.words(run)
        run, asked = field.trigger(), asked + 1
        ended.append(field.wait(run))
    seconds = time.monotonic() - began
    field.until(lambda: not field.at_work(), 60)
    assert field.digits() == field.undisturbed()
    print(f"\n| {what} | {', '.join(ended).lower()} | {seconds:.0f} s | {os.getloadavg()[0]:.0f} |")


@pytest.mark.parametrize("what", WORKS)
def test_in_stage_2(case: Field, what: str) -> None:
    run = case.trigger()
    case.in_stage_2(run)
    began = time.monotonic()
    WORKS[what](case)
    end_well(case, run, began, f"{what}, in stage 2")


@pytest.mark.parametrize("what", REGISTERS)
def test_while_a_version_is_registered(case: Field, what: str) -> None:
    run = case.trigger()
    case.at_registration(run)
    began = time.monotonic()
    REGISTERS[what](case)
    end_well(case, run, began, f"{what}, in registration")


def test_cancelled_from_the_page(case: Field) -> None:
    run = case.trigger()
    case.in_stage_2(run)
    began = time.monotonic()
    case.cancel(run)
    case.until(
        lambda: not case.ranks() and not any("-m dvc" in line for line in case.at_work().values()), GONE
    )
    assert case.wait(run, 60) == "CANCELLED"
    end_well(case, case.trigger(), began, "cancelled in stage 2")


def test_a_full_disk_under_the_workers_cache(case: Field) -> None:
    if os.geteuid():
        pytest.skip("a disk is laid over a folder by root")
    run = case.trigger()
    case.in_stage_2(run)
    began = time.monotonic()
    with full(case.stack.folder / "gpu/.dvc/cache"):
        assert case.wait(run) != "COMPLETED"
    assert "full" in case.words(run).lower() or "no space" in case.words(run).lower()
    end_well(case, case.trigger(), began, "disk full under the worker's DVC cache")


def test_a_workers_clock_that_jumps(case: Field) -> None:
    if not FAKETIME.is_file():
        pytest.skip("libfaketime is not installed (apt-get install libfaketime)")
    clock = case.stack.folder / "clock"
    clock.write_text("+0")
    gpu = case.stack.parts["gpu"]
    faked = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1"}
    kept = dict(gpu.environment)
    gpu.environment.update(faked | {"FAKETIME_DONT_FAKE_MONOTONIC": "1"})  # type: ignore[attr-defined]
    try:
        case.stack.restart("gpu")
        run = case.trigger()
        case.in_stage_2(run)
        began = time.monotonic()
        jump(case)
        end_well(case, run, began, "the worker's clock three hours on, in stage 2")
    finally:
        gpu.environment.clear()  # type: ignore[attr-defined]
        gpu.environment.update(kept)  # type: ignore[attr-defined]
        case.stack.restart("gpu")


def test_two_leads_at_once(case: Field) -> None:
    began = time.monotonic()
    first = case.trigger()
    theirs, mine = case.rate, round(case.rate + 0.0005, 9)
    case.rate = mine
    second = case.trigger()
    assert case.wait(first) == "COMPLETED", case.words(first)
    end_well(case, second, began, "two leads with two recipes at once")
    case.rate = theirs
    assert case.digits() == case.undisturbed()
