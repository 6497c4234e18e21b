"""The stack's bare repository and the checkouts of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from flows.places.git import run_git
from flows.stack.ground import Ground, lay_ground
from flows.stack.origin import follow, have_clone, have_origin, origin
from flows.storage import stores
from videollava.errors import InputError


def commit(folder: Path, text: str) -> str:
    (folder / "file").write_text(text)
    (folder / ".dvc").mkdir(exist_ok=True)
    (folder / ".dvc/config").write_text("[core]\n    analytics = false\n")
    (folder / ".gitignore").write_text("/.dvc/config.local\n/machine.yaml\n")
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    run_git(folder, "add", "-A")
    run_git(folder, *who, "commit", "--quiet", "-m", text)
    return run_git(folder, "rev-parse", "HEAD")


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ground:
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "global"))
    monkeypatch.setenv("DVC_SYSTEM_CONFIG_DIR", str(tmp_path / "system"))
    return lay_ground(tmp_path / "a stack")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    run_git(folder, "init", "--quiet")
    commit(folder, "one")
    return folder


def test_origin_follows_the_checkout_and_never_goes_back(ground: Ground, source: Path) -> None:
    said: list[str] = []
    have_origin(ground, source, said.append)
    clone = ground.folder / "data"
    have_clone(ground, clone, {"pools": {"data": "data"}})
    assert (clone / "machine.yaml").read_text() == "pools:\n  data: data\n"
    second = commit(source, "two")
    have_origin(ground, source, said.append)
    assert run_git(origin(ground), "rev-parse", "main") == second
    assert follow(clone, said.append) == second
    assert said == []
    theirs = commit(clone, "three")
    run_git(clone, "push", "--quiet", "origin", "main")
    have_origin(ground, source, said.append)  # the checkout is behind: nothing to push, nothing to say
    assert said == []
    (source / "file").write_text("edited")
    commit(source, "another three")
    (source / "file").write_text("and not committed")
    have_origin(ground, source, said.append)
    assert run_git(origin(ground), "rev-parse", "main") == theirs
    assert "changes that are not committed" in said[0]
    assert "its main has commits that" in said[1]


def test_a_checkout_keeps_what_a_person_wrote(ground: Ground, source: Path) -> None:
    have_origin(ground, source, print)
    clone = ground.folder / "gpu"
    have_clone(ground, clone, {"processes": 2})
    place = stores(clone)[1]
    assert (place.url, place.endpoint) == ("s3://dvc/store", ground.url("s3"))
    assert not any(key in (clone / ".dvc/config.local").read_text() for key in ground.keys.values())
    (clone / "machine.yaml").write_text("processes: 1\n")
    (clone / "file").write_text("mine")
    commit(source, "two")
    have_origin(ground, source, print)
    said: list[str] = []
    have_clone(ground, clone, {"processes": 2})
    follow(clone, said.append)
    assert (clone / "machine.yaml").read_text() == "processes: 1\n"
    assert (clone / "file").read_text() == "mine"
    assert "stays at its commit: it has changes that are not committed" in said[0]
    assert stores(clone)[1] == place


def test_a_shallow_checkout_can_be_the_first(ground: Ground, source: Path, tmp_path: Path) -> None:
    commit(source, "two")
    shallow = tmp_path / "shallow"
    subprocess.run(["git", "clone", "--quiet", "--depth=1", source.as_uri(), shallow], check=True)
    have_origin(ground, shallow, print)
    have_clone(ground, ground.folder / "data", {})
    assert (ground.folder / "data/file").read_text() == "two"


def test_what_is_no_checkout_is_refused(ground: Ground, tmp_path: Path) -> None:
    (tmp_path / "unpacked").mkdir()
    with pytest.raises(InputError, match="no git repository"):
        have_origin(ground, tmp_path / "unpacked", print)
    (ground.folder / "data").mkdir()
    with pytest.raises(InputError, match="is no git checkout; remove it"):
        have_clone(ground, ground.folder / "data", {})
