"""A stage through real DVC: run, up to date, restored, failed, resumed, pushed and restored elsewhere."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests
import zc.lockfile
from prefect.states import Failed

import flows.stages.remote
import flows.stages.stage
from flows.stages.graph import kept_stages
from flows.stages.reading import Reading
from flows.stages.stage import StageFailed, is_current, push_stages, run_stage
from videollava.errors import InputError
from videollava.process import OutputLines
from videollava.registry import PromotionConflict
from videollava.tracking.lineage import locked_input_key, read_yaml, stage_key


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def outcomes(workspace: Path, *stages: str) -> list[str]:
    return [run_stage(workspace, stage, lambda _: None).outcome for stage in stages]


def test_ran_unchanged_restored(finished: Path, run_once: tuple[Path, list[str], list[str]]) -> None:
    workspace, (_, first_time, said) = finished, run_once
    assert first_time == ["ran", "ran", "ran"]
    assert "fetched" in said
    assert outcomes(workspace, "fetch", "finetune", "evaluate") == ["unchanged"] * 3
    assert is_current(workspace)
    assert git(workspace, "status", "--short").split() == ["??", "dvc.lock"]
    first = stage_key(workspace, "finetune")
    params = workspace / "params.yaml"
    params.write_text(params.read_text().replace("epochs: 2", "epochs: 3"))
    assert not is_current(workspace)
    assert is_current(workspace, "fetch")
    assert outcomes(workspace, "fetch", "finetune") == ["unchanged", "ran"]
    params.write_text(params.read_text().replace("epochs: 3", "epochs: 2"))
    assert outcomes(workspace, "finetune", "evaluate") == ["restored", "unchanged"]
    assert stage_key(workspace, "finetune") == first
    # The journal's file is named by the key that dvc.lock gives afterwards: that is how runs are found again.
    assert list(
        (workspace / "runs" / "finetune").glob(f"{locked_input_key(workspace, 'finetune')[:16]}-*.jsonl")
    )


def test_a_failure_tells_what_the_stage_said_and_leaves_no_lock(workspace: Path) -> None:
    stage = workspace / "stage.py"
    stage.write_text(
        stage.read_text() + "\nif name == 'fetch':\n    print('no such disk')\n    sys.exit(2)\n"
    )
    with pytest.raises(StageFailed, match="no such disk") as caught:
        run_stage(workspace, "fetch", lambda _: None)
    assert caught.value.status == 2
    assert not read_yaml(workspace / "dvc.lock")


def test_what_one_machine_pushed_another_restores(finished: Path, tmp_path: Path) -> None:
    workspace = finished
    git(workspace, "clone", "--quiet", str(workspace), str(tmp_path / "other"))
    other = tmp_path / "other"
    for place in (workspace, other):
        config = (place / ".dvc" / "config").read_text()
        remote = f"{config}    remote = far\n['remote \"far\"']\n    url = {tmp_path / 'remote'}\n"
        (place / ".dvc" / "config").write_text(remote)
    for stage in ("fetch", "finetune", "evaluate"):
        assert push_stages(workspace, [stage], lambda _: None) == ""
    assert outcomes(other, "fetch", "finetune", "evaluate") == ["restored"] * 3
    assert (other / "metrics.json").read_text() == (workspace / "metrics.json").read_text()
    assert (other / "dvc.lock").read_text() == (workspace / "dvc.lock").read_text()
    assert not (other / "runs").exists()
    shutil.rmtree(tmp_path / "remote")


def test_without_a_remote_nothing_is_pushed(workspace: Path) -> None:
    said: list[str] = []
    assert push_stages(workspace, ["fetch"], said.append) == ""
    assert said == []


def set_remote(workspace: Path, url: object, more: str = "") -> None:
    config = workspace / ".dvc" / "config.local"
    config.write_text(f"[core]\n    remote = far\n['remote \"far\"']\n    url = {url}\n{more}")


def test_a_remote_that_does_not_answer_costs_a_warning(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = finished
    for name, value in (("MAX_ATTEMPTS", "1"), ("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "secret-word")):
        monkeypatch.setenv(f"AWS_{name}", value)
    set_remote(workspace, "s3://bucket/x", "    endpointurl = http://user:secret-word@127.0.0.1:9\n")
    said: list[str] = []
    shown: list[str] = []
    shutil.rmtree(workspace / "data")
    assert run_stage(workspace, "fetch", said.append, echo=shown.append).outcome == "restored"
    assert "the DVC remote is not reached (" in said[0]
    assert said[0] in shown[0]
    assert push_stages(workspace, ["fetch"], said.append, shown.append) != ""
    assert "`dvc push --run-cache` sends it later" in said[-1]
    assert said[-1] in shown[-1]
    assert "secret-word" not in "".join((*said, *shown))


def test_a_push_that_fails_loses_nothing(workspace: Path) -> None:
    (workspace.parent / "a-file").write_text("")
    set_remote(workspace, workspace.parent / "a-file" / "remote")
    said: list[str] = []
    assert run_stage(workspace, "fetch", said.append).outcome == "ran"
    assert push_stages(workspace, ["fetch"], said.append) != ""
    assert "fetch: not pushed to the DVC remote (" in said[-1]


def test_a_slow_remote_is_given_up_in_time_and_asked_once(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_remote(workspace, workspace.parent / "remote")
    monkeypatch.setattr(flows.stages.remote, "ASK", "import time; time.sleep(600)")
    monkeypatch.setattr(flows.stages.remote, "REACH_SECONDS", 0.1)
    assert flows.stages.remote.why_unreached(workspace) == "no answer within 0 s"
    monkeypatch.setattr(flows.stages.remote, "ASK", "")
    assert flows.stages.remote.why_unreached(workspace) == "no answer within 0 s"


def test_a_clone_that_has_the_lock_gets_what_a_version_is_made_of(finished: Path, tmp_path: Path) -> None:
    workspace = finished
    set_remote(workspace, tmp_path / "remote")
    assert kept_stages(workspace) == {"finetune", "evaluate"}
    assert push_stages(workspace, ["finetune"], lambda _: None) == ""
    for name in (".dvc/cache", "data", "models", "plots"):
        shutil.rmtree(workspace / name)
    assert run_stage(workspace, "finetune", lambda _: None, whole=True).outcome == "restored"
    assert (workspace / "models" / "videollava" / "model.safetensors").is_file()
    assert not (workspace / "data").exists()  # nobody needs it
    for folder in (workspace / ".dvc" / "cache", workspace / "models", tmp_path / "remote"):
        shutil.rmtree(folder)
    said: list[str] = []  # what the remote lost is made again
    assert run_stage(workspace, "finetune", said.append, whole=True).outcome == "ran"
    assert any("cannot be taken (outputs of this stage: " in line for line in said)


def test_another_dvc_is_waited_for(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.stages.stage, "LOCK_PAUSE", 0.0)
    (workspace / ".dvc" / "tmp").mkdir(exist_ok=True)
    said: list[str] = []
    with ExitStack() as stack:
        stack.callback(zc.lockfile.LockFile(str(workspace / ".dvc" / "tmp" / "lock")).close)

        def hear(line: str) -> None:
            said.append(line)
            if "waiting for it" in line:
                stack.close()

        assert run_stage(workspace, "fetch", hear).outcome == "ran"
    assert "fetch: another DVC is at work in this folder; waiting for it" in said


COMMAND = "ERROR: failed to reproduce 'fetch': failed to run: python stage.py fetch, exited with "


@pytest.mark.parametrize(
    ("lines", "inner", "lasting"),
    [
        ([f"{COMMAND}1"], 1, False),  # a download that may work in a while
        (["ConnectionResetError: [Errno 104] Connection reset by peer", f"{COMMAND}1"], 1, False),
        ([f"{COMMAND}2"], 2, True),
        (["OSError: [Errno 28] No space left on device", f"{COMMAND}1"], 1, True),
        (["OSError: [Errno 122] Disk quota exceeded: 'x'", f"{COMMAND}1"], 1, True),
        (["PermissionError: [Errno 13] Permission denied: 'data'", f"{COMMAND}1"], 1, True),
        (["OSError: [Errno 30] Read-only file system: 'data'", f"{COMMAND}1"], 1, True),
        (["ModuleNotFoundError: No module named 'torch'", f"{COMMAND}1"], 1, True),
        (["/bin/bash: line 1: videollava: command not found", f"{COMMAND}127"], 127, True),
        ([f"{COMMAND}-9"], -9, True),
        (["ERROR: /somewhere is not a git repository"], None, True),
        (["ERROR: 'dvc.yaml' validation failed."], None, True),
        (["ERROR: failed to reproduce 'fetch': [Errno 28] No space left on device"], None, True),
        (["No module named dvc"], None, True),
    ],
)
def test_what_another_try_could_change(lines: list[str], inner: int | None, lasting: bool) -> None:
    reading = Reading("fetch", lambda _: None)
    for line in lines:
        reading.take(line)
    assert (reading.inner, reading.lasting, reading.locked) == (inner, lasting, False)


@pytest.mark.parametrize(
    "words", ["Unable to acquire lock. Most likely", "'x' is busy, it is being blocked by:"]
)
def test_a_lock_is_told_from_other_errors(words: str) -> None:
    reading = Reading("fetch", lambda _: None)
    reading.take(f"ERROR: failed to lock: {words}")
    assert reading.locked


def test_which_failures_a_task_tries_again() -> None:
    from flows.stages.tasks import may_pass_later

    def again(error: Exception, cause: BaseException | None = None) -> bool:
        error.__cause__ = cause
        return may_pass_later(None, None, Failed(data=error))

    assert again(StageFailed("fetch", 1, ["Connection reset by peer"]))
    assert not again(StageFailed("fetch", 2, [], lasting=True))
    assert not again(InputError("epochs must be positive"))
    assert not again(OSError(28, "No space left on device"))
    assert not again(KeyError("a mistake of ours"))
    assert again(InputError("does not answer"), requests.ConnectionError("Connection refused"))
    assert not again(InputError("refuses"), requests.HTTPError("403 Client Error: Forbidden"))
    assert again(PromotionConflict("another was faster"))


def test_a_lock_that_stays_is_given_up(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: object, cwd: object, env: object, lines: OutputLines, *_: object, **__: object) -> int:
        lines.feed("ERROR: Unable to acquire lock\n")
        return 255

    monkeypatch.setattr(flows.stages.stage, "run_streamed", fail)
    monkeypatch.setattr(flows.stages.stage, "LOCK_SECONDS", 0.0)
    with pytest.raises(StageFailed, match="Unable to acquire lock") as caught:
        run_stage(workspace, "fetch", lambda _: None)
    assert caught.value.lasting
