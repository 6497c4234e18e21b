"""`make clean` removes working files and nothing that exists once; `make purge` asks first."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.clean import STAGED, clean, purge
from flows.places.clones import CLONES
from flows.places.lock import hold
from flows.places.workspace import occupy
from flows.stages.graph import stage_order, stage_outputs
from flows.stages.stage import is_current
from flows.storage import stores
from videollava import registry
from videollava.errors import InputError
from videollava.params import Tracking, load_params

REPOSITORY = Path(__file__).resolve().parents[2]
WORKING = (
    "checkpoints/finetune-1/weights",
    "flows/__pycache__/x.pyc",
    ".ruff_cache/x",
    "params.yaml.tmp",
    ".dvc/tmp/btime",
)
KEPT = (
    "runs/finetune/j.jsonl",
    ".mlflow/models/ab/config.json",
    ".prefect/prefect.db",
    ".dvc/tmp/exps/q",
    "mine.txt",
)


def fill(root: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def test_working_files_go_and_the_rest_stays(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(workspace, (*WORKING, *KEPT, ".dvc/cache/files/md5/ab/cd", "models/videollava/config.json"))
    with occupy(workspace) as (clone, _):
        (clone / "checkpoints").mkdir()
    with hold(clone):
        clean(workspace)
        assert clone.is_dir()  # somebody works in there
    fill(workspace, ("checkpoints/x",))
    clean(workspace)
    assert [name for name in WORKING if (workspace / name).exists()] == []
    assert not list((workspace / CLONES).glob("*[!k]"))
    for name in (*KEPT, ".dvc/cache/files/md5/ab/cd", "models/videollava/config.json"):
        assert (workspace / name).is_file()
    assert "kept: outputs of the stages, models and champion" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("s3://bucket/checkpoints", True),
        ("../shared", True),
        ("kept", True),
        ("checkpoints/here", False),
        ("", False),
    ],
)
def test_checkpoints_elsewhere_stay_and_that_is_said(
    workspace: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    said: bool,
) -> None:
    monkeypatch.delenv("VIDEOLLAVA_MACHINE", raising=False)
    (workspace / "machine.yaml").write_text(f"checkpoint_place: '{address}'\n")
    fill(workspace, ("../shared/finetune-1/x", "kept/finetune-1/x", "checkpoints/here/finetune-1/x"))
    clean(workspace)
    assert (f"kept: checkpoints in {address}, " in capsys.readouterr().out) == said
    assert (workspace / "../shared/finetune-1/x").is_file()
    assert (workspace / "kept/finetune-1/x").is_file()


def test_after_it_the_champion_is_there_and_nothing_is_to_be_done(finished: Path) -> None:
    workspace = finished
    params = load_params(workspace / "params.yaml")
    version, _ = registry.register(workspace, params, "", places=stores(workspace))
    registry.promote(workspace, params, str(version.number), True, stores(workspace), because="a test")
    clean(workspace)
    assert is_current(workspace)
    live = registry.champion(workspace, Tracking())
    assert live is not None
    folder = registry.resolve("models:/videollava@champion", workspace, Tracking(), stores(workspace))
    assert (folder / "model.safetensors").read_text() == "weights after 2"


def test_links_are_left_with_what_they_lead_to(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scratch = tmp_path / "scratch"
    fill(scratch, ("weights", "cache/files/x", "deep/file"))
    (workspace / "checkpoints").symlink_to(scratch)
    (workspace / ".dvc" / "cache").symlink_to(scratch / "cache")
    (workspace / "runs").mkdir()
    (workspace / "runs" / "link").symlink_to(scratch / "deep")
    shutil.copytree(workspace / ".dvc", tmp_path / "dvc", symlinks=True)
    clean(workspace)
    assert purge(workspace, confirmed=True)
    assert not (workspace / "runs").exists()
    assert (workspace / "checkpoints").is_symlink()
    assert sorted(path.name for path in scratch.rglob("*") if path.is_file()) == ["file", "weights", "x"]
    assert "lies behind a link" in capsys.readouterr().err


def test_all_goes_only_where_it_is_confirmed(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(
        workspace, (*WORKING, *KEPT, "models/videollava/config.json", "models/mine/config.json", "data/raw/x")
    )
    assert not purge(workspace, confirmed=False)
    assert all((workspace / name).exists() for name in (*WORKING, *KEPT))
    said = capsys.readouterr().out
    assert "models" in said
    assert "make purge CONFIRM=yes" in said
    assert purge(workspace, confirmed=True)
    for name in ("checkpoints", "models/videollava", "data", "runs", ".mlflow", ".prefect"):
        assert not (workspace / name).exists()
    assert (workspace / "models" / "mine" / "config.json").is_file()
    assert (workspace / "mine.txt").is_file()
    assert (workspace / "stage.py").is_file()


def test_every_output_of_the_graph_is_known() -> None:
    made = {out for stage in stage_order(REPOSITORY) for out in stage_outputs(REPOSITORY, stage)}
    # Those of a source lie in a folder for all sources.
    folders = {
        re.sub(r"^(data/raw|data/shards)/.*", r"\1", out) for out in made if not out.startswith("plots/")
    }
    assert folders | {"plots"} == set(STAGED)


def test_neither_runs_beside_a_retraining_or_elsewhere(workspace: Path, tmp_path: Path) -> None:
    fill(workspace, WORKING)
    with hold(workspace):
        with pytest.raises(InputError, match="another retraining"):
            clean(workspace)
        with pytest.raises(InputError, match="another retraining"):
            purge(workspace, confirmed=True)
    assert all((workspace / name).exists() for name in WORKING)
    (tmp_path / "elsewhere" / "checkpoints").mkdir(parents=True)
    command = [sys.executable, "-m", "flows.clean"]
    done = subprocess.run(
        command,
        cwd=tmp_path / "elsewhere",
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "no dvc.yaml" in done.stderr) == (2, True)
    assert (tmp_path / "elsewhere" / "checkpoints").is_dir()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("words", "status", "left"),
    [
        (["clean"], 0, True),
        (["purge"], 2, True),
        (["purge", "CONFIRM=no"], 2, True),
        (["purge", "CONFIRM=yes"], 0, False),
    ],
)
def test_the_verbs_run_without_an_environment(
    workspace: Path, words: list[str], status: int, left: bool
) -> None:
    shutil.copy(REPOSITORY / "Makefile", workspace)
    fill(workspace, ("models/videollava/config.json", "checkpoints/x"))
    base = shutil.which("python3.11", path="/usr/bin:/usr/local/bin") or sys.executable
    command = ["make", *words, f"PYTHON={base} -S"]  # no package at all
    done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    assert (workspace / "models" / "videollava").is_dir() is left
    assert not (workspace / ".venv").exists()
