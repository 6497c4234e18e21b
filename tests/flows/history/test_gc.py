"""What may go of DVC's cache, asked of real git, DVC and a registry of its own."""

from __future__ import annotations

import hashlib
import json
import re
from argparse import Namespace
from contextlib import chdir
from pathlib import Path

import pytest
from dvc.repo import Repo

from flows.history import gc
from flows.places.git import run_git
from flows.places.lock import hold
from flows.storage import share
from videollava import registry
from videollava.errors import InputError
from videollava.params import load_params


def train(root: Path, epochs: int) -> str:
    """Retrain with so many epochs, and keep dvc.lock in a commit beside the branch; the commit."""
    file = root / "params.yaml"
    file.write_text(re.sub(r"epochs: \d+\n  learning", f"epochs: {epochs}\n  learning", file.read_text()))
    with chdir(root), Repo(str(root)) as repo:
        repo.reproduce()
    run_git(root, "add", "-f", "dvc.lock", "params.yaml")
    tree = run_git(root, "write-tree")
    run_git(root, "reset", "-q")
    who = ("-c", "user.name=t", "-c", "user.email=t@t")
    commit = run_git(root, *who, "commit-tree", tree, "-p", "HEAD", "-m", f"{epochs} epochs")
    base = run_git(root, "rev-parse", "HEAD")
    run_git(root, "update-ref", f"refs/exps/{base[:2]}/{base[2:]}/epochs-{epochs}", commit)
    return commit


def register(root: Path, commit: str) -> int:
    version, _ = registry.register(root, load_params(root / "params.yaml"))
    run_git(root, "update-ref", f"refs/videollava/model/videollava/{version.number}", commit)
    return version.number


def weights(root: Path, epochs: int) -> bool:
    """Whether the cache has the weights that so many epochs give."""
    found = (root / ".dvc/cache/files/md5").rglob("*")
    return any(path.is_file() and path.read_bytes() == f"weights after {epochs}".encode() for path in found)


def call(root: Path, monkeypatch: pytest.MonkeyPatch, yes: bool, days: int = 30) -> int:
    monkeypatch.chdir(root)
    return gc.run(Namespace(yes=yes, older_than=days, json=False))


def test_only_what_nobody_needs_goes(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = register(workspace, train(workspace, 2))
    extra = train(workspace, 9)  # saved, and no version
    second = register(workspace, train(workspace, 3))

    assert call(workspace, monkeypatch, yes=True) == 0
    assert "nothing to remove" in capsys.readouterr().out
    assert all(weights(workspace, epochs) for epochs in (2, 9, 3))

    assert call(workspace, monkeypatch, yes=False, days=0) == 0
    assert "epochs-9: saved 0 days ago, and no version is of it" in capsys.readouterr().out
    assert weights(workspace, 9), "nothing goes without --yes"
    call(workspace, monkeypatch, yes=True, days=0)
    assert not weights(workspace, 9)
    assert extra not in run_git(workspace, "for-each-ref")
    assert weights(workspace, 2)
    assert weights(workspace, 3)

    tracking = load_params(workspace / "params.yaml").tracking
    registry.open_store(workspace, tracking).client.delete_model_version("videollava", str(first))
    run_git(workspace, "tag", "keep", f"refs/videollava/model/videollava/{first}")
    call(workspace, monkeypatch, yes=True)
    assert weights(workspace, 2), "a tag needs it"
    run_git(workspace, "tag", "-d", "keep")
    capsys.readouterr()
    call(workspace, monkeypatch, yes=True, days=0)
    assert "version 1 was deleted from the registry" in capsys.readouterr().out
    assert not weights(workspace, 2)
    assert weights(workspace, 3)
    assert registry.resolve(f"models:/videollava/{second}", workspace, tracking).is_dir()

    with hold(workspace), pytest.raises(InputError, match="another retraining"):
        call(workspace, monkeypatch, yes=True)


def test_encoders_go_with_the_version_that_keeps_them(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = load_params(finished / "params.yaml")
    version, _ = registry.register(finished, params)
    cache = finished / ".dvc/cache/files/md5"

    def put(content: bytes, suffix: str = "") -> Path:
        md5 = hashlib.md5(content).hexdigest() + suffix
        (cache / md5[:2]).mkdir(exist_ok=True)
        (cache / md5[:2] / md5[2:]).write_bytes(content)
        return cache / md5[:2] / md5[2:]

    config = put(b'{"of": "pictures"}')
    rows = [{"md5": config.parent.name + config.name, "relpath": "image/config.json"}]
    listing = put(json.dumps(rows).encode(), ".dir")
    client = registry.open_store(finished, params.tracking).client
    key = listing.parent.name + listing.name
    client.set_model_version_tag("videollava", str(version.number), "encoders", key)
    folder = registry.resolve_encoders(version.reference, finished, params.tracking)
    call(finished, monkeypatch, yes=True, days=0)
    assert config.is_file()
    assert folder.is_dir()
    client.create_model_version("videollava", source="elsewhere", run_id=version.run_id, tags={"key": "x"})
    client.delete_model_version("videollava", str(version.number))
    call(finished, monkeypatch, yes=True, days=0)
    assert not config.is_file()
    assert not folder.exists()


def test_a_registry_that_lost_its_versions_frees_nothing(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(workspace, train(workspace, 2))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workspace / '.mlflow' / 'another.db'}")
    with pytest.raises(InputError, match="the registry has no version, and git has refs of some"):
        call(workspace, monkeypatch, yes=True, days=0)
    assert weights(workspace, 2)


def test_a_cache_that_others_use_is_left_alone(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another checkout's files in a common folder are named by nothing that is known here."""
    common = workspace.parent / "common"
    with (workspace / ".dvc" / "config.local").open("a") as stream:
        stream.write(f"[cache]\n    dir = {common}\n")
    train(workspace, 2)
    (common / "files/md5/ab").mkdir(exist_ok=True)
    theirs = common / "files/md5/ab" / ("c" * 30)
    theirs.write_text("another checkout's")
    with pytest.raises(InputError, match=r"cache is .*common.*nothing was removed"):
        call(workspace, monkeypatch, yes=True, days=0)
    assert theirs.is_file()


def test_what_a_checkout_with_this_cache_made_stays(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it lies: in the folder of clones, or where `reproduce --into` put it; and what was committed there."""
    other = workspace.parent / "elsewhere"
    run_git(workspace, "clone", "-q", str(workspace), str(other))
    share(workspace, other)
    train(other, 7)
    run_git(other, "add", "-f", "dvc.lock", "params.yaml")
    run_git(other, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "seven")
    train(other, 8)
    train(workspace, 2)
    call(workspace, monkeypatch, yes=True, days=0)
    assert all(weights(workspace, epochs) for epochs in (2, 7, 8))
    with hold(other), pytest.raises(InputError, match="another retraining"):
        call(workspace, monkeypatch, yes=True, days=0)


def test_a_stash_and_another_worktree_keep_what_they_name(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    register(workspace, train(workspace, 2))
    run_git(workspace, "add", "-f", "dvc.lock")
    who = ("-c", "user.name=t", "-c", "user.email=t@t")
    run_git(workspace, *who, "commit", "-qm", "two")
    train(workspace, 5)
    run_git(workspace, *who, "stash", "push", "-q", "--", "dvc.lock", "params.yaml")
    train(workspace, 3)
    run_git(workspace, "worktree", "add", "-q", str(workspace.parent / "beside"))
    # A version that the other worktree's own registry counts: this one has none of that number.
    theirs = run_git(workspace, "rev-parse", "HEAD")
    run_git(workspace, "update-ref", "refs/videollava/model/videollava/9", theirs)
    call(workspace, monkeypatch, yes=True, days=0)
    assert weights(workspace, 5), "a stash names it"
    assert "deleted from the registry" not in capsys.readouterr().out
    assert run_git(workspace, "rev-parse", "refs/videollava/model/videollava/9") == theirs


def test_what_is_damaged_or_cannot_be_removed_is_said(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(workspace, 2)
    unneeded = workspace / ".dvc/cache/files/md5/ab" / f"{7:030}"
    unneeded.parent.mkdir(exist_ok=True)
    unneeded.write_text("nobody's")
    with monkeypatch.context() as patch:

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        patch.setattr(Path, "unlink", refuse)
        outlook = gc.look(workspace, 0)
        assert outlook.objects == (f"ab{7:030}",)
        with pytest.raises(InputError, match=r"ab/0+7: cannot be removed \(Permission denied\)"):
            gc.remove(workspace, outlook)
    listing = next((workspace / ".dvc/cache/files/md5").glob("*/*.dir"))
    listing.chmod(0o644)
    listing.write_text("[{")
    with pytest.raises(InputError, match=r"DVC's cache is damaged: .*is corrupted"):
        call(workspace, monkeypatch, yes=True, days=0)
    assert weights(workspace, 2)
    assert unneeded.is_file()
