"""Ranks are kept busy by lengths as the paper's data have them."""

from __future__ import annotations

from pathlib import Path

import pytest
from micro import ROOT

from videollava.data.load.packing import plan_epoch
from videollava.params import load_params
from videollava.train.lengths import prices_of
from videollava.train.planning.shape import model_of
from videollava.train.planning.typical import parse_samples, typical_lengths

# A rank of 32 has eight samples of stage 1 a step and four of stage 2, which cannot be shared out more evenly.
LEAST = {1: 1.0, 8: 0.985, 32: 0.925}


@pytest.mark.parametrize("ranks", LEAST)
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_ranks_compute_and_hardly_wait(stage: str, ranks: int, tmp_path: Path) -> None:
    """Packs hold no padding, so what is lost is the wait for the slowest: at a step's end, or at each pack's."""
    params = load_params(ROOT / "videollava/profiles/paper-7b.yaml")
    stated = parse_samples(["pretrain=55800,70200,0", "finetune=62500,10000,4000"])
    prices = prices_of(model_of(params, tmp_path).config, stage == "finetune")
    lengths, _ = typical_lengths(stage, params, stated, prices)
    for budget in (8192, 16384):
        plan = plan_epoch(
            lengths,
            batch_size=getattr(params, stage).batch_size,
            ranks=ranks,
            budget=budget,
            seed=params.seed,
            epoch=0,
        )
        assert plan.busy(lengths.cost) >= LEAST[ranks]
        assert plan.busy(lengths.cost, each_pack=True) >= LEAST[ranks]
