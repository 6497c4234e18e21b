"""Packs: every sample once, the batch exactly as asked for, ranks balanced."""

from __future__ import annotations

import numpy as np
import pytest

from videollava.data.load.packing import Lengths, plan_epoch


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
def test_every_sample_once_in_exact_batches_and_balanced_packs(
    images: int, videos: int, texts: int, ranks: int
) -> None:
    lengths = paper_mix(images, videos, texts)
    plan = plan_epoch(lengths, batch_size=128, ranks=ranks, budget=8192, seed=3, epoch=0)
    assert sorted(plan.samples.tolist()) == list(range(len(lengths.tokens)))
    packed = [int(lengths.tokens[plan.pack(p)].sum()) for p in range(len(plan.packs) - 1)]
    assert max(packed) <= 8192
    assert plan.busy(lengths.cost) >= 0.97
    assert plan.busy(lengths.cost, each_pack=True) >= 0.97
    sizes = [plan.samples_of(step) for step in range(len(plan))]
    assert set(sizes[:-1]) == {128}
    assert 1 <= sizes[-1] <= 128


def test_ranks_run_as_many_packs_and_share_them_all() -> None:
    lengths = paper_mix(700, 90)
    plan = plan_epoch(lengths, batch_size=64, ranks=4, budget=8192, seed=0, epoch=1)
    for step in range(len(plan)):
        rows = [list(plan.packs_of(step, rank)) for rank in range(4)]
        assert len({len(row) for row in rows}) == 1
        assert sorted(p for row in rows for p in row) == list(range(plan.steps[step], plan.steps[step + 1]))
        assert sum(len(plan.pack(p)) for row in rows for p in row) == plan.samples_of(step)


def test_a_seed_and_epoch_is_one_order_and_steps_keep_the_mix() -> None:
    lengths = paper_mix(4000, 1000)
    options = {"batch_size": 100, "ranks": 1, "budget": 8192, "seed": 5}
    first, again, next_epoch = (plan_epoch(lengths, **options, epoch=e) for e in (0, 0, 1))
    assert first.samples.tolist() == again.samples.tolist() != next_epoch.samples.tolist()
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


def test_a_sample_over_the_budget_has_a_pack_of_its_own() -> None:
    lengths = paper_mix(6, 2)
    plan = plan_epoch(lengths, batch_size=8, ranks=2, budget=1024, seed=0, epoch=0)
    long = [pack for pack in map(plan.pack, range(len(plan.packs) - 1)) if lengths.tokens[pack].sum() > 1024]
    assert sorted(np.concatenate(long).tolist()) == [6, 7]
    assert [len(pack) for pack in long] == [1, 1]


def test_a_budget_below_every_sample_gives_each_a_pack_and_no_blank_ones() -> None:
    lengths = Lengths(np.full(5, 100), np.ones(5, np.int64), np.full(5, 1.0))
    plan = plan_epoch(lengths, batch_size=5, ranks=1, budget=10, seed=0, epoch=0)
    assert np.diff(plan.packs).tolist() == [1] * 5


@pytest.mark.parametrize("budget", [4096, 16384])
@pytest.mark.parametrize("ranks", [2, 5, 8])
def test_what_a_step_learns_from_depends_on_neither_ranks_nor_budget(ranks: int, budget: int) -> None:
    lengths = paper_mix(500, 120, 60)
    options = {"batch_size": 32, "seed": 1, "epoch": 2}
    one, many = (
        plan_epoch(lengths, ranks=1, budget=8192, **options),
        plan_epoch(lengths, ranks=ranks, budget=budget, **options),
    )
    assert len(one) == len(many)
    for step in range(len(one)):
        learned = [
            plan.samples[plan.packs[plan.steps[step]] : plan.packs[plan.steps[step + 1]]]
            for plan in (one, many)
        ]
        assert sorted(learned[0]) == sorted(learned[1])


def test_as_many_packs_as_the_budget_asks_for_and_no_more() -> None:
    lengths = Lengths(np.full(12, 100), np.ones(12, np.int64), np.full(12, 1.0))
    counts = {
        budget: (len(plan_epoch(lengths, batch_size=12, ranks=2, budget=budget, seed=0, epoch=0).packs) - 1)
        // 2
        for budget in (100, 200, 300, 600, 5000)
    }
    assert counts == {100: 6, 200: 3, 300: 2, 600: 1, 5000: 1}
