"""A commit on its way by origin: the same contents are the same commit, and shallow checkouts get it."""

from __future__ import annotations

from pathlib import Path

import pytest
from ground import git

from flows.history.snapshot import take_snapshot
from flows.places.clones import have_clone
from flows.team.carry import RUNS, bring, fetch_commit, publish, sweep_refs, take_back
from videollava.errors import InputError


@pytest.fixture
def origin(workspace: Path) -> Path:
    """A bare repository that the workspace is a clone of, two commits deep."""
    place = workspace.parent / "origin.git"
    git(workspace, "commit", "--quiet", "--allow-empty", "-m", "second")
    git(workspace.parent, "clone", "--quiet", "--bare", str(workspace), str(place))
    git(workspace, "remote", "add", "origin", f"file://{place}")
    return place


def test_a_workspace_travels_as_it_is_and_leaves_nothing_behind(
    workspace: Path, origin: Path, tmp_path: Path
) -> None:
    with have_clone(workspace, git(workspace, "rev-parse", "HEAD").strip()) as (root, _):
        (root / "params.yaml").write_text((root / "params.yaml").read_text().replace("seed: 0", "seed: 5"))
        (root / "dvc.lock").write_text("schema: '2.0'\n")
        commit = publish(workspace, root, take_snapshot(root), "k1")
        assert publish(workspace, root, take_snapshot(root), "k2") != commit  # it says whose work it is
        assert publish(workspace, root, take_snapshot(root), "k1") == commit
    far = tmp_path / "far"
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{origin}", str(far))
    bring(far, "k1", commit)
    bring(far, "k1", commit)
    with have_clone(far, commit, "abcdefabcdef") as (root, _):
        assert root.name == "abcdefabcdef"
        assert "seed: 5" in (root / "params.yaml").read_text()
        assert (root / "dvc.lock").is_file()
        assert git(root, "rev-parse", "HEAD^") == git(origin, "rev-parse", "HEAD")
    assert git(far, "status", "--porcelain", "--untracked-files=no") == ""
    take_back(workspace, "k1", commit)
    take_back(workspace, "k1", commit)
    assert [
        line.split("/")[3] for line in git(origin, "for-each-ref", "--format=%(refname)", RUNS).split()
    ] == ["k2"]
    with pytest.raises(InputError, match="k1"):
        bring(workspace, "k1", commit)


def test_what_was_published_for_work_that_is_over_is_taken_back_later(workspace: Path, origin: Path) -> None:
    with have_clone(workspace, git(workspace, "rev-parse", "HEAD").strip()) as (root, _):
        commits = {key: publish(workspace, root, take_snapshot(root), key) for key in ("over", "at-work")}
    for key, commit in commits.items():
        git(workspace, "update-ref", f"{RUNS}/{key}/{commit[:12]}", "HEAD")  # as if brought here
    assert sweep_refs(workspace, lambda key: key == "over") == [f"{RUNS}/over/{commits['over'][:12]}"]
    for place in (workspace, origin):
        left = git(place, "for-each-ref", "--format=%(refname)", RUNS).split()
        assert left == [f"{RUNS}/at-work/{commits['at-work'][:12]}"]
    assert sweep_refs(workspace, lambda key: key == "over") == []


def test_what_a_trigger_names_is_origins(workspace: Path, origin: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    git(tmp_path, "clone", "--quiet", f"file://{origin}", str(other))
    git(other, "commit", "--quiet", "--allow-empty", "-m", "third")
    third = git(other, "rev-parse", "HEAD").strip()
    git(other, "push", "--quiet", "origin", "HEAD", "HEAD:refs/heads/data/today", "HEAD:refs/tags/good")
    here = git(workspace, "rev-parse", "HEAD").strip()
    assert fetch_commit(workspace, here[:9]) == here
    for name in ("", "data/today", "good", third, third[:9]):
        assert fetch_commit(workspace, name) == third, name
    assert git(workspace, "for-each-ref", RUNS) == ""
    with pytest.raises(InputError, match="origin gives no 'elsewhere'"):
        fetch_commit(workspace, "elsewhere")
