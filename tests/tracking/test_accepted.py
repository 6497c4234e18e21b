"""Whose outputs these are, where a stage wrote its own lock or its code was accepted since."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml

from videollava.params import Params
from videollava.tracking import track
from videollava.tracking.accepted import Accepted, note, origin_key, standing
from videollava.tracking.lineage import input_key, locked_input_key
from videollava.tracking.spent import read_made


def lock(root: Path, sums: dict[str, str], out: str) -> None:
    deps = [{"path": name, "md5": md5} for name, md5 in sums.items()]
    entry = {"cmd": "x", "deps": deps, "outs": [{"path": "out", "md5": out}]}
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"seen": entry}}))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIDEOLLAVA_FOLLOWED", "1")
    monkeypatch.setenv("DVC_STAGE", "seen")
    (tmp_path / "locks").mkdir()
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    stages = {"seen": {"cmd": "x", "deps": ["locks/a.json"], "outs": ["out"]}}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    return tmp_path


def test_a_stage_that_writes_its_lock_is_found_again(root: Path) -> None:
    file = root / "locks/a.json"
    file.write_text("{}")
    with track("seen", Params(), root):
        file.write_text('{"a": 1}')
    lock(root, {"locks/a.json": hashlib.md5(b'{"a": 1}').hexdigest()}, "one")
    made = read_made(root, "seen")
    assert made is not None
    # The next run, with the lock as it is, is another journal; the last one counts.
    with track("seen", Params(), root):
        pass
    again = read_made(root, "seen")
    assert again is not None
    assert again.journal != made.journal


def test_keys_lead_back_over_what_was_accepted_while_the_outputs_stay(root: Path) -> None:
    (root / "locks/a.json").write_text("{}")
    lock(root, {"locks/a.json": hashlib.md5(b"{}").hexdigest()}, "one")
    first = locked_input_key(root, "seen")
    assert first == input_key(root, "seen")
    keys = [first]
    for number in range(3):
        lock(root, {"locks/a.json": f"{number}"}, "one")
        keys.append(locked_input_key(root, "seen"))
        note(root, Accepted("seen", "words", "me", "now", ("a.py",), keys[-2], keys[-1], {"out": "one"}))
    assert origin_key(root, "seen") == first
    assert [one.inputs for one in standing(root)] == keys[1:]
    lock(root, {"locks/a.json": "1"}, "two")
    assert origin_key(root, "seen") == locked_input_key(root, "seen")
    assert standing(root) == []
    assert origin_key(root, "other") == ""
