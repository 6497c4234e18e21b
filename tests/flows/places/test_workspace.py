"""Where a retraining works, and what becomes of params.yaml there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import flows.places.workspace
from flows.places.lock import hold
from flows.places.workspace import apply_params, checkout, occupy, repository
from flows.storage import stores
from videollava.errors import InputError
from videollava.params import load_params, profile_text


def git(folder: Path, *arguments: str) -> str:
    line = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(line, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_the_repository_is_the_one_this_code_is_in() -> None:
    assert (repository() / "dvc.yaml").is_file()
    assert (repository() / ".git").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "not found; write one"),
        (b"a: [\n", "not valid YAML"),
        (b"\xff\xfe", "not valid YAML"),
        (b"- x\n", "mapping"),
    ],
)
def test_parameters_that_cannot_be_read_are_said_at_once(
    workspace: Path, content: bytes | None, reason: str
) -> None:
    file = workspace / "params.yaml"
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(InputError, match=reason):
        apply_params(workspace)
    with pytest.raises(InputError, match=reason):
        apply_params(workspace, overrides=["seed=1"])


def test_only_a_checkout_is_worked_in(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(workspace.parent))
    assert checkout(f"~/{workspace.name}") == workspace
    assert checkout("") == repository()
    for other, reason in ((workspace.parent, "holds no dvc.yaml"), ("/no-such", "no such folder")):
        with pytest.raises(InputError, match=reason), occupy(workspace, workspace=str(other)):
            pass
    assert not (workspace.parent / ".prefect").exists()
    with pytest.raises(InputError, match="give one of them"), occupy(workspace, str(workspace), "HEAD"):
        pass


def test_overrides_change_one_value_and_nothing_else(workspace: Path) -> None:
    before = (workspace / "params.yaml").read_text()
    changes = apply_params(workspace, overrides=["finetune.learning_rate=1e-4", "finetune.lora.r=8"])
    assert changes == ["finetune.learning_rate=1e-4", "finetune.lora.r=8"]
    after = (workspace / "params.yaml").read_text()
    assert "profile: tiny  # a comment that stays" in after
    kept = [line for line in after.splitlines() if line in before.splitlines()]
    assert len(kept) == len(before.splitlines()) - 1
    params = load_params(workspace / "params.yaml")
    assert params.finetune.learning_rate == 1e-4
    assert params.finetune.lora.r == 8
    assert apply_params(workspace, overrides=["finetune.learning_rate=0.0001"]) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("finetune.epoch=3", "unknown key 'finetune.epoch' .did you mean 'epochs'"),
        ("finetune.epochs", "write SECTION.KEY=VALUE"),
        ("seed.x=1", "seed is set already; give one value"),
        ("profile.x=1", "profile has no keys below it"),
        ("finetune.epochs=many", "finetune.epochs must be int"),
    ],
)
def test_a_wrong_override_changes_nothing(workspace: Path, override: str, message: str) -> None:
    before = (workspace / "params.yaml").read_text()
    with pytest.raises(InputError, match=message):
        apply_params(workspace, overrides=["seed=5", override])
    assert (workspace / "params.yaml").read_text() == before


def test_a_profile_never_overwrites_edits(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = profile_text("tiny")
    monkeypatch.setattr(flows.places.workspace, "profile_names", lambda: ["tiny", "other"])
    monkeypatch.setattr(
        flows.places.workspace, "profile_text", lambda name: tiny.replace("profile: tiny", f"profile: {name}")
    )
    committed = (workspace / "params.yaml").read_text()
    assert apply_params(workspace, "tiny") == []  # the profile it has: edits and all stay
    (workspace / "params.yaml").write_text(committed + "\n# mine\n")
    with pytest.raises(InputError, match="holds edits of yours"):
        apply_params(workspace, "other")
    (workspace / "params.yaml").write_text(committed)
    assert apply_params(workspace, "other", ["seed=3"]) == ["profile other", "seed=3"]
    assert load_params(workspace / "params.yaml").seed == 3
    (workspace / "params.yaml").write_text(tiny)  # as a profile has it: nothing of anybody's is lost
    assert apply_params(workspace, "other") == ["profile other"]


def test_a_clone_is_clean_shares_the_cache_and_keeps_what_it_may_resume_from(workspace: Path) -> None:
    (workspace / ".dvc" / "config").write_text(
        "[core]\n    remote = far\n['remote \"far\"']\n    url = ../../far\n"
    )
    git(workspace, "commit", "--quiet", "-am", "remote")
    (workspace / "stage.py").write_text("# an edit that nobody committed\n")
    with occupy(workspace) as (root, _):
        assert "nobody" not in (root / "stage.py").read_text()
        assert [store.url for store in stores(root)] == [store.url for store in stores(workspace)]
        assert (root / "runs").resolve() == workspace / "runs"
        apply_params(root, overrides=["seed=7"])
        (root / "checkpoints").mkdir()
        with pytest.raises(InputError, match="another retraining"), hold(root, wait=0.0):
            pass
    with occupy(workspace, commit=git(workspace, "rev-parse", "HEAD").strip()) as (again, _):
        assert again == root
        assert load_params(again / "params.yaml").seed == 0
        assert (again / "checkpoints").is_dir()
    with occupy(workspace, workspace=str(workspace)) as (here, _):
        assert here == workspace
    with (
        pytest.raises(InputError, match="git knows no commit 'no-such'"),
        occupy(workspace, commit="no-such"),
    ):
        pass
