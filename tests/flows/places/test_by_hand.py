"""Nothing is written under a DVC that runs, or beside another retraining."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from flows import local
from flows.places.by_hand import await_dvc, drop_torn
from flows.places.clones import have_clone
from flows.places.git import run_git
from flows.places.lock import hold
from flows.places.workspace import occupy
from videollava.errors import InputError


def used(root: Path, pid: int) -> None:
    folder = root / ".dvc/tmp"
    folder.mkdir(parents=True, exist_ok=True)
    one = {"pid": pid, "cmd": "dvc repro"}
    (folder / "rwlock").write_text(json.dumps({"write": {"/out": one}, "read": {"/in": [one]}}))


def test_a_dvc_at_work_is_waited_for_and_named(workspace: Path) -> None:
    await_dvc(workspace, wait=0)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        used(workspace, other.pid)
        with pytest.raises(InputError, match=rf"DVC is at work here \(process {other.pid}: dvc repro\)"):
            await_dvc(workspace, wait=0)
        assert other.stdin is not None
        threading.Timer(0.5, other.stdin.close).start()
        threading.Timer(0.6, other.wait).start()
        began = time.monotonic()
        await_dvc(workspace, wait=60)
        assert time.monotonic() - began < 30


def test_a_list_that_a_full_disk_cut_short_is_removed(workspace: Path) -> None:
    used(workspace, os.getpid())
    list_of_users = workspace / ".dvc/tmp/rwlock"
    list_of_users.write_text(list_of_users.read_text()[:40])
    line = [sys.executable, "-m", "dvc", "repro", "fetch"]
    done = subprocess.run(line, cwd=workspace, capture_output=True, text=True, check=False)
    assert "JSON structure is corrupted" in done.stderr  # DVC by itself never works here again
    await_dvc(workspace, wait=0)
    assert not list_of_users.exists()
    with have_clone(workspace, run_git(workspace, "rev-parse", "HEAD")) as (root, _):
        (root / ".dvc/tmp").mkdir(exist_ok=True)
        (root / ".dvc/tmp/rwlock").write_text("")
    with have_clone(workspace, run_git(workspace, "rev-parse", "HEAD")) as (root, _):
        assert not (root / ".dvc/tmp/rwlock").exists()
    used(workspace, os.getpid())
    drop_torn(workspace)
    assert list_of_users.exists()


def test_a_running_stage_of_dvc_holds_off_a_change_of_parameters(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace / "hang").touch()
    before = (workspace / "params.yaml").read_text()
    running = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=workspace,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while not (workspace / "hanging").exists():
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        monkeypatch.setattr("flows.places.by_hand.await_dvc.__defaults__", (0.0,))
        assert local.main(["--workspace", str(workspace), "--set", "finetune.epochs=7"]) == 2
    finally:
        # Not by the program kill: procps takes the group of a process 1... for all processes there are.
        with suppress(ProcessLookupError):
            os.kill(int((workspace / "hanging").read_text()), signal.SIGKILL)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    assert "DVC is at work here" in capsys.readouterr().err
    assert (workspace / "params.yaml").read_text() == before


def test_a_second_retraining_writes_nothing(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (workspace / "params.yaml").read_text()
    monkeypatch.setattr("flows.places.lock.hold.__wrapped__.__defaults__", (0.0, False))
    with hold(workspace):
        assert local.main(["--workspace", str(workspace), "--profile", "smol", "--set", "seed=7"]) == 2
    assert "another retraining" in capsys.readouterr().err
    assert (workspace / "params.yaml").read_text() == before


def test_between_the_parameters_and_the_flow_the_folder_is_never_free(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def flow(root: Path, lock: int, options: object) -> int:
        assert "epochs: 7" in (root / "params.yaml").read_text()
        with pytest.raises(InputError, match="another retraining"), hold(root, wait=0):
            pass
        with occupy(root, str(root), held=(root, lock)) as (folder, held):
            assert (folder, held) == (root, lock)
        with pytest.raises(InputError, match="another retraining"), hold(root, wait=0):
            pass
        seen.append(lock)
        return 0

    monkeypatch.setattr(local, "_run_flow", flow)
    assert local.main(["--workspace", str(workspace), "--set", "finetune.epochs=7"]) == 0
    assert len(seen) == 1
    with hold(workspace, wait=0):
        pass
