"""Seconds of their own that ranks spend in a step, from their pulses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from videollava.environment import RANKS
from videollava.train.launch.fence import ATTEMPT
from videollava.train.launch.paces import APART, Paces, paces_of
from videollava.train.launch.pulse import COMPUTING, DATA, OTHERS


def tell(folder: Path, rank: int, step: int, **spent: float) -> None:
    phases = {
        COMPUTING: spent.get("computing", 0.0),
        DATA: spent.get("data", 0.0),
        OTHERS: spent.get("others", 0.0),
    }
    (folder / f"rank-{rank:05d}.json").write_text(json.dumps({"rank": rank, "step": step, "spent": phases}))


def test_the_slowest_is_named_and_waiting_is_nobody_s_own(tmp_path: Path) -> None:
    paces = Paces(tmp_path)
    for rank in range(3):
        tell(tmp_path, rank, 10, computing=100.0)
    start = paces._looked
    assert paces.look(start + APART - 1) == {}  # too soon
    assert paces.look(start + APART) == {}  # nothing to compare with
    tell(tmp_path, 0, 20, computing=110.0, others=30.0)
    tell(tmp_path, 1, 20, computing=110.0, data=30.0)
    tell(tmp_path, 2, 20, computing=112.0, others=28.0)
    found = paces.look(start + 2 * APART)
    assert found == pytest.approx(
        {"rank_seconds_median": 1.2, "rank_seconds_slowest": 4.0, "slowest_rank": 1.0}
    )
    assert paces.look(start + 3 * APART) == {}  # nobody made a step


def test_a_torn_pulse_and_a_rank_alone_tell_nothing(tmp_path: Path) -> None:
    paces, start = Paces(tmp_path), 0.0
    paces._looked = start
    tell(tmp_path, 0, 1, computing=1.0)
    (tmp_path / "rank-00001.json").write_text('{"rank": 1, "st')
    assert paces.look(APART) == {}
    tell(tmp_path, 0, 5, computing=9.0)
    assert paces.look(2 * APART) == {}


def test_only_rank_0_of_a_launch_looks(tmp_path: Path) -> None:
    launch = {RANKS: str(tmp_path), ATTEMPT: "a.0"}
    assert paces_of({}) is None
    assert paces_of({**launch, "RANK": "1"}) is None
    found = paces_of({**launch, "RANK": "0"})
    assert found is not None
    assert found.folder == tmp_path / "a.0"
