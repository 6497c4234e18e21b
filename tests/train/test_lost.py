"""What a run does with records that are lost on the way."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import MACHINE, micro
from safetensors.torch import load_file

from videollava.data.load.batches import Packs
from videollava.errors import InputError
from videollava.tracking import track, write_curve
from videollava.train import pretrain


def test_a_step_that_lost_every_record_counts_and_moves_no_weight_to_nowhere(
    workspace: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    params, folder = micro("pretrain.cache_features=false", "shards.max_quarantined=0.99"), workspace("lost")
    real = Packs._sample  # of the held-out records, too: their plan is one step

    def sample(packs: Packs, row: int) -> Any:
        plan = packs.plan
        if len(plan) > 1 and row in plan.samples[plan.packs[plan.steps[1]] : plan.packs[plan.steps[2]]]:
            raise InputError(f"row {row}: does not decode")
        return real(packs, row)

    monkeypatch.setattr(Packs, "_sample", sample)
    with track("pretrain", params, folder):
        pretrain.run(params, folder, MACHINE)
        write_curve(folder / "plots/pretrain.csv")
    with open(folder / "plots/pretrain.csv") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses[1] == 0.0
    assert len(losses) > 3
    assert all(math.isfinite(loss) for loss in losses)
    assert all(loss > 0 for number, loss in enumerate(losses) if number != 1)
    assert "6 records left out" in capfd.readouterr().out
    weights = load_file(folder / "models/projector/projector.safetensors")
    assert all(torch.isfinite(weight).all() for weight in weights.values())
