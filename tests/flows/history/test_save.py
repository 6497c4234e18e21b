"""A retraining saved as a commit, with real git and real DVC; nothing of the user's is touched."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from flows.history.made import Made, read_made
from flows.history.save import Saved, save
from flows.history.snapshot import take_snapshot
from flows.places.git import run_git
from videollava.errors import InputError


def git(folder: Path, *words: str, check: bool = True) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    done = subprocess.run(["git", *who, *words], cwd=folder, check=check, capture_output=True, text=True)
    return done.stdout


def dvc(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "dvc", *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def keep(root: Path, name: str = "") -> Saved:
    return save(root, lambda: Made(model="videollava", scores={"easy_vqa": {"accuracy": 62.0}}), name)


def look(root: Path) -> dict[str, str]:
    """All that a save must leave alone."""
    index = root / git(root, "rev-parse", "--git-path", "index").strip()
    return {
        "status": git(root, "status", "--porcelain=v2", "--branch", "--untracked-files=all"),
        "staged": git(root, "diff", "--cached"),
        "unstaged": git(root, "diff"),
        "entries": git(root, "ls-files", "--stage", "--debug") if index.is_file() else "",
        "index": index.read_bytes().hex() if index.is_file() else "",
        "stash": git(root, "stash", "list"),
        "reflog": git(root, "reflog", "--all"),
        "head": git(root, "rev-parse", "--symbolic-full-name", "HEAD") + git(root, "rev-parse", "HEAD"),
        "branches": git(root, "for-each-ref", "refs/heads", "refs/stash"),
    }


def files(root: Path, commit: str) -> list[str]:
    return git(root, "ls-tree", "-r", "--name-only", commit).split()


def refs(root: Path) -> list[str]:
    return git(root, "for-each-ref", "--format=%(refname)", "refs/exps", "refs/videollava").split()


def test_a_retraining_is_a_commit_beside_the_branch(finished: Path) -> None:
    saved = keep(finished)
    head = git(finished, "rev-parse", "HEAD").strip()
    assert saved.new
    assert saved.notes == ()
    assert saved.ref.startswith(f"refs/exps/{head[:2]}/{head[2:]}/")
    assert git(finished, "rev-parse", saved.ref, f"{saved.ref}^").split() == [saved.commit, head]
    assert git(finished, "diff", "--name-status", "HEAD", saved.commit).split() == [
        "A",
        "dvc.lock",
        "A",
        "made.json",
    ]
    assert read_made(finished, saved.commit).scores == {"easy_vqa": {"accuracy": 62.0}}


def test_nothing_of_the_users_is_touched(finished: Path) -> None:
    (finished / "README.md").write_text("old\n")
    git(finished, "add", "README.md")
    git(finished, "commit", "-qm", "readme")
    (finished / "README.md").write_text("stashed\n")
    git(finished, "stash", "-q")
    (finished / "README.md").write_text("staged\n")
    (finished / "new.md").write_text("staged too\n")
    (finished / "meant.md").write_text("only meant to be added\n")
    git(finished, "add", "README.md", "new.md")
    git(finished, "add", "--intent-to-add", "meant.md")
    (finished / "README.md").write_text("staged, then edited\n")
    (finished / "notes.txt").write_text("mine\n")
    before = look(finished)
    saved = keep(finished)
    assert look(finished) == before
    assert git(finished, "show", f"{saved.commit}:README.md") == "staged, then edited\n"
    assert {"new.md", "meant.md"} <= set(files(finished, saved.commit))
    assert "notes.txt" not in files(finished, saved.commit)
    assert any("notes.txt" in note for note in saved.notes)


def test_an_untracked_module_that_a_stage_reads_is_in_it(finished: Path) -> None:
    (finished / "code").mkdir()
    (finished / "code/part.py").write_text("x = 1\n")
    (finished / "code/large.bin").write_bytes(b"0" * (11 << 20))
    text = (
        (finished / "dvc.yaml")
        .read_text()
        .replace("[models/videollava, stage.py]", "[models/videollava, stage.py, code]")
    )
    (finished / "dvc.yaml").write_text(text)
    assert git(finished, "diff", "HEAD", keep(finished).commit, "--", "dvc.yaml") == ""  # as it ran
    (finished / "code/large.bin").unlink()
    dvc(finished, "repro", "-q")
    saved = keep(finished)
    assert "code/part.py" in files(finished, saved.commit)
    (finished / "code/large.bin").write_bytes(b"0" * (11 << 20))
    assert any("code/large.bin is above 10 MiB" in note for note in take_snapshot(finished).notes)


def test_code_edited_after_training_is_not_stamped(finished: Path) -> None:
    ran = (finished / "stage.py").read_text()
    (finished / "stage.py").write_text(ran + "# an idea\n")
    before = look(finished)
    saved = keep(finished)
    assert git(finished, "show", f"{saved.commit}:stage.py") == ran
    assert (finished / "stage.py").read_text() == ran + "# an idea\n"
    assert look(finished) == before


def test_an_edit_of_the_same_size_in_the_same_moment_is_seen(finished: Path) -> None:
    """git tells a file that changed by size and time; a copied index with a time of its own would hide it."""
    file = finished / "params.yaml"
    times = file.stat()
    git(finished, "update-index", "--refresh")
    index = finished / ".git/index"
    file.write_text(file.read_text().replace("epochs: 2", "epochs: 3"))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    os.utime(index, ns=(times.st_atime_ns, times.st_mtime_ns))
    git(finished, "config", "core.trustctime", "false")
    snapshot = take_snapshot(finished)
    assert "epochs: 3" in git(finished, "show", f"{snapshot.tree}:params.yaml")


def test_what_ran_and_is_nowhere_any_more_is_refused(finished: Path) -> None:
    code = finished / "stage.py"
    code.write_text(code.read_text() + "# ran\n")
    dvc(finished, "commit", "-q", "--force")
    code.write_text(code.read_text() + "# after\n")
    with pytest.raises(InputError, match=r"stage\.py is not the one that ran \(stage .*`dvc repro` runs it"):
        keep(finished)
    assert refs(finished) == []


def test_a_parameter_edited_after_training_is_not_stamped(finished: Path) -> None:
    file = finished / "params.yaml"
    text = file.read_text()
    file.write_text(text.replace("epochs: 2", "epochs: 7"))
    saved = keep(finished)
    assert git(finished, "show", f"{saved.commit}:params.yaml") == text
    git(finished, "commit", "-qam", "for next time")
    (finished / "stage.py").write_text("")  # neither HEAD nor the tree has what ran: the saved one has
    again = keep(finished)
    assert git(finished, "show", f"{again.commit}:params.yaml") == text


def test_an_edit_in_the_middle_of_a_run_harms_nothing(finished: Path) -> None:
    code = finished / "stage.py"
    ran = code.read_text() + "# ran\n"
    code.write_text(ran)
    before = take_snapshot(finished)
    dvc(finished, "commit", "-q", "--force")
    code.write_text(ran + "# while it ran\n")
    saved = save(finished, lambda: Made(model="m"), before=before)
    assert git(finished, "show", f"{saved.commit}:stage.py") == ran


def test_code_edited_while_its_stage_ran_is_not_stamped(workspace: Path) -> None:
    """DVC notes the hash of code when the stage is over."""
    (workspace / "part.py").write_text("x = 1\n")
    file, code = workspace / "dvc.yaml", workspace / "stage.py"
    file.write_text(file.read_text().replace("[data/raw, stage.py]", "[data/raw, stage.py, part.py]"))
    told = code.read_text()
    code.write_text(
        told.replace(
            "    hang =", "    time.sleep(0.05)\n    open('part.py', 'a').write('y = 2\\n')\n    hang ="
        )
    )
    dvc(workspace, "repro", "-q")
    assert dvc(workspace, "status") == "Data and pipelines are up to date.\n"
    with pytest.raises(
        InputError, match=r"part\.py was edited while stage finetune ran.*--single-item finetune"
    ):
        keep(workspace)
    assert refs(workspace) == []
    code.write_text(told)
    dvc(workspace, "repro", "-q")
    assert keep(workspace).new


def test_the_same_is_saved_once(finished: Path) -> None:
    one = keep(finished)
    two = keep(finished)
    assert (two.commit, two.ref, two.new) == (one.commit, one.ref, False)
    named = keep(finished, "more-clips")
    assert named.commit == one.commit
    assert named.ref.endswith("/more-clips")
    assert refs(finished) == [named.ref]
    git(finished, "update-ref", "refs/tags/model/videollava/1", named.commit)
    git(finished, "update-ref", "-d", named.ref)
    assert keep(finished).commit == one.commit  # its tag has it
    assert len(refs(finished)) == 1


def test_two_retrainings_of_one_commit(finished: Path) -> None:
    one = keep(finished, "two-epochs")
    file = finished / "params.yaml"
    file.write_text(file.read_text().replace("epochs: 2", "epochs: 3"))
    dvc(finished, "repro", "-q")
    with pytest.raises(InputError, match="--name two-epochs: another retraining"):
        keep(finished, "two-epochs")
    two = keep(finished, "three-epochs")
    assert one.commit != two.commit
    assert len(refs(finished)) == 2
    listed = dvc(finished, "exp", "list", "--name-only")
    assert sorted(listed.split()) == ["three-epochs", "two-epochs"]
    diff = json.loads(dvc(finished, "params", "diff", "--json", one.commit, two.commit))
    assert diff == {"params.yaml": {"finetune.epochs": {"old": 2, "new": 3, "diff": 1}}}
    shown = json.loads(dvc(finished, "exp", "show", "-A", "--json"))
    names = {exp["name"]: exp for row in shown for exp in row["experiments"] or ()}
    assert set(names) == {"two-epochs", "three-epochs"}
    rev = names["three-epochs"]["revs"][0]["data"]
    assert rev["metrics"]["metrics.json"]["data"]["easy_vqa"]["accuracy"] == 63.0


def test_missing_data_hold_nothing_up(finished: Path) -> None:
    for name in ("data", "models", "evaluation", "metrics.json"):
        path = finished / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(finished / ".dvc/cache")
    assert keep(finished).new


def test_a_stage_that_never_ran_is_refused(workspace: Path) -> None:
    with pytest.raises(InputError, match="names a stage or an output that was not made"):
        keep(workspace)


def test_a_detached_head_and_a_worktree(finished: Path, tmp_path: Path) -> None:
    git(finished, "checkout", "-q", "--detach")
    before = look(finished)
    one = keep(finished)
    assert look(finished) == before
    other = tmp_path / "worktree"
    git(finished, "worktree", "add", "-q", str(other))
    shutil.copy(finished / "dvc.lock", other)
    before, there = look(finished), look(other)
    two = keep(other)
    assert (look(finished), look(other)) == (before, there)
    assert two.commit == one.commit


def test_a_shallow_clone(finished: Path, tmp_path: Path) -> None:
    git(finished, "commit", "-q", "--allow-empty", "-m", "more")
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{finished}", str(shallow))
    shutil.copy(finished / "dvc.lock", shallow)
    before = look(shallow)
    assert keep(shallow).new
    assert look(shallow) == before


def test_no_git_and_no_commit_are_said(finished: Path) -> None:
    shutil.rmtree(finished / ".git")
    with pytest.raises(InputError, match="no git repository"):
        keep(finished)
    git(finished, "init", "-q")
    with pytest.raises(InputError, match="no commit here yet"):
        keep(finished)


def test_a_repository_that_cannot_be_written_to_is_said(finished: Path) -> None:
    (finished / ".git/videollava").write_text("in the way")
    with pytest.raises(InputError, match=r"\.git/videollava: File exists"):
        keep(finished)


def test_a_folder_of_a_larger_repository_is_said(finished: Path) -> None:
    shutil.rmtree(finished / ".git")
    git(finished.parent, "init", "-q")
    with pytest.raises(InputError, match="no git repository"):
        keep(finished)


def test_settings_that_would_stop_or_change_it(
    finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {
        "commit.gpgsign": "true",
        "gpg.program": "/bin/false",
        "core.safecrlf": "true",
        "user.useConfigOnly": "true",  # and no name is set
        "core.fsmonitor": "true",
        "core.splitIndex": "true",
    }.items():
        git(finished, "config", name, value)
    hooks = finished / ".git/hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("pre-commit", "post-commit", "reference-transaction", "post-index-change"):
        (hooks / name).write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/hooked\nexit 1\n")
        (hooks / name).chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for name in ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "EMAIL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere.git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "elsewhere.index"))
    saved = keep(finished)
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.delenv("GIT_INDEX_FILE")
    assert git(finished, "log", "-1", "--format=%an %ae", saved.commit) == "videollava videollava@localhost\n"
    assert not (tmp_path / "hooked").exists()
    assert not (tmp_path / "elsewhere.index").exists()


@pytest.mark.parametrize("setting", ["autocrlf", "attributes"])
def test_line_ends_that_git_changes(finished: Path, setting: str) -> None:
    if setting == "autocrlf":
        git(finished, "config", "core.autocrlf", "true")
    else:
        (finished / ".gitattributes").write_text("*.py text eol=crlf\n")
    code = finished / "stage.py"
    code.write_bytes(code.read_bytes().replace(b"\n", b"\r\n"))
    yaml = finished / "params.yaml"
    if setting == "autocrlf":
        yaml.write_bytes(yaml.read_bytes().replace(b"\n", b"\r\n"))
    dvc(finished, "commit", "-q", "--force")
    saved = keep(finished)
    assert (
        b"\r"
        not in subprocess.run(
            ["git", "cat-file", "blob", f"{saved.commit}:stage.py"],
            cwd=finished,
            capture_output=True,
            check=True,
        ).stdout
    )


def test_a_submodule_is_named_not_copied(finished: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    git(other, "commit", "-q", "--allow-empty", "-m", "x")
    git(finished, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(other), "part")
    (finished / "part/new.txt").write_text("x")
    before = look(finished)
    saved = keep(finished)
    assert look(finished) == before
    assert git(finished, "ls-tree", saved.commit, "part").startswith("160000 commit")


def test_an_output_that_was_staged_by_mistake_is_not_in_it(finished: Path) -> None:
    git(finished, "add", "--force", "metrics.json", "models")
    before = look(finished)
    saved = keep(finished)
    assert look(finished) == before
    assert not {"metrics.json", "models/videollava/config.json"} & set(files(finished, saved.commit))


def save_and_die(root: Path, at: Callable[[int, Sequence[str]], bool]) -> bool:
    """Save in a process that is killed (-9) before the call of git that `at` names; whether it was."""
    child = os.fork()
    if not child:
        import flows.places.git as place

        real, count = subprocess.run, 0

        def run(line: list[str], **options: Any) -> Any:
            nonlocal count
            count += 1
            if at(count, line):
                os.kill(os.getpid(), signal.SIGKILL)
            return real(line, **options)

        place.subprocess.run = run  # type: ignore[assignment]
        keep(root)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
    return bool(status)


def check_after_a_kill(root: Path) -> None:
    saved = keep(root)
    assert refs(root) == [saved.ref]
    assert [path.name for path in (root / ".git/videollava").iterdir()] == ["lock"]
    assert not list((root / ".git").rglob("*.lock"))


@pytest.mark.parametrize(
    "verb", ["add", "update-index", "write-tree", "hash-object", "commit-tree", "update-ref"]
)
def test_killed_before_a_call_of_git(finished: Path, verb: str) -> None:
    before = look(finished)
    assert save_and_die(finished, lambda _, line: verb in line)
    assert refs(finished) == []
    assert look(finished) == before
    check_after_a_kill(finished)


@pytest.mark.slow
def test_killed_before_any_call_of_git(finished: Path) -> None:
    for step in range(1, 100):
        if not save_and_die(finished, lambda count, _, step=step: count == step):  # type: ignore[misc]
            break
        check_after_a_kill(finished)
        git(finished, "update-ref", "-d", refs(finished)[0])
    assert 15 < step < 99


def test_names_of_files_are_bytes_and_stay_what_they_are(finished: Path) -> None:
    names = [b" first.py", b"new\nline.py", b"quo\"te'.py", b"\xff\xfe.py", b"last.py "]
    for name in names:
        Path(os.fsdecode(os.fsencode(finished) + b"/" + name)).write_text("x = 1\n")
    git(finished, "add", "-A", "--", "*.py*")
    before = git(finished, "ls-files", "-s")
    saved = keep(finished)
    assert git(finished, "ls-files", "-s") == before
    told = subprocess.run(
        ["git", "ls-tree", "-r", "-z", "--name-only", saved.commit],
        cwd=finished,
        capture_output=True,
        check=True,
    ).stdout.split(b"\0")
    assert set(names) <= set(told)


def test_a_name_that_begins_with_a_space_is_read_whole(finished: Path) -> None:
    (finished / " a.py").write_text("x = 1\n")
    git(finished, "add", "--", " a.py")
    assert run_git(finished, "ls-files", "-z").split("\0")[0] == " a.py"
