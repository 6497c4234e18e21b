"""What is planned for a stage that begins, noted for its end: on a GPU by hand, on a CPU in a real run."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from micro import ROOT

from videollava.data.load.packing import Lengths, plan_epoch
from videollava.evaluate.report_cost import cost_part
from videollava.machine import Machine
from videollava.params import load_params
from videollava.train.planning import expected
from videollava.train.planning.hardware import Hardware
from videollava.train.planning.load import Load
from videollava.train.planning.outlook import MFU
from videollava.train.planning.shape import model_of

TINY = ROOT / "videollava/profiles/tiny.yaml"
COUNT = 600


def arguments(gpus: int, device: str) -> tuple[Any, ...]:
    params = load_params(TINY)
    model = model_of(params, Path("nowhere"))
    lengths = Lengths(np.full(COUNT, 300), np.full(COUNT, 30), np.full(COUNT, 1e9))
    work = Machine(gpus=gpus, strategy="replicated").work("finetune")
    plans = [plan_epoch(lengths, batch_size=6, ranks=max(1, gpus), budget=8192, seed=0, epoch=0)]
    named = (params, Path("nowhere"), model.config, params.finetune, work, lengths, plans, (0, 0))
    return ("finetune", *named, torch.device(device))


def test_on_a_cpu_memory_is_planned_in_no_time() -> None:
    given = arguments(0, "cpu")
    expected.expect(*given)  # imports
    began = time.process_time()
    planned = expected.expect(*given)
    assert time.process_time() - began < 0.3
    assert planned.keys() == {"peak_memory_gib"}
    assert 0.1 < planned["peak_memory_gib"] < 30


def test_on_a_known_gpu_hours_and_rates_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU so slow that computing is all there is: 600 samples of 1e9 FLOPs at 40 % of two times 1e9 FLOP/s."""
    slow = Hardware("slow", 2, 80e9, 1e9, link=1e12, host=1e12)
    monkeypatch.setattr(expected, "hardware_of", lambda *_: slow)
    load = Load(
        stage="finetune", measured=True, samples=COUNT, tokens=300 * COUNT, targets=30 * COUNT, media=(0, 0),
        epochs=1, batch_size=6, steps=100, longest=300, flops=1e9 * COUNT, language=3e8 * COUNT, held_out=0.0,
        cached=True, _lengths=Lengths(*(np.zeros(1),) * 3), _seed=0,
    )  # fmt: skip
    monkeypatch.setattr(expected, "load_of", lambda *_: load)
    planned = expected.expect(*arguments(2, "cuda"))
    seconds = 600e9 / (MFU * 2e9)
    assert planned["mfu"] == pytest.approx(MFU, rel=0.01)
    assert planned["tokens_per_second"] == pytest.approx(300 * COUNT / seconds, rel=0.01)
    assert planned["hours"] == pytest.approx(2 * (seconds + 60) / 3600, rel=0.01)
    assert planned["peak_memory_gib"] > 1.2  # CUDA's own


def test_planned_and_real_stand_side_by_side_in_the_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hour = 3_600_000
    planned = {"planned_hours": 4.0, "planned_tokens_per_second": 200.0, "planned_peak_memory_gib": 40.0}
    events: list[dict[str, Any]] = [
        {"event": "start", "time": 0, "id": "x", "tags": {"ranks": "2", "device": "cuda"}, "pid": 1},
        {"event": "metric", "time": 1, "step": 0, "values": {**planned, "planned_hours": 9.0}},
        {"event": "metric", "time": 1, "step": 0, "values": planned},  # the last attempt's
        *(
            {
                "event": "metric",
                "time": hour,
                "step": n,
                "values": {"step_seconds": 1.0, "tokens_per_second": 150.0, "peak_memory_gib": 10.0 * n},
            }
            for n in (1, 2, 3)
        ),
        {"event": "end", "time": hour, "status": "FINISHED", "error": "", "seconds": 1},
    ]
    journal = tmp_path / "run.jsonl"
    journal.write_text("".join(json.dumps(event) + "\n" for event in events))
    from videollava.evaluate import report_cost
    from videollava.tracking import read_spent

    spent = read_spent(journal)
    assert spent.ratios == pytest.approx({"hours": 0.5, "tokens_per_second": 0.75, "peak_memory_gib": 0.75})
    assert spent.metrics()["real_to_planned_hours"] == 0.5
    monkeypatch.setattr(report_cost, "read_graph", lambda _: ["finetune"])
    monkeypatch.setattr(report_cost, "made_by", lambda *_: journal)
    told = str(cost_part(tmp_path))
    assert "Planned and real" in told
    for cell in ("4 GPU-hours", "2 GPU-hours", "0.50", "40.00 GiB", "30.00 GiB", "200", "150", "0.75"):
        assert f">{cell}<" in told
