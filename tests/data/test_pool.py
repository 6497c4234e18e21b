from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from videollava.data.pool import Pool
from videollava.errors import InputError


def double(number: int) -> int:
    return 2 * number


def die_of_seven(number: int) -> int:
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def complain(number: int) -> int:
    raise InputError(f"{number} is wrong")


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_come_in_order(workers: int) -> None:
    with Pool(workers) as pool:
        assert list(pool.stream(double, range(50))) == list(range(0, 100, 2))
        assert list(pool.stream(double, [])) == []


def test_items_are_taken_as_they_are_needed() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    with Pool(2) as pool:
        results = pool.stream(double, items(), window=4)
        assert next(results) == 0
        assert len(taken) <= 5


def test_a_crash_costs_its_item_alone() -> None:
    with Pool(2) as pool:
        found = list(pool.stream(die_of_seven, range(12), crashed=lambda number: -number, window=5))
        assert found == [*range(7), -7, *range(8, 12)]
        assert list(pool.stream(double, [1])) == [2]


def test_a_crash_that_nobody_expects_is_an_error() -> None:
    with Pool(2) as pool, pytest.raises(InputError, match="worker process died"):
        list(pool.stream(die_of_seven, [7]))


def test_errors_come_through() -> None:
    with Pool(2) as pool, pytest.raises(InputError, match="3 is wrong"):
        list(pool.stream(complain, [3]))


def test_no_worker_outlives_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import time\n"
        "from videollava.data.pool import Pool\n"
        "def wait():\n"
        "    with Pool(2) as pool:\n"
        "        list(pool.stream(abs, [1, 2]))\n"
        "        print('ready', flush=True)\n"
        "        list(pool.stream(time.sleep, [60]))\n"
        "if __name__ == '__main__':\n"
        "    wait()\n"
    )
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    children = psutil.Process(parent.pid).children(recursive=True)
    assert children
    started = time.monotonic()
    parent.kill()
    parent.communicate()
    gone, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    assert len(gone) == len(children)
    assert time.monotonic() - started < 20


def hang_at_three(number: int) -> int:
    if number == 3:
        signal.pause()
    return number


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_what_may_crash_or_hang_never_runs_in_this_process(workers: int) -> None:
    """The alarm's default is to end the process: here it would end the tests."""
    with Pool(workers) as pool:
        crashed = pool.stream(die_of_seven, range(6, 9), crashed=lambda number: -number)
        assert list(crashed) == [6, -7, 8]
        hung = pool.stream(hang_at_three, range(2, 5), crashed=lambda number: -number, seconds=1)
        assert list(hung) == [2, -3, 4]


def fork_and_double(pool: Pool, told: int) -> None:
    if os.fork() == 0:
        try:
            os.write(told, bytes(pool.stream(double, [4], crashed=double)))
        finally:
            os._exit(0)


def test_a_fork_starts_workers_of_its_own() -> None:
    heard, told = os.pipe()
    with Pool(1) as pool:
        assert list(pool.stream(double, [1], crashed=double)) == [2]
        fork_and_double(pool, told)
        assert os.read(heard, 1) == bytes([8])
        os.wait()
        assert list(pool.stream(double, [2], crashed=double)) == [4]
