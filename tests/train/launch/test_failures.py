"""What is told of a failed launch is the cause, by name, not what followed from it."""

from __future__ import annotations

import signal
from pathlib import Path

from videollava.errors import InputError
from videollava.train.launch.failures import Failure, first_failure, report, write_failure


def test_a_killed_rank_comes_before_the_connections_that_broke_with_it(tmp_path: Path) -> None:
    broken = report(0, RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer [127.0.0.1]:4"))
    write_failure(tmp_path, broken)
    write_failure(tmp_path, Failure(3, "n2", broken.time + 1, -signal.SIGKILL))
    write_failure(tmp_path, Failure(1, "n1", broken.time + 1, -signal.SIGTERM))
    found = first_failure(tmp_path)
    assert found is not None
    assert found.sentence().startswith("rank 3 (on n2) was killed (SIGKILL): by hand, or for memory")
    assert found.exit_status == 137


def test_an_error_comes_before_what_it_did_to_others_whenever_it_was_written(tmp_path: Path) -> None:
    write_failure(tmp_path, report(0, RuntimeError("Connection reset by peer")))
    write_failure(tmp_path, Failure(0, "n1", 0.0, 1))  # seen by the agent, after its own words
    write_failure(tmp_path, Failure(1, "n1", 0.0, -signal.SIGABRT))  # NCCL's watchdog
    write_failure(tmp_path, report(2, ZeroDivisionError("division by zero")))
    found = first_failure(tmp_path)
    assert found is not None
    assert found.rank == 2
    assert "ZeroDivisionError: division by zero" in found.sentence()
    assert "Traceback" in found.trace or "ZeroDivisionError" in found.trace
    assert found.exit_status == 1


def test_a_users_mistake_is_its_one_sentence_and_status_2(tmp_path: Path) -> None:
    for rank in (0, 1):
        write_failure(tmp_path, report(rank, InputError("x.json: no field y: add it")))
    found = first_failure(tmp_path)
    assert found is not None
    assert (found.sentence(), found.exit_status, found.trace) == ("x.json: no field y: add it", 2, "")


def test_a_folder_without_any_has_no_failure(tmp_path: Path) -> None:
    assert first_failure(tmp_path) is None
