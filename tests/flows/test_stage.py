"""A stage through real DVC: run, up to date, restored, failed, resumed, pushed and restored elsewhere."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from flows.stage import StageFailed, is_current, push_stage, run_stage
from videollava.tracking.lineage import locked_input_key, read_yaml, stage_key


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def outcomes(workspace: Path, *stages: str) -> list[str]:
    return [run_stage(workspace, stage, lambda _: None).outcome for stage in stages]


def test_ran_unchanged_restored(workspace: Path) -> None:
    assert not is_current(workspace)
    said: list[str] = []
    assert run_stage(workspace, "fetch", said.append).outcome == "ran"
    assert "fetched" in said
    assert outcomes(workspace, "fetch", "finetune", "evaluate") == ["unchanged", "ran", "ran"]
    assert is_current(workspace)
    assert git(workspace, "status", "--short").split() == ["??", "dvc.lock"]
    first = stage_key(workspace, "finetune")
    params = workspace / "params.yaml"
    params.write_text(params.read_text().replace("epochs: 2", "epochs: 3"))
    assert not is_current(workspace)
    assert is_current(workspace, "fetch")
    assert outcomes(workspace, "fetch", "finetune", "evaluate") == ["unchanged", "ran", "ran"]
    params.write_text(params.read_text().replace("epochs: 3", "epochs: 2"))
    assert outcomes(workspace, "fetch", "finetune", "evaluate") == ["unchanged", "restored", "restored"]
    assert stage_key(workspace, "finetune") == first
    # The journal's file is named by the key that dvc.lock gives afterwards: that is how runs are found again.
    assert list(
        (workspace / "runs" / "finetune").glob(f"{locked_input_key(workspace, 'finetune')[:16]}-*.jsonl")
    )


def test_a_failure_tells_what_the_stage_said_and_leaves_no_lock(workspace: Path) -> None:
    stage = workspace / "stage.py"
    stage.write_text(
        stage.read_text() + "\nif name == 'fetch':\n    print('no such disk')\n    sys.exit(2)\n"
    )
    with pytest.raises(StageFailed, match="no such disk") as caught:
        run_stage(workspace, "fetch", lambda _: None)
    assert caught.value.status == 2
    assert not read_yaml(workspace / "dvc.lock")


def test_what_one_machine_pushed_another_restores(workspace: Path, tmp_path: Path) -> None:
    git(workspace, "clone", "--quiet", str(workspace), str(tmp_path / "other"))
    other = tmp_path / "other"
    for place in (workspace, other):
        config = (place / ".dvc" / "config").read_text()
        remote = f"{config}    remote = far\n['remote \"far\"']\n    url = {tmp_path / 'remote'}\n"
        (place / ".dvc" / "config").write_text(remote)
    for stage in ("fetch", "finetune", "evaluate"):
        run_stage(workspace, stage, lambda _: None)
        assert push_stage(workspace, stage, lambda _: None)
    assert outcomes(other, "fetch", "finetune", "evaluate") == ["restored"] * 3
    assert (other / "metrics.json").read_text() == (workspace / "metrics.json").read_text()
    assert (other / "dvc.lock").read_text() == (workspace / "dvc.lock").read_text()
    assert not (other / "runs").exists()
    shutil.rmtree(tmp_path / "remote")


def test_without_a_remote_nothing_is_pushed(workspace: Path) -> None:
    assert not push_stage(workspace, "fetch", lambda _: None)
