"""Intervals and paired tests against what is known of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from videollava.errors import InputError
from videollava.evaluate.statistics import bootstrap, bootstrap_means, compare, mcnemar, paired_bootstrap


def test_interval_of_a_share_is_the_binomial_one() -> None:
    interval = bootstrap([100.0] * 600 + [0.0] * 400)
    spread = 1.96 * math.sqrt(0.6 * 0.4 / 1000) * 100
    assert interval.value == 60.0
    assert interval.low == pytest.approx(60 - spread, abs=0.2)
    assert interval.high == pytest.approx(60 + spread, abs=0.2)


def test_few_and_many_distinct_values_are_drawn_alike() -> None:
    values = np.random.default_rng(3).normal(50, 10, 400)
    many = bootstrap(list(values), samples=4_000)
    few = bootstrap(list(np.round(values / 5) * 5), samples=4_000)
    assert few.low == pytest.approx(many.low, abs=0.4)
    assert few.high == pytest.approx(many.high, abs=0.4)


def test_seeded() -> None:
    values = [0.0, 30.0, 60.0, 100.0] * 20
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1)
    assert bootstrap(values, seed=1) != bootstrap(values, seed=2)


def test_interval_of_a_ratio_moves_both_means_together() -> None:
    pairs = [(8.0, 4.0), (6.0, 3.0), (9.0, 4.5)]
    interval = bootstrap_means(pairs, lambda means: 100 * means[:, 1] / means[:, 0])
    assert (interval.value, interval.low, interval.high) == (50.0, 50.0, 50.0)


def test_nothing_to_draw_from() -> None:
    with pytest.raises(InputError, match="no values"):
        bootstrap([])


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (1, 0, 1.0),
        (6, 0, 2 / 64),
        (15, 5, 0.04138946533203125),
        (5, 15, 0.04138946533203125),
    ],
)
def test_mcnemar_is_exact(gained: int, lost: int, p: float) -> None:
    assert mcnemar(gained, lost) == pytest.approx(p)


def test_mcnemar_of_many() -> None:
    assert 0.04 < mcnemar(30_000, 30_500) < 0.05
    assert mcnemar(0, 5_000) == pytest.approx(0.0)


def test_paired_bootstrap_sees_what_separate_intervals_do_not() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2, 2_000) * 100.0
    b = a.copy()
    b[np.flatnonzero(a == 0)[:30]] = 100.0  # thirty better, none worse
    interval, p = paired_bootstrap(list(a), list(b))
    assert interval.value == pytest.approx(1.5)
    assert interval.low > 0
    assert p < 0.001
    same, chance = paired_bootstrap(list(a), list(a))
    assert (same.value, chance) == (0.0, 1.0)
    with pytest.raises(InputError, match="2 values against 1"):
        paired_bootstrap([1.0, 2.0], [1.0])


def test_compare_joins_by_id() -> None:
    a = {"1": 0.0, "2": 100.0, "3": 0.0, "4": None, "only a": 0.0}
    b = {"3": 100.0, "2": 100.0, "1": 0.0, "4": 100.0, "only b": 100.0}
    found = compare(a, b)
    assert found.n == 3
    assert (found.gained, found.lost) == (1, 0)
    assert found.difference == pytest.approx(100 / 3)
    assert found.b - found.a == pytest.approx(found.difference)
    assert found.mcnemar == 1.0
    assert compare({"1": 30.0, "2": 60.0}, {"1": 60.0, "2": 90.0}).mcnemar is None
    with pytest.raises(InputError, match="no question in common"):
        compare({"1": 1.0}, {"2": 1.0})
