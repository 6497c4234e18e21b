"""No command of a clone reaches the checkout it lies in, whatever stands in the clone's place."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import flows.places.clones
from flows.local import main
from flows.places.clones import CLONES, have_clone
from flows.places.git import owns
from flows.places.workspace import occupy
from videollava.errors import InputError


def git(folder: Path, *arguments: str) -> str:
    line = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(line, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def first(workspace: Path) -> Iterator[str]:
    """The first of two commits of `workspace`, which holds edits; at the end they are there to the byte."""
    commit = git(workspace, "rev-parse", "HEAD")
    (workspace / "stage.py").write_text("# second\n")
    git(workspace, "commit", "--quiet", "-am", "second")
    (workspace / "stage.py").write_text("# an edit that nobody committed\n")
    (workspace / "mine.txt").write_text("not even added\n")
    git(workspace, "add", "--intent-to-add", "mine.txt")
    before = seen(workspace)
    yield commit
    assert seen(workspace) == before


def seen(home: Path) -> list[str]:
    ours = {".git", ".prefect", "cache"}  # DVC's cache notes who was given it
    files = [path for path in home.rglob("*") if path.is_file() and not (ours & {*path.parts})]
    hashes = [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in sorted(files)]
    return [
        *hashes,
        git(home, "status", "--porcelain"),
        git(home, "symbolic-ref", "HEAD"),
        git(home, "rev-parse", "HEAD"),
    ]


def plant_folder(home: Path, root: Path) -> None:
    (root / ".dvc").mkdir(parents=True)
    (root / "checkpoints").mkdir()


def plant_link_to_home(home: Path, root: Path) -> None:
    root.symlink_to(home)


def plant_link_to_nothing(home: Path, root: Path) -> None:
    root.symlink_to(home / "gone")


def plant_file(home: Path, root: Path) -> None:
    root.write_text("not a folder")


def plant_git_file(home: Path, root: Path) -> None:
    root.mkdir()
    (root / ".git").write_text(f"gitdir: {home / '.git'}\n")


def plant_git_link(home: Path, root: Path) -> None:
    root.mkdir()
    (root / ".git").symlink_to(home / ".git")


def plant_empty_git(home: Path, root: Path) -> None:
    (root / ".git").mkdir(parents=True)


def plant_broken_git(home: Path, root: Path) -> None:
    git(home, "clone", "--quiet", "--shared", str(home), str(root))
    (root / ".git" / "HEAD").write_bytes(b"\0\0\0")


def plant_other_work_tree(home: Path, root: Path) -> None:
    git(home, "clone", "--quiet", "--shared", str(home), str(root))
    git(root, "config", "core.worktree", str(home))


def plant_half_removed(home: Path, root: Path) -> None:
    git(home, "clone", "--quiet", "--shared", str(home), str(root))
    shutil.rmtree(root / ".git" / "objects")
    (root / "stage.py").unlink()


def plant_worktree(home: Path, root: Path) -> None:
    git(home, "worktree", "add", "--quiet", "--detach", str(root))


PLANTS = [value for name, value in list(globals().items()) if name.startswith("plant_")]


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_whatever_stands_in_a_clones_place_the_checkout_is_untouched(
    workspace: Path, first: str, plant: Callable[[Path, Path], None]
) -> None:
    root = workspace / CLONES / first[:12]
    root.parent.mkdir(parents=True)
    plant(workspace, root)
    with occupy(workspace, commit=first) as (found, _):
        assert found == root
        assert owns(root)
        assert "second" not in (root / "stage.py").read_text()
        assert git(root, "rev-parse", "HEAD") == first
    (kept,) = root.parent.glob("set-aside-*")  # whatever it was
    if plant is plant_folder:
        assert (kept / "checkpoints").is_dir()
    elif plant is plant_file:
        assert kept.read_text() == "not a folder"


@pytest.mark.parametrize(
    "name", ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY"]
)
def test_what_a_hook_set_is_not_heard(
    workspace: Path, first: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"GIT_WORK_TREE": "", "GIT_INDEX_FILE": ".git/index", "GIT_OBJECT_DIRECTORY": ".git/objects"}
    with monkeypatch.context() as patch:
        patch.setenv(name, str(workspace / places.get(name, ".git")))
        with occupy(workspace, commit=first) as (root, _):
            pass
    assert git(root, "rev-parse", "HEAD") == first
    assert "second" not in (root / "stage.py").read_text()


def test_hooks_of_the_user_do_not_run(
    workspace: Path, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = tmp_path / "hooks" / "post-checkout"
    hook.parent.mkdir()
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    hook.chmod(0o755)
    (tmp_path / "gitconfig").write_text(f"[core]\n    hooksPath = {hook.parent}\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    with occupy(workspace, commit=first):
        pass
    assert not (tmp_path / "ran").exists()


def test_a_checkout_that_was_killed_is_done_again_and_keeps_what_it_may_resume_from(
    workspace: Path, first: str
) -> None:
    with occupy(workspace, commit=first) as (root, _):
        (root / "checkpoints").mkdir()
    (root / ".git" / "index.lock").write_text("")
    (root / ".git" / "index").write_bytes(b"half an ind")
    (root / "stage.py").write_text("half a fi")
    with occupy(workspace, commit=first):
        assert "subprocess" in (root / "stage.py").read_text()
        assert (root / "checkpoints").is_dir()
    assert not list(root.parent.glob("set-aside-*"))


def test_old_clones_go_and_nothing_else(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.places.clones, "KEEP_CLONES", 1)
    (workspace / "runs").mkdir()
    (workspace / "runs" / "kept").write_text("a journal")
    with occupy(workspace) as (oldest, _):
        (oldest / "link").symlink_to(workspace / "runs")
    (oldest.parent / "notes").mkdir()  # somebody's, and not a clone
    git(workspace, "commit", "--quiet", "--allow-empty", "-m", "next")
    with occupy(workspace) as (second, _):
        assert not oldest.exists()
        git(workspace, "commit", "--quiet", "--allow-empty", "-m", "last")
        with have_clone(workspace, git(workspace, "rev-parse", "HEAD")) as (third, _):
            flows.places.clones.drop_old_clones(
                workspace
            )  # the second is the older, but somebody works in there
            assert second.is_dir()
            assert third.is_dir()
    assert sorted(path.name for path in third.parent.iterdir() if path.is_dir()) == sorted(
        [second.name, third.name, "notes"]
    )
    assert (workspace / "runs" / "kept").read_text() == "a journal"


def test_a_removal_that_is_cut_short_leaves_no_half_clone(
    workspace: Path, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows.places.clones, "KEEP_CLONES", 1)
    with occupy(workspace, commit=first) as (root, _):
        pass

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("flows.places.clones.shutil.rmtree", stop)
        with pytest.raises(KeyboardInterrupt), occupy(workspace):
            pass
    assert not root.exists()
    with occupy(workspace, commit=first):
        assert owns(root)


def test_a_shallow_clone_a_worktree_and_odd_paths_are_cloned(
    workspace: Path, tmp_path: Path, first: str
) -> None:
    shallow = tmp_path / "a shallow; $(clone)"
    git(tmp_path, "clone", "--quiet", "--depth", "1", workspace.as_uri(), str(shallow))
    git(workspace, "worktree", "add", "--quiet", "--detach", str(tmp_path / "tree"), first)
    (tmp_path / "linked").symlink_to(tmp_path / "tree")
    for home in (shallow, tmp_path / "linked"):
        with occupy(home) as (root, _):
            assert owns(root)
            assert (root / "stage.py").is_file()
    git(workspace, "worktree", "remove", "--force", str(tmp_path / "tree"))


@pytest.mark.parametrize("commit", ["no-such", "--upload-pack=touch x", "HEAD~7"])
def test_an_unknown_commit_is_said(workspace: Path, commit: str) -> None:
    with pytest.raises(InputError, match="git knows no commit"), occupy(workspace, commit=commit):
        pass


def test_without_git_it_is_said_at_once(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path / "nothing"))
        with pytest.raises(InputError, match="git is not installed"), occupy(workspace):
            pass
    shutil.rmtree(workspace / ".git")
    with pytest.raises(InputError, match="is no git repository"), occupy(workspace):
        pass


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_checkout_of_another_user_is_said_with_what_to_do(workspace: Path) -> None:
    for path in (workspace, workspace / ".git"):
        os.chown(path, 12345, -1)
    with pytest.raises(InputError, match=r"belongs to another user.*safe\.directory"), occupy(workspace):
        pass


def test_a_program_that_is_missing_is_said_before_anything_starts(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "dvc" else name)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert main(["--workspace", str(workspace)]) == 2
    assert (
        "dvc not installed; a retraining needs the pipeline's packages: `make install`"
        in capsys.readouterr().err
    )
