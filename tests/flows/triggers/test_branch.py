"""data/<date> of a real bare repository: begun, gone on with, merged by people, pushed to by two at once."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.places.clones import drop_sync
from flows.triggers.branch import Moved, Place, open_place
from videollava.errors import InputError


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    line = ["git", *who, *words]
    return subprocess.run(line, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of `origin`, a bare repository beside it, whose address is a path from the checkout on."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", "origin.git")
    git(tmp_path, "clone", "--quiet", "origin.git", "home")
    root = tmp_path / "home"
    (root / "locks").mkdir()
    for name in ("a", "b"):
        (root / f"locks/{name}.json").write_text(f"{name} 1\n")
    (root / ".gitignore").write_text("/.prefect\n")
    commit(root, "start")
    git(root, "remote", "set-url", "origin", "../origin.git")
    git(root, "push", "--quiet", "origin", "HEAD:main")
    return root


def commit(root: Path, message: str) -> None:
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "-m", message)


@pytest.fixture
def place(home: Path) -> Iterator[Place]:
    with open_place(home) as place:
        yield place


def change(place: Place, today: str, **locks: str) -> str:
    """What a sync does that finds these locks; the commit, "" where nothing differs."""
    start = place.begin(today)
    for name, text in locks.items():
        (place.root / f"locks/{name}.json").write_text(f"{text}\n")
    changed = place.changed(["a", "b", "c"])
    if not changed:
        return ""
    made = place.commit(start, changed, f"Lock {', '.join(changed)}")
    place.push(made, start.branch)
    return made


def show(home: Path, ref: str) -> str:
    return git(home, "--git-dir=../origin.git", "show", ref)


def history(home: Path, branch: str) -> list[str]:
    return git(home, "--git-dir=../origin.git", "log", "--first-parent", "--format=%s", branch).splitlines()


def test_a_day_has_one_branch_and_main_stays(home: Path, place: Place) -> None:
    main = show(home, "main")
    assert change(place, "2026-11-27", a="a 1") == ""
    assert git(home, "ls-remote", "origin").count("refs/") == 1
    first = change(place, "2026-11-28", a="a 2", c="c 1")
    second = change(place, "2026-11-28", b="b 2")
    assert change(place, "2026-11-28", b="b 2") == ""
    assert git(home, "ls-remote", "origin", "data/2026-11-28").split()[0] == second
    assert history(home, "data/2026-11-28") == ["Lock b", "Lock a, c", "start"]
    assert "Synced: a, c" in show(home, first)
    assert show(home, f"{second}:locks/a.json") == "a 2"
    assert show(home, f"{second}:locks/b.json") == "b 2"
    assert show(home, "main") == main
    # Nothing of the checkout was touched: neither files nor refs.
    assert git(home, "status", "--porcelain") == ""
    assert git(home, "for-each-ref", "--format=%(refname)") == "refs/heads/main\nrefs/remotes/origin/main"


def test_the_next_day_goes_on_where_main_lacks_the_last_one(home: Path, place: Place) -> None:
    first = change(place, "2026-11-27", a="a 2")
    start = place.begin("2026-11-28")
    assert (start.branch, start.base) == ("data/2026-11-28", first)
    assert (start.waiting, start.synced) == ("data/2026-11-27", first)
    assert place.changed(["a", "b"]) == []
    # Main went on meanwhile: what comes next has both.
    (home / "code").write_text("new")
    commit(home, "code")
    git(home, "push", "--quiet", "origin", "HEAD:main")
    second = change(place, "2026-11-28", b="b 2")
    assert history(home, second) == ["Lock b", "Merge main into data/2026-11-28", "Lock a", "start"]
    assert show(home, f"{second}:code") == "new"


def test_what_people_merged_is_no_start(home: Path, place: Place) -> None:
    change(place, "2026-11-27", a="a 2")
    git(home, "fetch", "--quiet", "origin")
    git(home, "merge", "--quiet", "origin/data/2026-11-27")
    git(home, "push", "--quiet", "origin", "HEAD:main")
    start = place.begin("2026-11-28")
    assert (start.base, start.waiting) == (git(home, "rev-parse", "HEAD"), "")
    # Squashed, on another day and on the same.
    change(place, "2026-11-28", a="a 3")
    git(home, "fetch", "--quiet", "origin")
    git(home, "merge", "--quiet", "--squash", "origin/data/2026-11-28")
    commit(home, "squashed")
    git(home, "push", "--quiet", "origin", "HEAD:main")
    assert place.begin("2026-11-28").waiting == ""
    assert place.begin("2026-11-29").base == git(home, "rev-parse", "HEAD")
    assert change(place, "2026-11-28", a="a 4")
    assert history(home, "data/2026-11-28")[0] == "Lock a"


def test_what_cannot_be_merged_is_left_to_people(home: Path, place: Place) -> None:
    change(place, "2026-11-28", a="a 2")
    (home / "locks/a.json").write_text("a of mine\n")
    commit(home, "mine")
    git(home, "push", "--quiet", "origin", "HEAD:main")
    with pytest.raises(InputError, match=r"data/2026-11-28 and main both changed the same lines.*by hand"):
        place.begin("2026-11-28")
    start = place.begin("2026-11-29")
    assert start.base == git(home, "rev-parse", "HEAD")
    assert start.told == (
        "data/2026-11-28 and main both changed the same lines, so data/2026-11-29 begins at main"
    )
    assert (place.root / "locks/a.json").read_text() == "a of mine\n"


def test_two_at_once_lose_nothing(home: Path, place: Place, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "origin.git", "other")
    with open_place(tmp_path / "other") as other:
        start, theirs = place.begin("2026-11-28"), other.begin("2026-11-28")
        for root, name in ((place.root, "a"), (other.root, "b")):
            (root / f"locks/{name}.json").write_text(f"{name} 2\n")
        other.push(other.commit(theirs, ["b"], "Lock b"), theirs.branch)
        with pytest.raises(Moved):
            place.push(place.commit(start, ["a"], "Lock a"), start.branch)
    change(place, "2026-11-28", a="a 2")
    assert history(home, "data/2026-11-28") == ["Lock a", "Lock b", "start"]


def test_a_killed_one_leaves_nothing_in_the_way(home: Path) -> None:
    with open_place(home) as place:
        change(place, "2026-11-28", a="a 2")
        (place.root / "locks/b.json").write_text("half")
        (place.root / "locks/.b.json.7").write_text("half")
        (place.root / ".git/index.lock").touch()
        (place.root / ".git/HEAD.lock").touch()
    with open_place(home) as place:
        place.begin("2026-11-28")
        assert place.changed(["a", "b"]) == []
        assert sorted(path.name for path in (place.root / "locks").iterdir()) == ["a.json", "b.json"]
        (place.root / ".git/HEAD").write_text("")
    with open_place(home) as place:
        assert place.begin("2026-11-28").waiting == "data/2026-11-28"


def test_a_shallow_checkout_does(home: Path, tmp_path: Path) -> None:
    (home / "code").write_text("new")
    commit(home, "code")
    git(home, "push", "--quiet", "origin", "HEAD:main")
    url = (tmp_path / "origin.git").as_uri()
    git(tmp_path, "clone", "--quiet", "--depth=1", url, "shallow")
    with open_place(tmp_path / "shallow") as place:
        assert change(place, "2026-11-28", a="a 2")
    assert history(home, "data/2026-11-28") == ["Lock a", "code", "start"]


def test_without_a_remote_or_its_branch_it_says_so(home: Path) -> None:
    with pytest.raises(InputError, match=r"git has no remote 'upstream', where data/<date> would go"):
        open_place(home, "upstream").__enter__()
    with open_place(home, main="trunk") as place, pytest.raises(InputError, match="refs/heads/trunk"):
        place.begin("2026-11-28")


def test_make_clean_removes_the_clone_unless_a_sync_is_at_work(home: Path) -> None:
    with open_place(home) as place:
        place.begin("2026-11-28")
        drop_sync(home)
        assert (place.root / "locks").is_dir()
    drop_sync(home)
    assert not (home / ".prefect/sync").exists()
    with open_place(home) as place:
        assert change(place, "2026-11-28", a="a 2")
