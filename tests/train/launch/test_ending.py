"""Told to end, real processes make a last checkpoint, say "again", leave nothing running, go on to the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from micro import ROOT, write_machine
from safetensors.torch import load_file
from started import end, last_end, newest, pulses, start, wait_for

from videollava.ends import AGAIN, INTERRUPTED
from videollava.tracking.spent import read_notes

WEIGHTS = "models/videollava/model.safetensors"
RARE = 1_000_000.0  # minutes between checkpoints: the last one is the only one


def steps_done(folder: Path) -> int:
    """By the journal."""
    return sum(
        path.read_text().count('"step_seconds"') for path in (folder / "runs/finetune").glob("*.jsonl")
    )


def same_bits(one: Path, other: Path) -> bool:
    ours, theirs = load_file(one / WEIGHTS), load_file(other / WEIGHTS)
    return ours.keys() == theirs.keys() and all(bool((ours[n] == theirs[n]).all()) for n in ours)


def gone(mentions: Callable[[str], list[int]], folder: Path) -> bool:
    deadline = time.monotonic() + 5
    while mentions(str(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not mentions(str(folder))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_process_and_its_readers_signalled_as_a_group_make_a_last_checkpoint(
    workspace: Callable[[str], Path], mentions: Callable[[str], list[int]], number: signal.Signals
) -> None:
    folder = workspace("ours")
    write_machine(folder, checkpoint_minutes=RARE, workers=1)
    running = start(folder, "finetune", "finetune.epochs=500", group=True)
    wait_for(lambda: steps_done(folder) >= 2, running)
    os.killpg(running.pid, number)
    status, said = end(running)
    assert status == (AGAIN if number == signal.SIGTERM else INTERRUPTED), said
    assert "finetune: stopped after step " in said.splitlines()[-1]
    assert newest(folder) >= 2
    assert last_end(folder)["status"] == "KILLED"
    assert last_end(folder)["error"].startswith("finetune: stopped after step ")
    assert gone(mentions, folder)


@pytest.mark.slow
def test_two_ranks_told_to_end_say_again_and_go_on_to_the_same_bits(
    workspace: Callable[[str], Path], mentions: Callable[[str], list[int]]
) -> None:
    whole, ours = workspace("whole"), workspace("ours")
    for folder in (whole, ours):
        write_machine(folder, processes=2, checkpoint_minutes=RARE, workers=1)
    running = start(ours, "finetune", "finetune.epochs=3")
    wait_for(lambda: steps_done(ours) >= 2, running)
    running.terminate()
    status, said = end(running)
    assert status == AGAIN, said
    assert "videollava finetune: finetune: stopped after step " in said.splitlines()[-1]
    assert "Traceback" not in said
    assert gone(mentions, ours)
    kept = newest(ours)
    assert kept >= 2
    assert (last_end(ours)["status"], last_end(ours)["error"]) == ("KILLED", said.splitlines()[-1][21:])
    for folder in (ours, whole):
        status, said = end(start(folder, "finetune", "finetune.epochs=3"))
        assert status == 0, said
        assert (f"goes on after step {kept} of " in said) == (folder == ours)
    assert same_bits(ours, whole)


@pytest.mark.slow
def test_two_ranks_finish_when_they_are_asked(workspace: Callable[[str], Path]) -> None:
    folder = workspace("ours")
    write_machine(folder, processes=2, checkpoint_minutes=RARE)
    running = start(folder, "finetune", "finetune.epochs=500")
    wait_for(lambda: steps_done(folder) >= 2, running)
    asked = subprocess.run(
        [sys.executable, "-m", "videollava", "finish"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert asked.stdout.startswith("finetune: ends after its step"), asked.stderr
    status, said = end(running)
    assert status == 0, said
    assert "finetune: finished early, after step " in said
    assert last_end(folder)["status"] == "FINISHED"
    assert load_file(folder / WEIGHTS)
    (journal,) = (folder / "runs/finetune").glob("*.jsonl")
    assert read_notes(journal)["finished_early"].endswith(" of 3,500")


@pytest.mark.slow
def test_two_ranks_finish_by_a_signal_to_their_launcher(workspace: Callable[[str], Path]) -> None:
    """SIGUSR2 to "the stage's process" is to the launcher's, which is no rank."""
    folder = workspace("ours")
    write_machine(folder, processes=2, checkpoint_minutes=RARE)
    running = start(folder, "finetune", "finetune.epochs=500")
    wait_for(lambda: steps_done(folder) >= 2, running)
    running.send_signal(signal.SIGUSR2)
    status, said = end(running)
    assert status == 0, said
    assert "finetune: finished early, after step " in said
    assert last_end(folder)["status"] == "FINISHED"


@pytest.mark.slow
def test_a_second_signal_ends_ranks_that_cannot_make_a_checkpoint_at_once(
    workspace: Callable[[str], Path], mentions: Callable[[str], list[int]]
) -> None:
    folder = workspace("ours")
    write_machine(folder, processes=2, checkpoint_minutes=RARE, ending_seconds=300)
    running = start(folder, "finetune", "finetune.epochs=500")
    wait_for(lambda: steps_done(folder) >= 2, running)
    os.kill(wait_for(lambda: pulses(folder).get(1))["pid"], signal.SIGSTOP)  # the others wait for it for ever
    running.terminate()
    began = time.monotonic()
    time.sleep(2.0)  # a person's second thought
    running.terminate()
    status, said = end(running)
    assert status == AGAIN, said
    assert time.monotonic() - began < 15
    assert gone(mentions, folder)
    assert last_end(folder)["error"] == "ended without a last checkpoint; run it again to go on"


@pytest.mark.slow
def test_who_makes_no_last_checkpoint_in_its_seconds_is_killed(
    workspace: Callable[[str], Path], mentions: Callable[[str], list[int]]
) -> None:
    folder = workspace("ours")
    write_machine(folder, processes=2, checkpoint_minutes=RARE, ending_seconds=2)
    running = start(folder, "finetune", "finetune.epochs=500")
    wait_for(lambda: steps_done(folder) >= 2, running)
    os.kill(wait_for(lambda: pulses(folder).get(1))["pid"], signal.SIGSTOP)
    running.terminate()
    began = time.monotonic()
    status, said = end(running)
    assert status == AGAIN, said
    assert time.monotonic() - began < 20
    assert gone(mentions, folder)
