"""gate.yaml: what it may say, and that the protected commit's counts and nobody's edits."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from videollava.errors import InputError
from videollava.gate import Bar, Gate, read_rules
from videollava.gate.rules import schema

ROOT = Path(__file__).parents[2]
STRICT = "videollava: {benchmarks: {easy_vqa: {minimum: 60.0}}, approval: true, notify: [HOOK]}\n"
LOOSE = "videollava: {allowed_regression: 50.0}\n"


def git(folder: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *words]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A repository with the strict gate, committed on main."""
    folder = tmp_path / "origin"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "gate.yaml").write_text(STRICT)
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", "start")
    return folder


def test_our_own_gate_is_right() -> None:
    (ROOT / "gate.yaml").read_text()
    for model in ("videollava", "another"):
        assert isinstance(read_rules(ROOT, model).gate, Gate)


def test_without_git_the_file_counts_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "gate.yaml").write_text(STRICT)
    rules = read_rules(tmp_path, "videollava")
    assert rules.gate.benchmarks == {"easy_vqa": Bar(minimum=60.0)}
    assert (rules.gate.approval, rules.gate.notify) == (True, ("HOOK",))
    assert rules.sha256 == hashlib.sha256(STRICT.encode()).hexdigest()
    assert (rules.commit, rules.entry, rules.notes) == ("", "videollava", ())
    assert rules.source.startswith("the folder as it is")
    other = read_rules(tmp_path, "other")
    assert other.gate == Gate()
    assert "no entry other and no default: the defaults count" in other.notes[0]
    (tmp_path / "gate.yaml").unlink()
    assert "has no gate.yaml: the defaults count" in read_rules(tmp_path, "videollava").notes[0]


def test_committed_at_head_and_edits_are_named_and_not_used(origin: Path) -> None:
    assert read_rules(origin, "videollava").notes == ()
    (origin / "gate.yaml").write_text(LOOSE)
    for _ in range(2):  # staging it changes nothing
        rules = read_rules(origin, "videollava")
        assert rules.gate.allowed_regression == 1.0
        assert rules.commit == git(origin, "rev-parse", "HEAD")
        assert rules.sha256 == hashlib.sha256(STRICT.encode()).hexdigest()
        assert "gate.yaml here differs from HEAD at" in rules.notes[0]
        git(origin, "add", "-A")
    git(origin, "commit", "--quiet", "-m", "loosen")
    assert read_rules(origin, "videollava").gate.allowed_regression == 50.0


def test_the_origins_main_counts_and_not_a_branch_of_ones_own(origin: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", str(origin), "mine")
    mine = tmp_path / "mine"
    git(mine, "checkout", "--quiet", "-b", "loose")
    (mine / "gate.yaml").write_text(LOOSE)
    git(mine, "commit", "--quiet", "-am", "loosen")
    git(mine, "branch", "--quiet", "-f", "main", "loose")
    rules = read_rules(mine, "videollava")
    assert rules.gate.approval
    assert rules.source.startswith("origin/main at")
    # A worker's clone of this checkout asks the same origin, whatever the checkout's own main says.
    worker = mine / ".prefect/workspaces/worker"
    git(tmp_path, "clone", "--quiet", str(mine), str(worker))
    assert read_rules(worker, "videollava").commit == rules.commit
    # A mirror is an origin like others, though it has one too.
    git(tmp_path, "clone", "--quiet", "--bare", str(mine), "mirror.git")
    git(tmp_path, "clone", "--quiet", "mirror.git", "copy")
    assert read_rules(tmp_path / "copy", "videollava").commit == git(mine, "rev-parse", "loose")
    git(mine, "push", "--quiet", "origin", "HEAD:refs/heads/other")
    git(mine, "fetch", "--quiet")
    assert read_rules(mine, "videollava").gate.approval


def test_an_origin_that_was_never_fetched_is_said(origin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(origin, "remote", "add", "origin", "https://example.org/x.git")
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as a hook would set it
    rules = read_rules(origin, "videollava")
    assert rules.gate.approval
    assert "never fetched" in rules.notes[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("videollava: {minimum_gains: 1}", "gate.yaml: videollava: unknown key 'minimum_gains'"),
        ("videollava: {level: 0}", "level must be more than 0"),
        (
            "videollava: {benchmarks: {easy_vqa: {minimum: high}}}",
            "benchmarks.easy_vqa.minimum must be float",
        ),
        ("videollava: {approval: 1}", r"approval must be bool \(true or false\)"),
        ("videollava: 3", "videollava must be a mapping of keys, not int"),
        ("other: {rule: lenient}\nvideollava: {}", "other: rule is 'lenient'"),
        ("videollava: [", "not valid YAML"),
        ("videollava: {}\nvideollava: {}", "stands twice"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "gate.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_rules(tmp_path, "videollava")


def test_a_bar_is_filled_up_with_what_holds_for_all() -> None:
    gate = Gate(benchmarks={"a": Bar(allowed_regression=3.0)}, allowed_regression=2.0, minimum_over_blind=7.0)
    assert gate.bar("a").allowed_regression == 3.0
    assert gate.bar("a").minimum_over_blind == 7.0
    assert gate.bar("b") == Bar(
        allowed_regression=2.0, minimum_over_blind=7.0, rule="no_worse", without_comparison=False
    )
    assert gate.bar("b").minimum is None


def test_the_schema_is_the_documented_one() -> None:
    assert (ROOT / "docs/gate.schema.json").read_text() == schema()
