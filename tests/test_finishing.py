"""`videollava finish`: asks the run that is meant, and says so where there is none."""

from __future__ import annotations

import errno
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from videollava import cli
from videollava.tracking.journal import Journal


def journal(folder: Path, stage: str, identity: str, ended: str = "") -> Journal:
    made = Journal(folder / "runs" / stage / "k-001.jsonl", identity)
    made.start(stage, {}, {})
    if ended:
        made.end(ended)  # type: ignore[arg-type]
    return made


def test_the_one_that_trains_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["finish"]) == 2
    assert "nothing is training" in capsys.readouterr().err
    journal(tmp_path, "pretrain", "one", "FINISHED")
    journal(tmp_path, "finetune", "two")
    assert cli.main(["finish"]) == 0
    assert capsys.readouterr().out.startswith("finetune: ends after its step; what it has learned")
    assert json.loads((tmp_path / "checkpoints/finish/finetune.json").read_text()) == {"run": "two"}
    assert cli.main(["finish", "pretrain"]) == 2
    assert "pretrain: no run of it" in capsys.readouterr().err


def test_one_that_was_stopped_is_asked_for_its_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    journal(tmp_path, "align", "one", "KILLED")
    assert cli.main(["finish", "align"]) == 0
    assert "ends as soon as it is started again" in capsys.readouterr().out
    assert json.loads((tmp_path / "checkpoints/finish/align.json").read_text()) == {"run": "one"}
    assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL


def test_one_whose_process_was_killed_is_not_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (path := tmp_path / "runs/finetune/k-001.jsonl").parent.mkdir(parents=True)
    start = {"event": "start", "time": 1, "id": "one", "name": "finetune", "params": {}, "tags": {}}
    path.write_text(json.dumps({**start, "pid": gone.pid, "host": socket.gethostname()}) + "\n")
    assert cli.main(["finish"]) == 2
    assert "nothing is training" in capsys.readouterr().err
    assert cli.main(["finish", "finetune"]) == 0
    assert "ends as soon as it is started again" in capsys.readouterr().out
    path.write_text(json.dumps({**start, "pid": gone.pid, "host": "another.host"}) + "\n")
    assert cli.main(["finish"]) == 0
    assert "finetune: ends after its step" in capsys.readouterr().out


def test_a_full_disk_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("videollava.train.ending.ask_to_finish", full)
    journal(tmp_path, "finetune", "one")
    assert cli.main(["finish"]) == 1
    assert capsys.readouterr().err == (
        "videollava finish: a file can't be written: No space left on device; make room and run it again: what is done "
        "before stays\n"
    )
