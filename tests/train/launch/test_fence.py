"""Of two attempts at one stage the newer one alone writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from videollava.environment import RANKS
from videollava.train.launch.fence import ATTEMPT, Superseded, check_held, is_held, offer, take
from videollava.train.state import find_checkpoint, write_checkpoint


def test_a_later_attempt_and_another_launch_take_over_and_no_earlier_one(tmp_path: Path) -> None:
    offer(tmp_path, "one")
    assert take(tmp_path, "one", 0) == "one.0"
    assert take(tmp_path, "one", 2) == "one.2"
    with pytest.raises(Superseded, match=r"one\.1 is superseded by one\.2"):
        take(tmp_path, "one", 1)
    offer(tmp_path, "two")
    with pytest.raises(Superseded):
        take(tmp_path, "one", 3)
    environment = {RANKS: str(tmp_path), ATTEMPT: "one.2"}
    assert not is_held(environment)
    with pytest.raises(Superseded, match=r"attempt one\.2 is superseded by two"):
        check_held(environment)
    check_held({})  # a process that no launcher started


def test_an_older_attempt_seals_no_checkpoint_and_spoils_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, ranks = tmp_path / "checkpoints", tmp_path / "ranks"
    offer(ranks, "one")
    monkeypatch.setenv(RANKS, str(ranks))
    monkeypatch.setenv(ATTEMPT, take(ranks, "one", 0))

    def fill_while_a_newer_one_seals(folder: Path) -> None:
        (folder / "state.pt").write_text("old")
        monkeypatch.setenv(ATTEMPT, take(ranks, "one", 1))
        assert write_checkpoint(
            checkpoints, 8, {}, lambda aside: (aside / "state.pt").write_text("new") and None
        )
        monkeypatch.setenv(ATTEMPT, "one.0")
        folder.mkdir(exist_ok=True)
        (folder / "state.pt").write_text("old")

    with pytest.raises(Superseded):
        write_checkpoint(checkpoints, 8, {}, fill_while_a_newer_one_seals)
    found = find_checkpoint(checkpoints)
    assert found is not None
    assert (found.folder / "state.pt").read_text() == "new"
