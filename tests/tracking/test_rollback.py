"""The way back after what others did to the registry: deleted, archived, moved by hand, cut short, edited."""

from __future__ import annotations

import getpass
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from videollava.cli import main
from videollava.errors import InputError
from videollava.params import Params
from videollava.registry import (
    Store,
    champion,
    examine,
    find_version,
    list_versions,
    open_store,
    promote,
    register,
    resolve,
    rollback,
    trail,
)
from videollava.registry.promotion import _who
from videollava.registry.trail import Move, titles

MODEL = "videollava"


@pytest.fixture
def client(workspace: Path, params: Params, trained: Any) -> Any:
    """Versions 1, 2 and 3, promoted in this order; 3 is champion."""
    for weights, accuracy in (("a", 80.0), ("b", 90.0), ("c", 91.0)):
        trained(weights, accuracy)
        register(workspace, params)
    for number in "123":
        assert promote(workspace, params, number)[1]
    return open_store(workspace, params.tracking).client


def moves(workspace: Path, params: Params) -> list[tuple[str, int, int]]:
    return [(move.action, move.came_from, move.to) for move in trail(workspace, params.tracking) if move.done]


def test_a_deleted_target_moves_nothing_and_the_one_before_is_named(
    workspace: Path, params: Params, client: Any
) -> None:
    client.delete_model_version(MODEL, "2")
    before = moves(workspace, params)
    with pytest.raises(
        InputError,
        match=r"version 2, champion before 3, was deleted.*`videollava rollback 1`.*nothing was moved",
    ):
        rollback(workspace, params.tracking)
    with pytest.raises(InputError, match=r"2: not in the registry.*deleted"):
        rollback(workspace, params.tracking, "2")
    assert champion(workspace, params.tracking).number == 3
    assert moves(workspace, params) == before
    assert len((workspace / "runs/audit.jsonl").read_text().splitlines()) == 3
    assert rollback(workspace, params.tracking, "1").to == 1
    with pytest.raises(InputError, match="nothing to roll back"):
        rollback(workspace, params.tracking)


def test_a_deleted_champion_gives_its_title_back(workspace: Path, params: Params, client: Any) -> None:
    client.delete_model_version(MODEL, "3")
    assert champion(workspace, params.tracking) is None
    assert rollback(workspace, params.tracking).to == 2
    assert find_version(workspace, params.tracking, "previous").number == 1


def test_files_are_found_before_anything_moves(
    workspace: Path, params: Params, client: Any, tmp_path: Path
) -> None:
    cache = workspace / ".dvc/cache/files"
    cache.rename(workspace / "away")
    with pytest.raises(
        InputError, match=r"models:/videollava/2 cannot be made champion: .*not there.*nothing was"
    ):
        rollback(workspace, params.tracking)
    with pytest.raises(InputError, match="cannot be made champion"):
        promote(workspace, params, "1", force=True)
    assert champion(workspace, params.tracking).number == 3
    assert len(moves(workspace, params)) == 3
    # The same size, another content: found by its hash, and another store is as good.
    remote = tmp_path / "remote"
    remote.mkdir()
    (workspace / "away").rename(remote / "files")
    assert rollback(workspace, params.tracking, places=[Store(str(remote))]).to == 2
    for file in (remote / "files").rglob("*"):
        if file.is_file():
            file.chmod(0o644)
            file.write_bytes(b"x" * file.stat().st_size)
    with pytest.raises(InputError, match="damaged"):
        rollback(workspace, params.tracking, places=[Store(str(remote))])
    assert champion(workspace, params.tracking).number == 2


@pytest.mark.parametrize("heard", [False, True])
def test_a_promotion_cut_between_trail_and_alias_can_be_tried_again(
    workspace: Path, params: Params, trained: Any, client: Any, monkeypatch: pytest.MonkeyPatch, heard: bool
) -> None:
    from mlflow import MlflowClient

    trained("d", 92.0)
    register(workspace, params)
    original = MlflowClient.set_registered_model_alias

    class Killed(BaseException):
        pass

    def die(self: Any, *arguments: str) -> None:
        if heard:
            original(self, *arguments)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", die)
        with pytest.raises(Killed):
            promote(workspace, params, "4")
    last = trail(workspace, params.tracking)[-1]
    assert (last.to, last.done) == (4, heard)  # what really happened can be read
    assert champion(workspace, params.tracking).number == (4 if heard else 3)
    if not heard:
        assert promote(workspace, params, "4")[1].came_from == 3
    move = rollback(workspace, params.tracking)
    assert (move.came_from, move.to) == (4, 3)


def test_a_store_that_refuses_the_alias_leaves_no_entry(
    workspace: Path, params: Params, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def refuse(*_: Any) -> None:
        raise MlflowException("PERMISSION_DENIED: no", error_code=7)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", refuse)
        with pytest.raises(InputError, match=r"refuses.*this account may not do that"):
            rollback(workspace, params.tracking)
    assert len(trail(workspace, params.tracking)) == 3
    assert champion(workspace, params.tracking).number == 3


def test_what_was_champion_twice_is_not_lost(workspace: Path, params: Params, client: Any) -> None:
    promote(workspace, params, "1", force=True)
    promote(workspace, params, "3", force=True)
    assert [rollback(workspace, params.tracking).to for _ in range(4)] == [1, 3, 2, 1]
    with pytest.raises(InputError, match="nothing to roll back"):
        rollback(workspace, params.tracking)


def promoted(to: int, came_from: int) -> Move:
    return Move("promote", to, came_from, "me", "now")


@pytest.mark.parametrize(
    ("history", "live", "stack"),
    [
        ([(1, 0), (2, 1), (1, 2), (3, 1)], 3, [1, 2, 1, 3]),
        ([(1, 0), (2, 1), (2, 1)], 2, [1, 2]),  # an older release: failed and tried again
        ([(1, 0), (2, 1), (3, 1)], 3, [1, 3]),  # it failed, then another version won
        ([(1, 0), (2, 1)], 1, [1]),  # it failed, and that was all
        ([(1, 0), (2, 1)], 7, [1, 2, 7]),  # moved by hand to a version the trail does not know
        ([(1, 0), (2, 1), (4, 3)], 4, [1, 2, 3, 4]),  # an entry is lost
        ([(1, 0), (2, 1)], 0, [1, 2]),  # the alias was removed
        ([], 5, [5]),
    ],
)
def test_the_stack_of_champions_follows_what_really_was(
    history: list[tuple[int, int]], live: int, stack: list[int]
) -> None:
    assert titles([promoted(*item) for item in history], live) == stack


def test_an_alias_moved_by_hand_is_what_is_live(workspace: Path, params: Params, client: Any) -> None:
    client.set_registered_model_alias(MODEL, "champion", "1")
    with pytest.raises(InputError, match="nothing to roll back"):
        rollback(workspace, params.tracking)
    with pytest.raises(InputError, match="version 1 is champion already"):
        rollback(workspace, params.tracking, "1")
    client.delete_registered_model_alias(MODEL, "champion")
    assert champion(workspace, params.tracking) is None
    assert promote(workspace, params, "2")[1].came_from == 0


def test_torn_and_foreign_entries_are_passed_over_and_named(
    workspace: Path, params: Params, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    newest = f"audit.{9 * 10**19:020d}"
    for name, text in (
        ("audit.1", '{"action": "promote", "to": 2'),
        ("audit.2", "[]"),
        (newest, json.dumps({"action": "promote", "to": "three", "came_from": 2})),
    ):
        client.set_registered_model_tag(MODEL, name, text)
    known = json.dumps({"action": "promote", "to": 2, "came_from": 1, "colour": "blue"})
    client.set_registered_model_tag(MODEL, "audit.3", known)  # of a later release: read as far as it goes
    assert len(trail(workspace, params.tracking)) == 4
    assert f"entry {newest} cannot be read" in caplog.text
    assert rollback(workspace, params.tracking).to == 2


def test_versions_that_others_changed_or_made(
    workspace: Path, params: Params, client: Any, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    client.set_model_version_tag(MODEL, "1", "metrics", "{torn")
    client.set_model_version_tag(MODEL, "2", "metrics", '{"easy_vqa": 90}')
    client.set_model_version_tag(MODEL, "3", "metrics", '{"easy_vqa": {"accuracy": "ninety"}}')
    client.transition_model_version_stage(MODEL, "2", "Archived")
    client.create_model_version(MODEL, source="/somewhere/else")
    monkeypatch.chdir(workspace)
    assert main(["models"]) == 0
    four, three, two, one = capsys.readouterr().out.splitlines()
    assert "not made by this software" in four
    assert "commit unknown (" in three
    assert "cannot be read" in two
    assert "archived" in two
    assert "cannot be read" in one
    with pytest.raises(InputError, match="was archived"):
        rollback(workspace, params.tracking)
    with pytest.raises(InputError, match=r"its list of files cannot be read.*name another version"):
        promote(workspace, params, "4", force=True)
    assert promote(workspace, params, "4")[1] is None
    assert champion(workspace, params.tracking).number == 3
    assert main(["ask", "what?", "--model", "models:/videollava/4"]) == 2
    assert main(["ask", "what?", "--model", "models:/videollava/17"]) == 2
    assert main(["rollback", "17"]) == 2
    assert main(["promote", "17"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4
    assert all("Traceback" not in line for line in said)


def test_a_lost_experiment_keeps_the_registry_usable(workspace: Path, params: Params, client: Any) -> None:
    store = open_store(workspace, params.tracking)
    client.delete_experiment(store.experiment)
    assert [version.number for version in list_versions(workspace, params.tracking)] == [3, 2, 1]
    assert rollback(workspace, params.tracking).to == 2
    assert (resolve("models:/videollava@champion", workspace, params.tracking) / "config.json").is_file()
    with pytest.raises(InputError, match=r"the experiment 'videollava'.*was deleted: restore it"):
        _ = open_store(workspace, params.tracking).experiment


def test_artifacts_and_tags_that_are_gone_or_edited(workspace: Path, params: Params, client: Any) -> None:
    client.set_model_version_tag(MODEL, "3", "evaluation", "../../../etc/passwd")
    client.delete_model_version_tag(MODEL, "2", "key")
    decision = examine(*(find_version(workspace, params.tracking, n) for n in "31"), params, workspace)
    assert "compared by figures alone" in decision.notes[-1]
    assert rollback(workspace, params.tracking).to == 2
    shutil.rmtree(workspace / ".mlflow/artifacts")
    with pytest.raises(InputError, match=r"models:/videollava/1: its list of files cannot be read"):
        rollback(workspace, params.tracking)
    assert champion(workspace, params.tracking).number == 2


def test_a_champion_whose_scores_were_torn_is_not_passed_by_without_a_word(
    workspace: Path, params: Params, trained: Any, client: Any
) -> None:
    trained("d", 61.0)
    register(workspace, params)
    client.set_model_version_tag(MODEL, "3", "metrics", "{torn")
    decision, move = promote(workspace, params, "4")
    assert move is None
    assert "champion 3: no scores to compare with (" in decision.reasons[-1]
    assert promote(workspace, params, "4", force=True)[1].forced


def test_a_model_deleted_or_renamed_is_said(workspace: Path, params: Params, client: Any) -> None:
    client.rename_registered_model(MODEL, "other")
    assert list_versions(workspace, params.tracking) == []
    with pytest.raises(InputError, match="nothing to roll back"):
        rollback(workspace, params.tracking)
    with pytest.raises(InputError, match="not in the registry"):
        promote(workspace, params, "1")
    assert resolve("models:/other/1", workspace, params.tracking).is_dir()


def test_a_user_without_a_name_may_promote(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 4242")

    monkeypatch.delenv("VIDEOLLAVA_USER", raising=False)
    monkeypatch.setattr(getpass, "getuser", unknown)
    assert _who().startswith("uid-")
