"""Checkpoints stay until what a stage made is sealed: under DVC that is after its command has ended."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from videollava.machine import Machine
from videollava.params import Params, parse_params
from videollava.tracking import input_key
from videollava.train.saving.places import FolderPlace
from videollava.train.saving.spent import clear_sealed, clear_unless_awaited, sealed_later

PARAMS = parse_params({"seed": 3})
STAGES = {
    "pretrain": {"cmd": "a", "deps": ["code.py"], "params": ["seed"], "outs": ["models/projector"]},
    "finetune": {"cmd": "b", "deps": ["models/projector"], "params": ["seed"], "outs": ["models/videollava"]},
}


def keep(folder: Path, step: int, steps: int) -> FolderPlace:
    """A checkpoint of another process's."""
    place = FolderPlace(folder, "its-own")
    place.room(0)
    place.aside(step)
    place.seal(step, {"format": 2, "step": step, "about": {"steps": steps}, "files": {}})
    return place


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "code.py").write_text("1")
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    (tmp_path / "params.yaml").write_text("seed: 3\n")
    return tmp_path


def seal(workspace: Path) -> None:
    """What DVC writes down once `pretrain` is done."""
    code = "c4ca4238a0b923820dcc509a6f75849b"
    entry = {
        "cmd": "a",
        "deps": [{"path": "code.py", "md5": code}],
        "params": {"params.yaml": {"seed": 3}},
        "outs": [{"path": "models/projector", "md5": "0" * 32}],
    }
    (workspace / "dvc.lock").write_text(yaml.safe_dump({"stages": {"pretrain": entry}}))


def folder_of(workspace: Path) -> Path:
    return workspace / "checkpoints" / f"pretrain-{input_key(workspace, 'pretrain', used=PARAMS)[:16]}"


def test_the_next_stage_clears_up_behind_one_that_is_sealed(workspace: Path) -> None:
    keep(folder_of(workspace), 9, 9)
    clear_sealed("finetune", PARAMS, workspace, Machine())
    assert folder_of(workspace).is_dir()  # dvc.lock knows nothing of it: it may have to be run again
    seal(workspace)
    clear_sealed("pretrain", PARAMS, workspace, Machine())
    assert folder_of(workspace).is_dir()  # its own
    clear_sealed("finetune", PARAMS, workspace, Machine())
    assert not folder_of(workspace).exists()


def test_one_that_was_finished_early_or_is_of_other_parameters_stays(workspace: Path) -> None:
    seal(workspace)
    keep(folder_of(workspace), 5, 9)
    clear_sealed("evaluate", PARAMS, workspace, Machine())
    assert folder_of(workspace).is_dir()
    keep(folder_of(workspace), 9, 9)
    other: Params = parse_params({"seed": 4})
    clear_sealed("evaluate", other, workspace, Machine())
    assert folder_of(workspace).is_dir()
    clear_sealed("evaluate", PARAMS, workspace, Machine())
    assert not folder_of(workspace).exists()


def test_another_place_is_cleared_too_and_by_rank_0_alone(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal(workspace)
    machine = Machine(checkpoint_place=str(workspace / "far"))
    keep(workspace / "far" / folder_of(workspace).name, 9, 9)
    monkeypatch.setenv("RANK", "1")
    clear_sealed("finetune", PARAMS, workspace, machine)
    assert (workspace / "far" / folder_of(workspace).name).is_dir()
    monkeypatch.delenv("RANK")
    clear_sealed("finetune", PARAMS, workspace, machine)
    assert not (workspace / "far" / folder_of(workspace).name).exists()


def test_by_hand_nobody_is_waited_for(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = keep(folder_of(workspace), 9, 9)
    monkeypatch.setenv("DVC_STAGE", "pretrain")
    assert sealed_later()
    clear_unless_awaited(place)
    assert place.folder.is_dir()
    monkeypatch.delenv("DVC_STAGE")
    clear_unless_awaited(place)
    assert not place.folder.exists()
