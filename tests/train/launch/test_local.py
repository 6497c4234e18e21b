"""Ranks on this host, through the public door: real processes, killed in every place."""

from __future__ import annotations

import csv
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from equality import FLOAT32
from micro import write_machine
from safetensors.torch import load_file
from started import end, last_end, newest, pulses, start, wait_for

from videollava.ends import STALLED

WEIGHTS = "models/videollava/model.safetensors"
SECONDS = 20.0  # in which all is gone


def losses(folder: Path) -> list[float]:
    with open(folder / "plots/finetune.csv") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def check_equal(ours: Path, expected: Path) -> None:
    """Float32 1e-5 over 20 steps: losses and weights."""
    assert losses(ours) == pytest.approx(losses(expected), abs=FLOAT32)
    weights, others = load_file(ours / WEIGHTS), load_file(expected / WEIGHTS)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], rtol=0, atol=FLOAT32, msg=name)


def test_two_ranks_one_of_them_killed_and_resumed_equal_one_rank_float32_1e5(
    workspace: Callable[[str], Path], mentions: Callable[[str], list[int]]
) -> None:
    alone, ours = workspace("alone"), workspace("ours")
    write_machine(ours, processes=2)
    running = start(ours, "finetune", "finetune.epochs=2")
    wait_for(lambda: newest(ours) >= 3, running)
    began = time.monotonic()
    os.kill(wait_for(lambda: pulses(ours).get(1))["pid"], signal.SIGKILL)
    status, said = end(running)
    assert time.monotonic() - began < SECONDS
    assert mentions(str(ours)) == []
    assert status == 128 + signal.SIGKILL, said
    assert "videollava finetune: rank 1 (on " in said
    assert "was killed (SIGKILL)" in said
    assert "Traceback" not in said
    ended = last_end(ours)
    assert ended["status"] == "FAILED"
    assert ended["error"].startswith("rank 1 (on ")
    # Resumed, it is the run of one rank.
    resumed, single = (
        start(ours, "finetune", "finetune.epochs=2"),
        start(alone, "finetune", "finetune.epochs=2"),
    )
    status, said = end(resumed)
    assert status == 0, said
    assert "goes on after step" in said
    assert last_end(ours)["status"] == "FINISHED"
    assert not (ours / "checkpoints/ranks/finetune").exists()
    assert end(single)[0] == 0
    check_equal(ours, alone)


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGTERM, signal.SIGINT))],
)
def test_the_launchers_end_is_the_ranks_end(
    workspace: Callable[[str], Path], mentions: Callable[[str], list[int]], number: signal.Signals
) -> None:
    folder = workspace("ours")
    write_machine(folder, processes=2)
    running = start(folder, "finetune", "finetune.epochs=500")
    wait_for(lambda: newest(folder) >= 1, running)
    running.send_signal(number)
    running.wait()
    deadline = time.monotonic() + SECONDS
    while mentions(str(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert mentions(str(folder)) == []
    running.communicate()
    if number != signal.SIGKILL:  # which leaves nobody to write it
        assert last_end(folder)["status"] == "KILLED"


def test_a_mistake_that_every_rank_finds_is_told_once(workspace: Callable[[str], Path]) -> None:
    folder = workspace("ours")
    write_machine(folder, processes=2)
    (folder / "models/bases/language/config.json").unlink()
    status, said = end(start(folder, "finetune"))
    assert status == 2
    assert said.splitlines()[-1].startswith("videollava finetune: ")
    assert said.count("no config.json") == 1
    assert "Traceback" not in said
    assert last_end(folder)["status"] == "FAILED"


@pytest.mark.slow
def test_one_rank_is_ended_when_its_time_is_up(workspace: Callable[[str], Path]) -> None:
    folder = workspace("ours")
    write_machine(folder, time_limit_hours=0.012)
    status, said = end(start(folder, "finetune", "finetune.epochs=5000"))
    assert status == 124
    reason = "not done after 0.012 h (machine.yaml: time_limit_hours)"
    assert said.splitlines()[-1] == f"videollava finetune: {reason}"
    assert (last_end(folder)["status"], last_end(folder)["error"]) == ("FAILED", reason)
    assert newest(folder) >= 1


@pytest.mark.slow
def test_a_rank_that_hangs_is_named_and_the_run_ended(workspace: Callable[[str], Path]) -> None:
    folder = workspace("ours")
    write_machine(folder, processes=2, slow_minutes=0.1, stall_minutes=0.4)
    running = start(folder, "finetune", "finetune.epochs=500")
    wait_for(lambda: newest(folder) >= 1, running)
    os.kill(pulses(folder)[1]["pid"], signal.SIGSTOP)
    status, said = end(running)
    assert status == STALLED
    assert "warning: rank 1 (on " in said
    assert "it is stopped, or its host is lost" in said.splitlines()[-1]
    assert last_end(folder)["error"].endswith("the run is ended")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["sharded", "zero2", "zero3"])
def test_the_published_recipes_switches_together_on_two_ranks_near_one_rank_in_bfloat16(
    workspace: Callable[[str], Path], strategy: str
) -> None:
    changes = ("finetune.precision=bf16", "finetune.epochs=2")
    ours, alone = workspace("ours"), workspace("alone")
    write_machine(ours, processes=2, strategy=strategy, recompute=True, workers=1)
    status, said = end(start(ours, "finetune", *changes), seconds=600)
    assert status == 0, said
    status, said = end(start(alone, "finetune", *changes))
    assert status == 0, said
    # bfloat16 (float32 where the CPU emulates it): a whole run is for the gate's paired test; a few steps are near.
    assert losses(ours) == pytest.approx(losses(alone), abs=0.05)
    assert losses(ours)[-1] < losses(ours)[0]
    assert load_file(ours / WEIGHTS).keys() == load_file(alone / WEIGHTS).keys()
