"""What names a version in git: a tag where others have the registry, else a ref that stays here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.history.keep import bring_home, push_refs, tie
from flows.history.made import Made
from flows.history.save import Saved, save
from flows.history.tags import name_version
from flows.places.clones import have_clone
from flows.storage import share
from videollava.errors import InputError
from videollava.params import Tracking, load_params
from videollava.registry import Version

SERVER = "http://127.0.0.1:9"


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    return subprocess.run(
        ["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True
    ).stdout


def dvc(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "dvc", *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def keep(root: Path) -> Saved:
    return save(root, lambda: Made(model="videollava"))


def commit_uri(root: Path, uri: str) -> None:
    file = root / "params.yaml"
    file.write_text(file.read_text() + f"tracking: {{uri: '{uri}'}}\n")
    git(root, "commit", "-qam", "a registry for all")


def test_a_version_of_the_committed_registry_is_a_tag(finished: Path) -> None:
    commit_uri(finished, f"{SERVER}/")
    commit = keep(finished).commit
    named = name_version(finished, finished, Tracking(uri=SERVER), 1, commit)
    assert (named.ref, named.tag, named.note) == ("refs/tags/model/videollava/1", True, "")
    assert git(finished, "tag", "--points-at", commit) == "model/videollava/1\n"
    assert name_version(finished, finished, Tracking(uri=SERVER), 1, commit) == named


@pytest.mark.parametrize(
    "committed", ["", "sqlite:///runs.db", "sqlite:////srv/mlflow.db", "http://other.example"]
)
def test_a_version_of_any_other_registry_is_a_ref_of_ours(
    finished: Path, monkeypatch: pytest.MonkeyPatch, committed: str
) -> None:
    if committed:
        commit_uri(finished, committed)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)  # as an override does: no clone has it
    uri = committed if committed.startswith("sqlite") else SERVER
    commit = keep(finished).commit
    for tracking in (Tracking(uri=uri), *([Tracking()] if not committed else [])):
        named = name_version(finished, finished, tracking, 1, commit)
        assert (named.ref, named.tag) == ("refs/videollava/model/videollava/1", False)
    assert git(finished, "tag") == ""


def test_a_tag_never_moves(finished: Path) -> None:
    commit_uri(finished, SERVER)
    git(finished, "tag", "model/videollava/1", "HEAD")
    there = git(finished, "rev-parse", "HEAD")
    named = name_version(finished, finished, Tracking(uri=SERVER), 1, keep(finished).commit)
    assert named.note.startswith(f"model/videollava/1 is another commit already ({there[:12]})")
    assert git(finished, "rev-parse", "model/videollava/1") == there


def test_a_version_stays_what_it_was_saved_as(finished: Path) -> None:
    first = keep(finished)
    version = Version("videollava", 1, "", 0, saved=first.commit, saved_ref=first.ref)
    (finished / "stage.py").chmod(0o755)  # an edit that changes no stage
    second = keep(finished)
    assert second.commit != first.commit
    named = tie(finished, finished, load_params(finished / "params.yaml"), version, second)
    assert named.note == f"version 1 stays the commit it was saved as first, {first.commit[:12]}"
    assert git(finished, "rev-parse", named.ref).strip() == first.commit


def test_a_name_that_git_does_not_take(finished: Path) -> None:
    named = Tracking().model_copy(
        update={"model": "a..b"}
    )  # in a params.yaml of before such names were refused
    with pytest.raises(InputError, match=r"tracking\.model is 'a\.\.b'"):
        name_version(finished, finished, named, 1, keep(finished).commit)


def test_what_a_clone_saves_comes_home_before_it_is_dropped(finished: Path) -> None:
    head = git(finished, "rev-parse", "HEAD").strip()
    with have_clone(finished, head) as (clone, _):
        share(finished, clone)
        (clone / "params.yaml").write_text(
            (clone / "params.yaml").read_text().replace("epochs: 2", "epochs: 3")
        )
        dvc(clone, "repro", "-q")
        saved = keep(clone)
        before = git(finished, "status", "--porcelain"), git(finished, "reflog", "--all")
        bring_home(finished, clone, saved.ref)
        bring_home(finished, clone, saved.ref)
    shutil.rmtree(clone)
    assert (git(finished, "status", "--porcelain"), git(finished, "reflog", "--all")) == before
    assert git(finished, "rev-parse", saved.ref).strip() == saved.commit
    assert "epochs: 3" in git(finished, "show", f"{saved.commit}:params.yaml")
    git(finished, "fsck", "--connectivity-only", saved.commit)
    assert not (finished / ".git/FETCH_HEAD").exists()


def test_a_clone_of_the_tag_has_nothing_to_do(finished: Path, tmp_path: Path) -> None:
    dvc(finished, "remote", "add", "--default", "store", str(tmp_path / "store"))
    git(finished, "commit", "-qam", "a remote")
    dvc(finished, "push", "-q", "--run-cache")
    git(finished, "update-ref", "refs/tags/model/videollava/1", keep(finished).commit)
    there = tmp_path / "there"
    git(tmp_path, "clone", "-q", "-b", "model/videollava/1", str(finished), str(there))
    said = dvc(there, "repro", "--pull", "--allow-missing")
    assert "Running stage" not in said
    assert git(there, "status", "--porcelain") == ""
    assert not list((there / ".dvc/cache").rglob("*")) or not (there / ".dvc/cache/files").exists()
    # One changed parameter there works: what it needs comes from the remote.
    file = there / "params.yaml"
    file.write_text(file.read_text().replace("epochs: 2", "epochs: 3"))
    said = dvc(there, "repro", "--pull", "--allow-missing")
    assert "Running stage 'fetch'" not in said
    assert (there / "models/videollava/model.safetensors").read_text() == "weights after 3"


def test_dvc_gc_keeps_what_a_tag_names(finished: Path) -> None:
    git(finished, "update-ref", "refs/tags/model/videollava/1", keep(finished).commit)
    file = finished / "params.yaml"
    file.write_text(file.read_text().replace("epochs: 2", "epochs: 3"))
    dvc(finished, "repro", "-q")
    dvc(finished, "gc", "--workspace", "--all-tags", "--force", "-q")
    git(finished, "checkout", "-q", "-f", "model/videollava/1")
    dvc(finished, "checkout", "-q", "--force")
    assert (finished / "models/videollava/model.safetensors").read_text() == "weights after 2"


def test_what_is_pushed_and_what_is_not(finished: Path, tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--bare", "shared.git")
    git(finished, "remote", "add", "shared", str(tmp_path / "shared.git"))
    saved = keep(finished)
    tag, private = "refs/tags/model/videollava/1", "refs/videollava/model/videollava/2"
    for ref in (tag, private):
        git(finished, "update-ref", ref, saved.commit)
    assert push_refs(finished, "shared", [saved.ref, tag, private]) == [saved.ref, tag]
    assert git(tmp_path / "shared.git", "for-each-ref", "--format=%(refname)").split() == [saved.ref, tag]
    assert push_refs(finished, "shared", [private]) == []
    # Another commit has the name there: it stays, and it is said.
    git(finished, "tag", "-d", "model/videollava/1")
    git(finished, "tag", "model/videollava/1", "HEAD")
    with pytest.raises(InputError, match=r"rejected.*model/videollava/1"):
        push_refs(finished, "shared", [saved.ref, tag])
    assert git(tmp_path / "shared.git", "rev-parse", tag).strip() == saved.commit
    with pytest.raises(InputError, match="push_to is 'elsewhere', and git has no such remote"):
        push_refs(finished, "elsewhere", [saved.ref])
