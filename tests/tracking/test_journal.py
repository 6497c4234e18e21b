"""The local journal: whole lines whatever is killed, one file a run, the same curve after a resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from videollava.params import parse_params
from videollava.tracking import track
from videollava.tracking.journal import (
    Journal,
    close_abandoned,
    current,
    log_metrics,
    open_journal,
    read_events,
    write_curve,
)


def events(path: Path, kind: str = "") -> list[dict]:
    return [event for event in read_events(path)[0] if not kind or event["event"] == kind]


def test_a_run_is_start_metrics_end(tmp_path: Path) -> None:
    with open_journal(tmp_path, "pretrain", "k" * 64) as journal:
        journal.start("pretrain", {"pretrain.epochs": "1"}, {"commit": "c"}, parent="p", key="k" * 64)
        log_metrics(3, loss=0.5, learning_rate=1e-3)
        assert current() is journal
    start, metric, end = events(journal.path)
    assert (start["id"], start["parent"], start["pid"]) == (journal.identity, "p", os.getpid())
    assert (metric["step"], metric["values"]) == (3, {"loss": 0.5, "learning_rate": 1e-3})
    assert end["status"] == "FINISHED"
    assert current().path is None
    log_metrics(4, loss=0.1)  # outside a run: nowhere to go, and no trouble


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("bad"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_how_it_ended_is_told(tmp_path: Path, error: BaseException, status: str) -> None:
    journal = open_journal(tmp_path, "align", "key")
    journal.start("align", {}, {})
    with pytest.raises(type(error)), journal:
        raise error
    assert events(journal.path, "end")[0]["status"] == status


def test_a_killed_run_goes_on_in_its_file_and_a_finished_one_does_not(tmp_path: Path) -> None:
    body = (
        "import os, signal, sys; from pathlib import Path\n"
        "from videollava.tracking.journal import open_journal\n"
        "journal = open_journal(Path(sys.argv[1]), 'finetune', 'key')\n"
        "journal.start('finetune', {}, {})\n"
        "[journal.metrics(step, {'loss': 9 - step}) for step in range(5)]\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", body, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    (path,) = tmp_path.glob("finetune/*.jsonl")
    assert len(events(path, "metric")) == 5
    with path.open("a") as stream:
        stream.write('{"event": "metric", "step": 5, "val')  # as a power failure may leave it
    with open_journal(tmp_path, "finetune", "key") as journal:
        assert journal.path == path
        assert journal.identity == events(path)[0]["id"]
        journal.start("finetune", {}, {})
        for step in range(3, 8):
            journal.metrics(step, {"loss": 9 - step, "tokens_per_second": 1.0})
    assert [event["step"] for event in events(path, "metric")] == [0, 1, 2, 3, 4, 3, 4, 5, 6, 7]
    write_curve(tmp_path / "plots" / "finetune.csv", ["loss"], path)
    assert (tmp_path / "plots" / "finetune.csv").read_text().splitlines() == [
        "step,loss",
        *(f"{step},{9.0 - step}" for step in range(8)),
    ]
    assert open_journal(tmp_path, "finetune", "key").path != path


def test_abandoned_runs_are_closed(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    journal = open_journal(tmp_path, "align", "key")
    journal.start("align", {}, {})
    assert close_abandoned(tmp_path, "align") == 0
    text = journal.path.read_text().replace(f'"pid": {os.getpid()}', f'"pid": {gone.pid}')
    journal.path.write_text(text)
    assert close_abandoned(tmp_path, "align") == 1
    assert events(journal.path, "end")[0]["status"] == "KILLED"
    assert close_abandoned(tmp_path, "align") == 0


def test_reading_stops_at_the_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text('{"event": "a"}\nnot json\n{"event": "b"}\n{"event": "c"')
    found, offset = read_events(path)
    assert [event["event"] for event in found] == ["a", "unreadable", "b"]
    with path.open("a") as stream:
        stream.write("}\n")
    assert [event["event"] for event in read_events(path, offset)[0]] == ["c"]
    assert [event["event"] for event in read_events(path, 0, limit=4)[0]] != []


def test_track_writes_lineage_and_only_rank_0_writes(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDEOLLAVA_FOLLOWED", "1")
    monkeypatch.setenv("VIDEOLLAVA_PARENT", "above")
    monkeypatch.setenv("SOME_API_KEY", "hunter2hunter2")
    params = parse_params({"finetune": {"epochs": 2}, "bases": {"language": "s3://u:pw@host/hunter2hunter2"}})
    with track("finetune", params, workspace) as journal:
        log_metrics(0, loss=1.0)
    start = events(journal.path)[0]
    assert start["parent"] == "above"
    assert start["key"]
    assert start["params"]["finetune.epochs"] == "2"
    assert "torch" in " ".join(start["tags"])
    with track("bases", params, workspace) as journal:
        pass
    assert events(journal.path)[0]["params"]["bases.language"] == "s3://***@host/***"
    monkeypatch.setenv("RANK", "1")
    with track("finetune", params, workspace) as silent:
        log_metrics(1, loss=1.0)
    assert silent.path is None
    assert len(list((workspace / "runs" / "finetune").glob("*.jsonl"))) == 1


def test_journals_are_json_lines(tmp_path: Path) -> None:
    with open_journal(tmp_path, "s", "k") as journal:
        journal.start("s", {}, {})
        journal.metrics(0, {"loss": float("nan")})
    for line in journal.path.read_text().splitlines():
        json.loads(line)
    assert Journal(None).path is None


def test_a_run_with_other_parameters_is_another_one(tmp_path: Path) -> None:
    """`--set` is in no input key; the machine's values may differ."""

    def opened(seed: str, ranks: str) -> Path:
        shown = {"seed": seed, "machine.processes": ranks}
        journal = open_journal(tmp_path, "finetune", "key", shown)
        journal.start("finetune", shown, {})
        journal.end("KILLED")
        assert journal.path is not None
        return journal.path

    first, other = opened("0", "1"), opened("1", "1")
    assert other != first
    assert opened("0", "2") == first
    assert opened("1", "2") == other
    assert len(list(tmp_path.glob("finetune/*.jsonl"))) == 2
