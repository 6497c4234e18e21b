"""Real ranks: a run resumed on another number of them, and one whose ranks are killed at any moment of a save."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from equality import FLOAT32
from toy import losses_of, run_all

STEPS, BEFORE = 20, 7
KILLED_STEPS = 4


def resumed(name: str, *ranks: int) -> list[dict[str, Any]]:
    """BEFORE steps on some ranks, the rest on others."""
    return [
        {"folder": name, "steps": steps, "ranks": number}
        for steps, number in zip((BEFORE, STEPS), ranks, strict=True)
    ]


def killed(name: str, rank: int, event: int) -> list[dict[str, Any]]:
    """A run of two ranks of which one is killed, and gone on with."""
    once = {"folder": name, "steps": KILLED_STEPS, "ranks": 2}
    return [once | {"kill": f"{rank}:{event}"}, once]


def check_losses(folder: Path, *names: str) -> None:
    """Each run has the losses of the one that nothing broke."""
    expected = losses_of(folder / "whole")
    assert len(expected) == STEPS
    assert expected[STEPS - 1] != expected[BEFORE]
    for name in names:
        assert losses_of(folder / name) == pytest.approx(expected, abs=FLOAT32), name
        assert (folder / name / f"losses-{BEFORE}.json").is_file()


def check_weights(folder: Path, names: list[str]) -> None:
    """Each run ends in the bits of the one that nothing broke."""
    expected = torch.load(folder / "undisturbed/weights.pt")
    for name in names:
        weights = torch.load(folder / name / "weights.pt")
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[key], expected[key]) for key in expected), name


WHOLE = {"folder": "whole", "steps": STEPS, "ranks": 1}
UNDISTURBED = {"folder": "undisturbed", "steps": KILLED_STEPS, "ranks": 2}


def test_resumed_on_other_ranks_and_killed_in_a_save_it_is_the_same_run(tmp_path: Path) -> None:
    """2 -> 1 ranks: float32 1e-5. Killed, on the same ranks: bit-equal."""
    kills = {"early": (0, 180), "late": (1, 500), "later": (0, 900)}
    runs = [UNDISTURBED, *(run for name, where in kills.items() for run in killed(name, *where))]
    statuses = run_all([WHOLE, *resumed("fewer", 2, 1), *runs], tmp_path)
    check_losses(tmp_path, "fewer")
    assert [status[rank] for status, (rank, _) in zip(statuses[4::2], kills.values(), strict=True)] == [
        -9
    ] * 3
    assert not any(map(any, statuses[5::2]))
    check_weights(tmp_path, list(kills))


@pytest.mark.slow
def test_on_more_and_on_fewer_ranks_it_is_the_same_run(tmp_path: Path) -> None:
    """1 -> 4, 4 -> 2, 2 -> 1 ranks: float32 1e-5 over 20 steps."""
    pairs = {"more": (1, 4), "half": (4, 2), "one": (2, 1)}
    statuses = run_all(
        [WHOLE, *(run for name, ranks in pairs.items() for run in resumed(name, *ranks))], tmp_path
    )
    assert not any(map(any, statuses))
    check_losses(tmp_path, *pairs)


@pytest.mark.slow
def test_killed_at_twenty_moments_of_saves_it_is_the_same_run(tmp_path: Path) -> None:
    """Bit-equal, whichever of two ranks dies by kill -9, at a call or a return drawn from all of a run's saving."""
    counted = [
        {"folder": f"count-{rank}", "steps": KILLED_STEPS, "ranks": 2, "kill": f"{rank}:0"} for rank in (0, 1)
    ]
    run_all([UNDISTURBED, *counted], tmp_path)
    events = [json.loads((tmp_path / f"count-{rank}/events.json").read_text())[0] for rank in (0, 1)]
    assert min(events) > 500
    draw, names = random.Random(14), []
    runs: list[dict[str, Any]] = []
    for number in range(20):
        rank = number % 2
        names.append(f"killed-{number}")
        runs += killed(names[-1], rank, draw.randrange(1, int(0.9 * events[rank])))
    statuses = run_all(runs, tmp_path)
    assert [status[number % 2] for number, status in enumerate(statuses[::2])] == [-9] * 20
    assert not any(map(any, statuses[1::2]))
    check_weights(tmp_path, names)
    resumed_at = {file.name for name in names for file in (tmp_path / name).glob("losses-*")}
    assert len(resumed_at) > 1  # in the first save, and in later ones
