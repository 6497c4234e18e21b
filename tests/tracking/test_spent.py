"""Hours of ranks over all attempts of a run, and its rates' means, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from videollava.machine import Machine
from videollava.params import Params
from videollava.tracking import log_metrics, track
from videollava.tracking.spent import Spent, made_by, read_spent

HOUR = 3_600_000


def write(path: Path, *events: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def start(at: float, **tags: str) -> dict[str, Any]:
    return {"event": "start", "time": int(at * HOUR), "id": "x", "tags": tags, "pid": 1}


def step(at: float, number: int, seconds: float, **values: float) -> dict[str, Any]:
    return {
        "event": "metric",
        "time": int(at * HOUR),
        "step": number,
        "values": {"step_seconds": seconds, **values},
    }


def test_attempts_are_added_with_the_ranks_each_had(tmp_path: Path) -> None:
    """Two ranks for 1.5 h until they were killed, a pause of a day, then four for half an hour."""
    journal = write(
        tmp_path / "run.jsonl",
        start(10.0, ranks="2", device="cuda"),
        step(11.0, 1, 10.0, tokens_per_second=100.0, mfu=0.2, mfu_palm=0.3),
        step(11.5, 2, 10.0, tokens_per_second=1.0, mfu=0.9, mfu_palm=0.9),  # done again: the last counts
        {"event": "end", "time": int(34.0 * HOUR), "status": "KILLED", "error": "the process went away"},
        start(35.0, ranks="4", device="cuda"),
        step(35.2, 2, 30.0, tokens_per_second=200.0, mfu=0.4, mfu_palm=0.5),
        {"event": "metric", "time": int(35.3 * HOUR), "step": 2, "values": {"held_out_loss": 1.0}},
        {"event": "end", "time": int(35.5 * HOUR), "status": "FINISHED", "error": "", "seconds": 1},
        {"event": "tags", "time": int(50 * HOUR), "values": {"stage_key": "k"}},
    )
    found = read_spent(journal)
    assert found == Spent(pytest.approx(2 * 1.5 + 4 * 0.5), True, 2, found.rates)
    assert found.metrics() == pytest.approx(
        {"gpu_hours": 5.0, "mean_tokens_per_second": 175.0, "mean_mfu": 0.35, "mean_mfu_palm": 0.45}
    )


def test_on_a_cpu_they_are_process_hours_and_a_stage_without_steps_has_no_rates(tmp_path: Path) -> None:
    journal = write(
        tmp_path / "run.jsonl", start(1.0), {"event": "end", "time": int(1.25 * HOUR), "seconds": 9}
    )
    assert read_spent(journal).metrics() == {"process_hours": 0.25}


def test_the_finished_run_with_the_stage_s_inputs_is_the_one_that_made_it(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages:\n  prepare: {cmd: x, params: [prepare], outs: [data]}\n")
    (tmp_path / "params.yaml").write_text("prepare: {workers: 1}\n")
    with pytest.raises(KeyboardInterrupt), track("prepare", Params(), tmp_path):
        raise KeyboardInterrupt
    assert made_by(tmp_path, "prepare") is None
    with track("prepare", Params(), tmp_path, Machine(gpus=0)):
        log_metrics(1, step_seconds=2.0, tokens_per_second=10.0, flops_per_second=1e9)
    path = made_by(tmp_path, "prepare")
    assert path is not None
    found = read_spent(path)
    assert (found.attempts, found.on_gpus) == (2, False)
    assert found.rates == {"tokens_per_second": 10.0, "flops_per_second": 1e9}
    (said,) = [line for line in path.read_text().splitlines() if "process_hours" in line]
    assert json.loads(said)["values"]["mean_tokens_per_second"] == 10.0
    (tmp_path / "params.yaml").write_text("prepare: {workers: 2}\n")
    assert made_by(tmp_path, "prepare") is None
