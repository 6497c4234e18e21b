"""Trackers that refuse, were changed by others, or are reached through something: said in a sentence, nothing lost."""

from __future__ import annotations

import fcntl
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from videollava.cli import main
from videollava.ends import Ended
from videollava.errors import InputError
from videollava.params import Params, Tracking, parse_params
from videollava.registry import list_versions, note_evaluation, promote, register, rollback
from videollava.tracking import track
from videollava.tracking.forward import replay, try_out
from videollava.tracking.journal import Journal, log_metrics, open_journal
from videollava.tracking.store import connect, find_run, tracking_uri
from videollava.tracking.troubles import explain

AT = Tracking()
SECRETS = ("hunter2", "AKIAABCDEFGHIJKLMNOP", "wJalrXUtnFEMI")


def write_run(workspace: Path, parent: str = "", key: str = "k" * 64) -> Journal:
    with open_journal(workspace / "runs", "finetune", key) as journal:
        journal.start("finetune", {"finetune.epochs": "2"}, {}, parent, key)
        for step in range(5):
            journal.metrics(step, {"loss": 1 / (step + 1)})
        journal.artifact(workspace / "params.yaml")
        journal.metrics(5, {"loss": 0.1})
    return journal


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((401, "text/html", "<h1>Unauthorized</h1>"), "refuses.*MLFLOW_TRACKING_USERNAME"),
        (
            (403, "application/json", '{"error_code": "PERMISSION_DENIED", "message": "no"}'),
            "refuses.*this account may not do that",
        ),
        ((407, "text/plain", "Proxy Authentication Required"), "refuses.*proxy wants credentials"),
        ((500, "text/plain", "oops"), "does not answer.*500"),
        ((503, "application/json", '{"error_code": "TEMPORARILY_UNAVAILABLE"}'), "does not answer"),
        ((404, "text/html", "<h1>nginx</h1>"), "refuses.*address of an MLflow server"),
        ((200, "text/html", "<h1>welcome</h1>"), "refuses.*address of an MLflow server"),
    ],
)
def test_every_command_answers_with_a_sentence(
    workspace: Path,
    params: Params,
    trained: Any,
    server: Any,
    capsys: Any,
    monkeypatch: Any,
    answer: Any,
    words: str,
) -> None:
    monkeypatch.chdir(workspace)
    trained("a", 90.0)
    address = server(answer)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address.replace("//", "//me:hunter2@"))
    for act in (
        lambda: list_versions(workspace, AT),
        lambda: promote(workspace, params, "1"),
        lambda: rollback(workspace, AT),
        lambda: register(workspace, params),
    ):
        with pytest.raises(InputError, match=rf"the model registry at http://\*\*\*@127.*{words}") as caught:
            act()
        assert "hunter2" not in str(caught.value)
    for command in (["models"], ["promote"], ["rollback"], ["ask", "what?"]):
        assert main(command) == 2
    write_run(workspace)
    assert main(["track"]) == 1
    out = "".join(capsys.readouterr())
    assert "hunter2" not in out
    assert "Traceback" not in out
    assert out.count("\n") == 6


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("file:mlruns", "sqlite"),
        ("mlruns", "sqlite"),
        ("sqlite:////proc/nowhere/mlflow.db", "nowhere"),
        ("nosuch://host", "address of an MLflow server"),
        ("postgresql+nosuch://me:hunter2@host/db", "."),
        ("databricks", "."),
    ],
)
def test_addresses_that_are_none_of_a_server(workspace: Path, params: Params, uri: str, words: str) -> None:
    with pytest.raises(InputError, match=f"registry at .* (refuses|does not answer).*{words}") as caught:
        list_versions(workspace, Tracking(uri=uri))
    assert "hunter2" not in str(caught.value)
    write_run(workspace)
    done = replay(workspace, Tracking(uri=uri))
    assert done.error
    assert done.pending
    assert "hunter2" not in done.error


def test_an_address_is_the_same_from_every_folder(workspace: Path, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for given, meant in (
        ("sqlite:///a/b.db", f"sqlite:///{workspace}/a/b.db"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("mlruns", f"{workspace}/mlruns"),
        ("file:mlruns", f"file:{workspace}/mlruns"),
        ("file:///mlruns", "file:///mlruns"),
        ("https://host/x", "https://host/x"),
        ("databricks", "databricks"),
        ("", f"sqlite:///{workspace}/.mlflow/mlflow.db"),
    ):
        assert tracking_uri(workspace, Tracking(uri=given)) == meant
    assert connect(workspace, Tracking(uri="sqlite:///.mlflow/mlflow.db")).experiment


def test_a_read_only_store_is_read_and_its_refusal_said(
    workspace: Path, params: Params, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)  # MLflow makes a folder "file:" where it is
    trained("a", 90.0)
    register(workspace, params)
    frozen = Tracking(uri=f"sqlite:///file:{workspace}/.mlflow/mlflow.db?mode=ro&uri=true")
    assert [version.number for version in list_versions(workspace, frozen)] == [1]
    with pytest.raises(InputError, match="may not be written by this account"):
        promote(workspace, params.replace(tracking=frozen), "1", force=True, because="a test")
    journal = write_run(workspace)
    tried = try_out(workspace, frozen, journal.path)
    assert "may not be written" in tried.error
    assert not tried.passing


def test_what_is_tried_while_another_sends_waits_for_its_turn(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A follower that sends the same journal at that moment is no "all was taken"."""
    from mlflow import MlflowClient

    def refuse(*_: Any) -> None:
        raise PermissionError("[Errno 13] Permission denied: '/mlartifacts'")

    monkeypatch.setattr(MlflowClient, "log_artifact", refuse)
    journal = write_run(workspace)
    assert journal.path is not None
    label = connect(workspace, AT).label
    tried: list[Any] = []
    with journal.path.with_name(f"{journal.path.stem}.{label}.lock").open("w") as sending:
        fcntl.flock(sending, fcntl.LOCK_EX)
        asking = threading.Thread(target=lambda: tried.append(try_out(workspace, AT, journal.path)))
        asking.start()
        asking.join(1.0)
        assert tried == []
    asking.join()
    assert tried[0].owed == 1
    assert "Permission denied" in tried[0].refusal


def test_loopback_is_asked_without_the_proxy(workspace: Path, server: Any, monkeypatch: Any) -> None:
    mlflow = server((200, "application/json", "{}"))
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
    assert list_versions(workspace, Tracking(uri=mlflow)) == []


def test_a_deleted_experiment_is_said_before_and_its_figures_arrive_once_restored(
    workspace: Path, params: Params, trained: Any
) -> None:
    store = connect(workspace, AT)
    store.client.delete_experiment(store.experiment)
    journal = write_run(workspace)
    tried = try_out(workspace, AT, journal.path)
    assert "restore it (on the page, or `mlflow experiments restore" in tried.error
    assert not tried.passing
    trained("a", 90.0)
    with pytest.raises(InputError, match=r"the experiment 'videollava'.*was deleted: restore it"):
        register(workspace, params)
    assert replay(workspace, AT).pending > 0
    store.client.restore_experiment(store.experiment)
    assert replay(workspace, AT).pending == 0
    assert register(workspace, params)[1]
    assert find_run(connect(workspace, AT), journal=journal.identity)


def test_an_experiment_deleted_and_restored_while_training(workspace: Path) -> None:
    store = connect(workspace, AT)
    journal = open_journal(workspace / "runs", "finetune", "k")
    journal.start("finetune", {}, {})
    journal.metrics(0, {"loss": 1.0})
    assert replay(workspace, AT).error == ""
    store.client.delete_experiment(store.experiment)
    journal.metrics(1, {"loss": 0.5})
    assert "deleted" in replay(workspace, AT, store).error
    store.client.restore_experiment(store.experiment)
    journal.end()
    for _ in range(2):
        done = replay(workspace, AT)
    assert (done.error, done.pending) == ("", 0)
    (run,) = store.client.search_runs([store.experiment])
    assert (run.info.status, run.data.metrics["loss"]) == ("FINISHED", 0.5)


def test_a_run_deleted_on_the_page_while_it_trains_is_sent_again(workspace: Path) -> None:
    parent = Journal(workspace / "runs/retrain/p-001.jsonl", "the-parent")
    parent.start("retrain", {}, {})
    journal = open_journal(workspace / "runs", "finetune", "k")
    journal.start("finetune", {}, {}, "the-parent", "k")
    journal.metrics(0, {"loss": 1.0})
    replay(workspace, AT)
    store = connect(workspace, AT)
    for identity in (journal.identity, "the-parent"):
        store.client.delete_run(find_run(store, journal=identity))
    journal.metrics(1, {"loss": 0.5})
    journal.end()
    parent.end()
    for _ in range(2):
        done = replay(workspace, AT)
    assert (done.pending, done.skipped) == (0, 0)
    run = store.client.get_run(find_run(store, journal=journal.identity))
    assert [metric.step for metric in store.client.get_metric_history(run.info.run_id, "loss")] == [0, 1]
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == find_run(store, journal="the-parent")


def test_children_follow_a_parent_that_was_deleted_alone(workspace: Path) -> None:
    parent = Journal(workspace / "runs/retrain/p-001.jsonl", "the-parent")
    parent.start("retrain", {}, {})
    child = write_run(workspace, parent="the-parent")
    replay(workspace, AT)
    store = connect(workspace, AT)
    store.client.delete_run(find_run(store, journal="the-parent"))
    parent.end()
    for _ in range(2):
        replay(workspace, AT)
    tags = store.client.get_run(find_run(store, journal=child.identity)).data.tags
    assert tags["mlflow.parentRunId"] == find_run(store, journal="the-parent") != ""


def test_a_refusing_artifact_store_keeps_nothing_else_from_arriving(
    workspace: Path, capsys: Any, monkeypatch: Any
) -> None:
    from mlflow import MlflowClient

    monkeypatch.chdir(workspace)
    store = connect(workspace, AT)
    tried = []

    def refuse(*arguments: Any) -> None:
        tried.append(arguments)
        raise OSError("403 Client Error: Forbidden for url: https://me:hunter2@store/x?X-Amz-Signature=77aa")

    journal = write_run(workspace)
    other = write_run(workspace, key="other")
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", refuse)
        done = replay(workspace, AT)
        assert (done.error, done.pending, done.owed, len(tried)) == ("", 0, 2, 1)
        assert "hunter2" not in done.refusal
        assert main(["track"]) == 1
        assert "2 artifacts wait, the last was refused: 403 Client Error" in capsys.readouterr().err
    for one in (journal, other):
        run = store.client.get_run(find_run(store, journal=one.identity))
        assert run.info.status == "FINISHED"
        assert run.data.metrics["loss"] == 0.1
        assert store.client.list_artifacts(run.info.run_id) == []
    assert main(["track"]) == 0
    for one in (journal, other):
        run_id = find_run(store, journal=one.identity)
        assert [item.path for item in store.client.list_artifacts(run_id)] == ["params.yaml"]
    assert replay(workspace, AT).owed == 0


def test_a_refusing_artifact_store_ends_a_registration_with_a_sentence(
    workspace: Path, params: Params, trained: Any, monkeypatch: Any
) -> None:
    from mlflow import MlflowClient

    trained("a", 90.0)
    monkeypatch.setattr(MlflowClient, "log_model_artifacts", _denied, raising=False)
    import mlflow.tracking._tracking_service.client as inner

    monkeypatch.setattr(inner.TrackingServiceClient, "log_model_artifacts", _denied)
    with pytest.raises(InputError, match=r"refuses.*Access Denied.*this account may not"):
        register(workspace, params)
    assert list_versions(workspace, AT) == []


def _denied(*_: Any, **__: Any) -> None:
    raise OSError("An error occurred (AccessDenied) when calling PutObject: Access Denied; 403 Forbidden")


def test_an_environment_that_names_other_runs_changes_nothing(
    workspace: Path, params: Params, trained: Any, monkeypatch: Any
) -> None:
    for name, value in (
        ("MLFLOW_RUN_ID", "0" * 32),
        ("MLFLOW_EXPERIMENT_ID", "77"),
        ("MLFLOW_EXPERIMENT_NAME", "of somebody else"),
    ):
        monkeypatch.setenv(name, value)
    journal = write_run(workspace)
    assert replay(workspace, AT).error == ""
    trained("a", 90.0)
    version, new = register(workspace, params)
    assert new
    store = connect(workspace, AT)
    assert store.client.get_run(version.run_id).info.experiment_id == store.experiment
    assert find_run(store, journal=journal.identity)
    assert store.client.get_experiment_by_name("of somebody else") is None


def test_a_version_whose_run_is_gone_is_still_evaluated(
    workspace: Path, params: Params, trained: Any, tmp_path: Path
) -> None:
    trained("a", 90.0)
    version, _ = register(workspace, params)
    client = connect(workspace, AT).client
    client.delete_run(version.run_id)
    (tmp_path / "report.html").write_text("<p>report</p>")
    (refused,) = note_evaluation(workspace, AT, version, {"easy_vqa": {"accuracy": 91.0}}, tmp_path)
    assert "not kept with the run" in refused
    tags = client.get_model_version("videollava", "1").tags
    assert any(
        json.loads(tags[name]) == {"easy_vqa": {"accuracy": 91.0}} for name in tags if "evaluated." in name
    )


def test_a_run_keeps_the_files_of_its_own_time(workspace: Path) -> None:
    write_run(workspace)
    (workspace / "params.yaml").write_text("seed: 2\n")
    second = write_run(workspace, key="other")
    replay(workspace, AT)
    store = connect(workspace, AT)
    texts = set()
    for run in store.client.search_runs([store.experiment]):
        texts.add(Path(store.client.download_artifacts(run.info.run_id, "params.yaml")).read_text())
    assert texts == {"seed: 1\nfinetune: {epochs: 2}\n", "seed: 2\n"}
    assert second.path.read_text().count(str(workspace / "runs" / "artifacts")) == 1


def test_no_credential_is_written_anywhere(workspace: Path, trained: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("VIDEOLLAVA_FOLLOWED", "1")
    monkeypatch.setenv("STORE_SECRET_KEY", SECRETS[2])
    raw = {"bases": {"language": "s3://me:hunter2@host/x"}, "tracking": {"uri": "http://me:hunter2@mlflow"}}
    params = parse_params(raw)
    (workspace / "params.yaml").write_text(
        f"# {SECRETS[2]}\naws: {{access_key_id: {SECRETS[1]}}}\nurl: s3://me:hunter2@host/b\nseed: 1\n"
    )
    with pytest.raises(RuntimeError):
        _fail_in_the_open(params, workspace)
    (journal,) = (workspace / "runs/bases").glob("*.jsonl")
    monkeypatch.delenv("STORE_SECRET_KEY")
    assert replay(workspace, AT).error == ""
    trained("a", 90.0)
    (workspace / "metrics.json").write_text(
        '{"vqa": {"accuracy": 90.0, "judge": "http://me:hunter2@judge/v1"}}'
    )
    register(workspace, parse_params({"seed": 1}))
    for file in [*(workspace / "runs").rglob("*"), *(workspace / ".mlflow").rglob("*")]:
        content = file.read_bytes() if file.is_file() else b""
        assert not [secret for secret in SECRETS if secret.encode() in content], file
    assert b"403 for https://***@host/x" in journal.read_bytes()


def _fail_in_the_open(params: Params, workspace: Path) -> None:
    with track("bases", params, workspace) as journal:
        log_metrics(0, loss=1.0)
        journal.tags({"remote": "https://x:hunter2@git.example/repo", "note": f"password={SECRETS[0]}"})
        journal.artifact(workspace / "params.yaml")
        raise RuntimeError(f"403 for https://me:hunter2@host/x; Authorization: Bearer {SECRETS[2]}")


@pytest.mark.parametrize(
    "ended", [Ended(75, "finetune: stopped after step 3"), InputError("the loss is nan")]
)
def test_what_ended_the_stage_is_no_reason_of_the_store(ended: BaseException) -> None:
    """A store that fails while a stopped stage's journal is sent on: its own words, however long they are."""
    said = "the store cannot be used " + "x" * 150

    def send(reason: Exception | None) -> None:
        try:
            raise ended
        finally:
            raise RuntimeError(said) from reason

    with pytest.raises(RuntimeError) as caught:
        send(None)
    assert explain(caught.value).text == said
    with pytest.raises(RuntimeError) as caught:
        send(OSError("Connection refused"))
    assert explain(caught.value).text == "Connection refused; is it running, and reachable from here?"
