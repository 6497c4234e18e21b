"""DVC where git is not: unpacked archives, ignored folders, broken and foreign repositories."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from flows.places.scm import settle_scm
from flows.places.workspace import occupy
from flows.stages.stage import is_current, run_stage
from videollava.errors import InputError


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def outcomes(workspace: Path, *stages: str) -> list[str]:
    return [run_stage(workspace, stage, lambda _: None).outcome for stage in stages]


def test_without_git_stages_run_and_with_it_again_too(workspace: Path) -> None:
    shutil.rmtree(workspace / ".git")
    with occupy(workspace, str(workspace)) as (root, _):
        assert outcomes(root, "fetch", "fetch") == ["ran", "unchanged"]
    assert "no_scm = true" in (workspace / ".dvc" / "config.local").read_text()
    git(workspace, "init", "--quiet")
    assert settle_scm(workspace) == ""
    assert "no_scm" not in (workspace / ".dvc" / "config.local").read_text()
    assert is_current(workspace, "fetch")


def test_a_folder_that_the_git_above_ignores_runs_without_it(workspace: Path) -> None:
    shutil.rmtree(workspace / ".git")
    (workspace.parent / ".gitignore").write_text("*\n")
    git(workspace.parent, "init", "--quiet")
    assert "git ignores" in settle_scm(workspace)
    assert outcomes(workspace, "fetch") == ["ran"]
    (workspace.parent / ".gitignore").write_text("")  # a part of a larger repository
    assert settle_scm(workspace) == ""
    assert is_current(workspace, "fetch")


def test_a_broken_git_is_none(workspace: Path) -> None:
    shutil.rmtree(workspace / ".git")
    (workspace / ".git").mkdir()
    assert "no git repository" in settle_scm(workspace)
    assert settle_scm(workspace) != ""  # said each time
    text = (workspace / ".dvc" / "config.local").read_text()
    assert text.count("no_scm") == 1


def test_what_a_person_set_for_dvc_stays(workspace: Path) -> None:
    file = workspace / ".dvc" / "config.local"
    text = "[core]\nno_scm = true\n['remote \"ü\"']\nurl = /x # mine\n"
    file.write_text(text)
    file.chmod(0o600)
    assert settle_scm(workspace) == ""
    assert file.read_text() == text
    shutil.rmtree(workspace / ".git")
    file.write_text(text.replace("no_scm = true\n", ""))
    assert "no git repository" in settle_scm(workspace)
    assert "url = /x" in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_repository_of_another_user_or_a_missing_git_program_stops_nothing(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("sh", "bash"):
        (tmp_path / "bin" / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    if os.getuid() == 0:
        os.chown(workspace, 12345, -1)
        os.chown(workspace / ".git", 12345, -1)
    assert settle_scm(workspace) == ""
    assert outcomes(workspace, "fetch") == ["ran"]


def test_a_dvc_folder_further_up_is_the_one_that_is_told(workspace: Path) -> None:
    shutil.rmtree(workspace / ".git")
    (workspace / ".dvc").rename(workspace.parent / ".dvc")
    assert "no git repository" in settle_scm(workspace)
    assert "no_scm = true" in (workspace.parent / ".dvc" / "config.local").read_text()
    shutil.rmtree(workspace.parent / ".dvc")
    with pytest.raises(
        InputError, match=r"no .dvc folder in there; was the archive unpacked without hidden files"
    ):
        settle_scm(workspace)
