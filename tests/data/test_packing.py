"""Packs: every sample once, full, balanced, the batch as asked for."""

from __future__ import annotations

import numpy as np
import pytest

from videollava.data.packing import Lengths, plan_epoch
from videollava.errors import InputError


def paper_mix(images: int, videos: int, texts: int = 0) -> Lengths:
    draw = np.random.default_rng(0)
    tokens = np.concatenate(
        [
            256 + draw.integers(20, 300, images),
            2056 + draw.integers(20, 200, videos),
            draw.integers(50, 2000, texts),
        ]
    ).astype(np.int64)
    cost = 1.3e10 * tokens + 5e5 * tokens.astype(float) ** 2
    return Lengths(tokens, draw.integers(1, 90, len(tokens)), cost)


@pytest.mark.parametrize("ranks", [1, 3, 8])
@pytest.mark.parametrize(("images", "videos", "texts"), [(3000, 3600, 0), (5000, 800, 400), (0, 0, 900)])
def test_every_sample_once_in_full_balanced_packs(images: int, videos: int, texts: int, ranks: int) -> None:
    lengths = paper_mix(images, videos, texts)
    plan = plan_epoch(lengths, batch_size=128, ranks=ranks, budget=8192, seed=3, epoch=0)
    assert sorted(plan.samples.tolist()) == list(range(len(lengths.tokens)))
    packed = [int(lengths.tokens[plan.pack(p)].sum()) for p in range(len(plan.packs) - 1)]
    assert max(packed) <= plan.capacity <= 8192
    assert plan.fill(lengths) >= 0.97
    assert plan.imbalance(lengths) <= 0.02
    sizes = [plan.samples_of(step) for step in range(len(plan) - 1)]
    assert np.mean(sizes) == pytest.approx(128, rel=0.03)
    assert max(sizes) < 1.5 * 128


def test_ranks_run_as_many_packs_and_share_them_all() -> None:
    lengths = paper_mix(700, 90)
    plan = plan_epoch(lengths, batch_size=64, ranks=4, budget=8192, seed=0, epoch=1)
    for step in range(len(plan)):
        rows = [list(plan.packs_of(step, rank)) for rank in range(4)]
        assert len({len(row) for row in rows}) == 1
        assert sorted(p for row in rows for p in row) == list(range(plan.steps[step], plan.steps[step + 1]))
        samples = np.concatenate([plan.pack(p) for row in rows for p in row])
        assert plan.targets[step] == lengths.targets[samples].sum()


def test_a_seed_and_epoch_is_one_order_and_steps_keep_the_mix() -> None:
    lengths = paper_mix(4000, 1000)
    options = {"batch_size": 100, "ranks": 1, "budget": 8192, "seed": 5}
    first, again, next_epoch = (plan_epoch(lengths, **options, epoch=e) for e in (0, 0, 1))
    assert first.samples.tolist() == again.samples.tolist() != next_epoch.samples.tolist()
    assert first.capacity == next_epoch.capacity
    shares = []
    for step in range(len(first) - 1):
        packs = first.packs[first.steps[step]], first.packs[first.steps[step + 1]]
        shares.append((first.samples[packs[0] : packs[1]] >= 4000).mean())
    assert np.mean(shares) == pytest.approx(0.2, abs=0.02)
    assert max(shares) < 0.4


def test_fewer_samples_than_ranks_leaves_packs_empty() -> None:
    lengths = paper_mix(3, 0)
    plan = plan_epoch(lengths, batch_size=8, ranks=4, budget=2048, seed=0, epoch=0)
    assert len(plan) == 1
    assert sorted(len(plan.pack(p)) for p in range(4)) == [0, 1, 1, 1]


def test_a_sample_over_the_budget_is_refused_with_the_way_out() -> None:
    with pytest.raises(InputError, match=r"tokens_per_pack is 1024, but the longest sample has \d+"):
        plan_epoch(paper_mix(2, 2), batch_size=2, ranks=1, budget=1024, seed=0, epoch=0)
