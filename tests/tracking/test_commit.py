"""The commit of a folder, and what is said where git gives no answer."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from videollava.tracking.commit import read_commit
from videollava.tracking.lineage import Lineage, read_lineage


def git(folder: Path, *arguments: str) -> str:
    line = [
        "git",
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@t",
        "-c",
        "protocol.file.allow=always",
        *arguments,
    ]
    return subprocess.run(line, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def make(folder: Path, content: str = "x\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "--quiet")
    (folder / "params.yaml").write_text(content)
    (folder / "dvc.lock").write_text("stages: {}\n")
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", "x")
    return folder


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)


def test_a_clean_and_a_changed_checkout(tmp_path: Path) -> None:
    folder = make(tmp_path / "a b")
    head = git(folder, "rev-parse", "HEAD")
    (folder / "dvc.lock").write_text("stages: {a: {}}\n")
    (folder / "new file").write_text("x")
    assert (read_commit(folder).name, read_commit(folder).dirty) == (head, False)
    (folder / "code").mkdir()
    (folder / "code/new.py").write_text("x = 1\n")
    assert read_commit(folder).dirty  # code that no commit has
    (folder / ".gitignore").write_text("/code\n")
    assert read_commit(folder).dirty is False
    (folder / "params.yaml").write_text("y\n")
    assert read_commit(folder).dirty
    git(folder, "mv", "-f", "params.yaml", "dvc lock")
    assert read_commit(folder).dirty


def test_no_repository(tmp_path: Path) -> None:
    told = read_commit(tmp_path)
    assert (told.name, told.dirty) == ("", None)
    assert "not a git repository" in told.trouble
    tags = read_lineage(tmp_path).tags()
    assert (tags["commit"], tags["dirty"]) == ("unknown", "unknown")
    assert "not a git repository" in tags["commit_trouble"]


def test_a_repository_of_somebody_else(tmp_path: Path) -> None:
    folder = make(tmp_path / "theirs")
    if os.getuid():
        pytest.skip("only root can give files away")
    for path in (folder, folder / ".git"):
        os.chown(path, 12345, 12345)
    told = read_commit(folder)
    assert (told.name, told.dirty) == ("", None)
    assert "dubious ownership" in told.trouble
    assert f"safe.directory {folder}`" in told.trouble


def test_git_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "a")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_commit(tmp_path / "a").trouble == "git is not installed"


@pytest.mark.parametrize(
    "names", [("GIT_DIR",), ("GIT_DIR", "GIT_WORK_TREE"), ("GIT_INDEX_FILE",), ("GIT_OBJECT_DIRECTORY",)]
)
def test_a_hook_of_another_repository_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    mine, other = make(tmp_path / "mine"), make(tmp_path / "other", "another\n")
    head = git(mine, "rev-parse", "HEAD")
    places = {
        "GIT_DIR": other / ".git",
        "GIT_WORK_TREE": other,
        "GIT_INDEX_FILE": other / ".git/index",
        "GIT_OBJECT_DIRECTORY": other / ".git/objects",
    }
    for name in names:
        monkeypatch.setenv(name, str(places[name]))
    told = read_commit(mine)
    assert (told.name, told.dirty, told.trouble) == (head, False, "")


def test_before_the_first_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    assert "there is none yet" in read_commit(tmp_path).trouble


def test_an_archive_unpacked_in_another_repository(tmp_path: Path) -> None:
    home = make(tmp_path / "home")
    unpacked = home / "videollava-1.0"
    unpacked.mkdir()
    (unpacked / "params.yaml").write_text("x\n")
    told = read_commit(unpacked)
    assert told.name == ""
    assert "has none of this folder's files" in told.trouble
    git(home, "add", "-A")  # a project in a folder of a larger repository is one of its files
    git(home, "commit", "--quiet", "-m", "y")
    assert read_commit(unpacked).name == git(home, "rev-parse", "HEAD")


def test_shallow_clones_worktrees_and_submodules(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    head = git(folder, "rev-parse", "HEAD")
    git(tmp_path, "clone", "--quiet", "--depth", "1", f"file://{folder}", "shallow")
    git(folder, "worktree", "add", "--quiet", "--detach", str(tmp_path / "tree"))
    outer = make(tmp_path / "outer", "outer\n")
    git(outer, "submodule", "--quiet", "add", str(folder), "inner")
    for place in (tmp_path / "shallow", tmp_path / "tree", outer / "inner"):
        told = read_commit(place)
        assert (told.name, told.dirty, told.trouble) == (head, False, "")


def test_another_git_at_work_is_not_disturbed(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    (folder / ".git/index.lock").touch()
    assert read_commit(folder).dirty is False
    (folder / ".git/index.lock").unlink()
    shutil.rmtree(folder / ".git/objects")
    (folder / ".git/objects").mkdir()
    told = read_commit(folder)
    assert (told.name, told.dirty) == ("", None)
    assert told.trouble


def test_an_index_that_cannot_be_read_is_not_called_clean(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    (folder / ".git/index").write_bytes(b"torn")
    told = read_commit(folder)
    assert told.dirty is None
    assert told.trouble


def test_what_earlier_releases_wrote_is_not_called_clean() -> None:
    assert Lineage.from_tags({"commit": "", "dirty": "false"}).dirty is None
    assert Lineage.from_tags({"commit": "c0", "dirty": "edited"}).dirty is None
    known = Lineage("c" * 40, True, "p", "l", "d")
    assert Lineage.from_tags(known.tags()) == known
    assert known.describe() == f"{'c' * 12}, with uncommitted changes"
    unknown = Lineage(trouble="git is not installed")
    assert Lineage.from_tags(unknown.tags()) == unknown
    assert unknown.describe() == "unknown (git is not installed)"
