from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from videollava.data import pool as pool_module
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


def die_of_fives(number: int) -> bytes:
    if number % 5 == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return bytes(number) * 100_000  # more than a pipe holds


def test_workers_that_die_beside_each_other_cost_their_items_alone() -> None:
    with Pool(3) as pool:
        found = list(pool.stream(die_of_fives, range(16), crashed=lambda number: b"", window=8))
    assert [len(result) for result in found] == [100_000 * n if n % 5 else 0 for n in range(16)]


def test_errors_come_through() -> None:
    with Pool(2) as pool, pytest.raises(InputError, match="3 is wrong"):
        list(pool.stream(complain, [3]))


class Unsendable(Exception):
    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)


def complain_unsendably(number: int) -> object:
    if number:
        raise Unsendable(number, "no such thing")
    return lambda: number


def test_what_cannot_be_sent_is_an_error_that_says_what_it_was() -> None:
    with Pool(2) as pool:
        with pytest.raises(RuntimeError, match=r"Unsendable: no such thing(.|\n)*In a worker process"):
            list(pool.stream(complain_unsendably, [3]))
        with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
            list(pool.stream(complain_unsendably, [0]))
        assert list(pool.stream(double, [1])) == [2]


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


def test_what_hangs_ends_with_its_pool() -> None:
    started = time.monotonic()
    with Pool(2) as pool:
        assert next(pool.stream(hang_at_three, [1, 3, 3, 3], window=2)) == 1
    assert time.monotonic() - started < 20


def leave_a_thread(number: int) -> int:
    threading.Thread(target=threading.Event().wait).start()
    return number


def test_a_thread_left_behind_keeps_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "PATIENCE", 0.1)
    with Pool(2) as pool:
        assert list(pool.stream(leave_a_thread, range(3))) == [0, 1, 2]


def test_a_pool_that_nobody_closed_does_not_outlive_its_program(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "from videollava.data.pool import Pool\n"
        "if __name__ == '__main__':\n"
        "    pool = Pool(2)\n"
        "    print(list(pool.stream(abs, [-1, -2, -3])))\n"
    )
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("[1, 2, 3]\n", "", 0)


def fork_and_double(pool: Pool, told: int) -> int:
    forked = os.fork()
    if forked == 0:
        try:
            os.write(told, bytes(pool.stream(double, [4], crashed=double)))
        finally:
            os._exit(0)
    return forked


def test_a_fork_starts_workers_of_its_own() -> None:
    heard, told = os.pipe()
    with Pool(1) as pool:
        assert list(pool.stream(double, [1], crashed=double)) == [2]
        forked = fork_and_double(pool, told)
        os.close(told)
        assert os.read(heard, 1) == bytes([8])
        os.waitpid(forked, 0)
        assert list(pool.stream(double, [2], crashed=double)) == [4]
