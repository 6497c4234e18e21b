"""The way back after what others did to the registry: deleted, archived, moved by hand, cut short, edited."""

from __future__ import annotations

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
    list_models,
    list_versions,
    open_store,
    promote,
    register,
    resolve,
    rollback,
    trail,
)
from videollava.registry.aliases import read_aliases
from videollava.registry.ledger import append, read_log
from videollava.registry.old_trail import OldMove, titles

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
    return [(move.action, move.came_from, move.to) for move in trail(workspace, params.tracking)]


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
        promote(workspace, params, "1", force=True, because="a test")
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


def test_an_alias_that_the_store_refuses_follows_later(
    workspace: Path, params: Params, client: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def refuse(*_: Any) -> None:
        raise MlflowException("PERMISSION_DENIED: no", error_code=7)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", refuse)
        assert rollback(workspace, params.tracking).to == 2
    assert "champion of videollava is version 2; its alias was not set" in caplog.text
    assert read_aliases(client, MODEL)["champion"] == 3
    assert champion(workspace, params.tracking).number == 2
    assert read_aliases(client, MODEL)["champion"] == 2
    assert find_version(workspace, params.tracking, "previous").number == 1


def test_a_move_is_one_sentence_on_the_page(workspace: Path, params: Params, client: Any) -> None:
    rollback(workspace, params.tracking, because="it stutters", who="Ann")
    assert list_models(workspace, params.tracking) == [MODEL]
    record = client.get_model_version(f"{MODEL}.trail", "4")
    assert record.description == "champion version 3 -> version 2, rollback by Ann: because it stutters"
    assert record.tags.keys() == {"record", "settled"}


def test_what_was_champion_twice_is_not_lost(workspace: Path, params: Params, client: Any) -> None:
    promote(workspace, params, "1", force=True, because="a test")
    promote(workspace, params, "3", force=True, because="a test")
    assert [rollback(workspace, params.tracking).to for _ in range(4)] == [1, 3, 2, 1]
    with pytest.raises(InputError, match="nothing to roll back"):
        rollback(workspace, params.tracking)


def promoted(to: int, came_from: int) -> OldMove:
    return OldMove("promote", to, came_from, "me", "now")


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


def test_an_alias_moved_by_hand_enters_the_trail(workspace: Path, params: Params, client: Any) -> None:
    client.set_registered_model_alias(MODEL, "champion", "1")
    assert champion(workspace, params.tracking).number == 1
    assert moves(workspace, params)[-1] == ("moved outside", 3, 1)
    with pytest.raises(InputError, match="version 1 is champion already"):
        rollback(workspace, params.tracking, "1")
    assert rollback(workspace, params.tracking).to == 3  # what really was champion before
    client.delete_registered_model_alias(MODEL, "champion")
    assert champion(workspace, params.tracking) is None
    assert trail(workspace, params.tracking)[-1].reasons == ("the alias was taken away",)
    assert promote(workspace, params, "2")[1].came_from == 0
    assert rollback(workspace, params.tracking).to == 3
    client.set_registered_model_alias(MODEL, "previous", "3")
    champion(workspace, params.tracking)
    assert find_version(workspace, params.tracking, "previous").number == 2
    assert read_aliases(client, MODEL)["previous"] == 2


def test_one_right_after_another_by_hand_is_believed(workspace: Path, params: Params, client: Any) -> None:
    """Back to the version before, on the page: the last move had been settled, so the alias does not lag."""
    client.set_registered_model_alias(MODEL, "champion", "2")
    client.set_registered_model_alias(MODEL, "champion", "1")
    assert moves(workspace, params)[-1] == ("moved outside", 3, 1)
    client.set_registered_model_alias(MODEL, "champion", "3")
    assert moves(workspace, params)[-2:] == [("moved outside", 3, 1), ("moved outside", 1, 3)]


def test_torn_and_foreign_records_are_passed_over_and_named(
    workspace: Path, params: Params, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    log = f"{MODEL}.trail"
    client.create_model_version(log, source="trail:/x", tags={"record": "{torn"})
    client.create_model_version(log, source="trail:/x", tags={"record": '{"nonce": 1, "follows": [3, ""]}'})
    client.create_model_version(log, source="trail:/x")
    assert [move[2] for move in moves(workspace, params)] == [1, 2, 3]
    assert "record 4 cannot be read" in caplog.text
    assert rollback(workspace, params.tracking).to == 2
    assert int(client.get_latest_versions(log)[0].version) == 7


def test_a_deleted_record_takes_its_number_with_it(workspace: Path, params: Params, client: Any) -> None:
    client.delete_model_version(f"{MODEL}.trail", "2")
    assert [move[2] for move in moves(workspace, params)] == [1, 3]  # the third saw the second
    assert rollback(workspace, params.tracking).to == 1
    client.delete_model_version(f"{MODEL}.trail", "4")
    assert (
        promote(workspace, params, "2")[1].number == 6
    )  # five: the alias was not where the trail, cut, has it
    assert moves(workspace, params)[-2:] == [("moved outside", 3, 1), ("promote", 1, 2)]
    client.delete_registered_model(f"{MODEL}.trail")
    assert champion(workspace, params.tracking).number == 2
    assert promote(workspace, params, "3", True, because="a test")[1].came_from == 2
    assert rollback(workspace, params.tracking).to == 2


def test_a_late_record_never_counts(workspace: Path, params: Params, client: Any) -> None:
    """Two that follow the same: the first is the move, also where somebody deletes it afterwards."""
    known = read_log(client, MODEL)
    body = {"action": "promote", "to": 1, "came_from": 3}
    assert append(client, MODEL, known, body, "first") is not None
    assert append(client, MODEL, known, {**body, "to": 2}, "late") is None
    assert [record.body["to"] for record in read_log(client, MODEL).void] == [2]
    client.delete_model_version(f"{MODEL}.trail", "4")
    assert [record.number for record in read_log(client, MODEL).records] == [1, 2, 3]


@pytest.mark.parametrize("heard", [1, 2])
def test_a_request_whose_answer_is_lost_is_one_move(
    workspace: Path, params: Params, client: Any, monkeypatch: pytest.MonkeyPatch, heard: int
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    original = MlflowClient.create_model_version

    def lose(self: Any, *arguments: Any, **more: Any) -> None:
        for _ in range(heard):  # MLflow's client sends it again
            original(self, *arguments, **more)
        raise MlflowException("timed out")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_model_version", lose)
        assert rollback(workspace, params.tracking).to == 2
    assert moves(workspace, params)[3:] == [("rollback", 3, 2)]
    assert rollback(workspace, params.tracking).to == 1


def test_what_an_earlier_release_kept_is_taken_over_once(
    workspace: Path, params: Params, trained: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for weights in "abc":
        trained(weights, 80.0)
        register(workspace, params)
    client = open_store(workspace, params.tracking).client
    old = [
        ("promote", 1, 0, True),
        ("promote", 2, 1, True),
        ("promote", 3, 2, False),
        ("rollback", 1, 2, True),
    ]
    for at, (action, to, came_from, done) in enumerate([*old, ("promote", 3, 1, True)]):
        entry = {
            "action": action,
            "to": to,
            "came_from": came_from,
            "who": "Ann",
            "when": f"2025-01-0{at + 1}",
        }
        text = json.dumps({**entry, "reasons": ["r" * 9000], "done": done, "colour": "blue"})
        client.set_registered_model_tag(MODEL, f"audit.{at:020d}", text)
    for name, text in (("audit.1", '{"action": "promote", "to": 2'), ("audit.2", "[]")):
        client.set_registered_model_tag(MODEL, name, text)
    client.set_registered_model_alias(MODEL, "champion", "3")
    client.create_registered_model(f"{MODEL}.promotion-lock.7", tags={"expires": "1"})
    expected = [("promote", 0, 1), ("promote", 1, 2), ("rollback", 2, 1), ("promote", 1, 3)]
    assert moves(workspace, params) == expected  # a reader writes nothing
    assert "entry audit.2 cannot be read" in caplog.text
    assert list_models(workspace, params.tracking) == [MODEL, f"{MODEL}.promotion-lock.7"]
    assert rollback(workspace, params.tracking).to == 1
    client.delete_registered_model_tag(MODEL, f"audit.{0:020d}")  # read no more
    assert moves(workspace, params) == [*expected, ("rollback", 3, 1)]
    assert trail(workspace, params.tracking)[0].who == "Ann"
    assert list_models(workspace, params.tracking) == [MODEL]
    assert len(read_log(client, MODEL).records) == 2


def test_figures_that_somebody_edited_are_no_traceback(workspace: Path, params: Params, client: Any) -> None:
    for told in ('"n": "many"', '"n": NaN', '"judge": "x", "invalid": "q"', '"contamination": [1]'):
        client.set_model_version_tag(MODEL, "1", "metrics", f'{{"easy_vqa": {{"accuracy": 90.0, {told}}}}}')
        version = find_version(workspace, params.tracking, "1")
        assert "its scores (tag `metrics`) cannot be read" in version.remarks
        assert not promote(workspace, params, "1").decision.passed


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
    four, three, two, one, _, last = capsys.readouterr().out.splitlines()
    assert "champion version 2 -> version 3, promote by" in last
    assert "(--trail shows all 3)" in last
    assert "not made by this software" in four
    assert "commit unknown (" in three
    assert "cannot be read" in two
    assert "archived" in two
    assert "cannot be read" in one
    with pytest.raises(InputError, match="was archived"):
        rollback(workspace, params.tracking)
    with pytest.raises(InputError, match=r"its list of files cannot be read.*name another version"):
        promote(workspace, params, "4", force=True, because="a test")
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
    assert "version 3: its answers are in no store" in decision.notes[-1]
    assert "no comparison with the champion: this version's answers are in no store" in decision.reasons[-1]
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
    decision, move, *_ = promote(workspace, params, "4")
    assert move is None
    assert "champion 3: no scores to compare with (" in decision.reasons[-1]
    assert promote(workspace, params, "4", force=True, because="a test")[1].forced


def test_a_model_deleted_or_renamed_is_said(workspace: Path, params: Params, client: Any) -> None:
    client.rename_registered_model(MODEL, "other")
    assert list_versions(workspace, params.tracking) == []
    with pytest.raises(InputError, match="version 3, champion before none, was deleted from the registry"):
        rollback(workspace, params.tracking)
    with pytest.raises(InputError, match="not in the registry"):
        promote(workspace, params, "1")
    assert resolve("models:/other/1", workspace, params.tracking).is_dir()
