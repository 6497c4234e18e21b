"""Of two attempts at one stage the newer one alone writes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from videollava.environment import RANKS
from videollava.train.launch.fence import ATTEMPT, Superseded, check_held, is_held, offer, take
from videollava.train.saving.files import write_text
from videollava.train.saving.places import FORMAT, FolderPlace


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
    place, ranks = FolderPlace(tmp_path / "checkpoints"), tmp_path / "ranks"
    offer(ranks, "one")
    monkeypatch.setenv(RANKS, str(ranks))

    def write(text: str) -> dict[str, object]:
        told = asdict(write_text(place.aside(8) / "file", text))
        return {"format": FORMAT, "step": 8, "about": {}, "files": {"file": told}}

    monkeypatch.setenv(ATTEMPT, take(ranks, "one", 0))
    old = write("old")
    monkeypatch.setenv(ATTEMPT, take(ranks, "one", 1))
    place.seal(8, write("new"))
    monkeypatch.setenv(ATTEMPT, "one.0")
    with pytest.raises(Superseded):
        place.seal(8, old)
    with pytest.raises(Superseded):
        place.clear()
    found = place.newest()
    assert found is not None
    assert (place.fetch(found, ["file"]) / "file").read_text() == "new"
