"""Intervals and paired tests against what is known of them."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from scipy import stats

from videollava.errors import InputError
from videollava.evaluate.statistics import (
    bootstrap,
    bootstrap_means,
    bound_mean,
    compare,
    flip_signs,
    paired_bootstrap,
)


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


@pytest.mark.parametrize(("gained", "lost"), [(0, 1), (5, 5), (6, 0), (15, 5), (5, 15), (40, 71), (300, 350)])
def test_with_one_question_a_medium_it_is_the_exact_binomial_test(gained: int, lost: int) -> None:
    changes = [100.0] * gained + [-100.0] * lost + [0.0] * 50
    assert flip_signs(changes) == pytest.approx(stats.binomtest(gained, gained + lost).pvalue, rel=1e-9)
    assert flip_signs(changes, range(len(changes))) == flip_signs(changes)


def test_nothing_changed_is_no_difference() -> None:
    assert flip_signs([0.0] * 9) == 1.0
    assert flip_signs([100.0, -100.0], ["a", "a"]) == 1.0


@pytest.mark.parametrize("seed", range(4))
def test_with_more_questions_a_medium_it_is_scipys_permutation_test(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.sort(rng.integers(0, 12, 60))
    changes = rng.choice([-100.0, 0.0, 100.0], size=60, p=[0.2, 0.4, 0.4])
    sums = np.bincount(groups, changes, 12)
    known = stats.permutation_test((sums,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert flip_signs(list(changes), list(groups)) == pytest.approx(known.pvalue, rel=1e-9)
    parts = changes * rng.uniform(0.1, 1.0, 60)  # no steps: drawn
    sums = np.bincount(groups, parts, 12)
    known = stats.permutation_test((sums,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert flip_signs(list(parts), list(groups)) == pytest.approx(known.pvalue, abs=0.02)


def test_what_happens_to_whole_media_is_weaker_evidence() -> None:
    media = [number // 5 for number in range(500)]
    before = {str(n): 0.0 for n in range(500)}
    after = {str(n): 100.0 * (media[n] < 6) for n in range(500)}  # six media won, thirty questions
    by_question, by_medium = (
        compare(before, after),
        compare(before, after, {str(n): media[n] for n in range(500)}),
    )
    assert (by_question.n, by_question.media, by_medium.media) == (500, 500, 100)
    assert by_question.p == pytest.approx(2 / 2**30)
    assert by_medium.p == pytest.approx(2 / 2**6)
    wide, narrow = by_medium.high - by_medium.low, by_question.high - by_question.low
    assert wide / narrow == pytest.approx(math.sqrt(5), rel=0.1)


def test_media_of_different_sizes_are_drawn_with_theirs() -> None:
    values, groups = [100.0] * 9 + [0.0], ["a"] * 9 + ["b"]
    found = bootstrap(values, groups)
    assert (found.value, found.low, found.high) == (90.0, 0.0, 100.0)


def test_four_thousand_questions_take_less_than_a_second() -> None:
    rng = np.random.default_rng(0)
    a, b = ({str(n): float(v) for n, v in enumerate(rng.uniform(0, 5, 4_000))} for _ in range(2))
    groups = {str(n): n // 2 for n in range(4_000)}
    began = time.process_time()
    compare(a, b, groups)
    assert time.process_time() - began < 1.0


def test_paired_bootstrap_sees_what_separate_intervals_do_not() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2, 2_000) * 100.0
    b = a.copy()
    b[np.flatnonzero(a == 0)[:30]] = 100.0  # thirty better, none worse
    interval = paired_bootstrap(list(a), list(b))
    assert interval.value == pytest.approx(1.5)
    assert interval.low > 0
    assert paired_bootstrap(list(a), list(a)).value == 0.0
    with pytest.raises(InputError, match="2 values against 1"):
        paired_bootstrap([1.0, 2.0], [1.0])


def test_a_bound_is_students_where_there_is_much_to_see() -> None:
    changes = np.random.default_rng(1).normal(0.5, 3.0, 5_000)
    found = bound_mean(list(changes))
    known = stats.ttest_1samp(changes, 0.0, alternative="greater").confidence_interval(0.95).low
    assert found.mean == pytest.approx(changes.mean())
    assert known - 0.05 < found.low < known
    assert found.p(found.low) == pytest.approx(0.05)
    assert found.p(found.mean - found.shift) == pytest.approx(0.5)


def test_without_a_loss_no_more_is_excluded_than_can_be() -> None:
    # Exact: of 300 questions without a loss, one in a hundred is excluded. The bound asks for a few more.
    assert bound_mean([0.0] * 300).low < -1.0
    assert bound_mean([0.0] * 360).low > -1.0
    # Five questions about each of 72 media are 72 media.
    assert bound_mean([0.0] * 360, [n // 5 for n in range(360)]).low < -4.5
    assert bound_mean([0.0] * 5, ["a"] * 5).low == -math.inf
    assert bound_mean([0.0] * 5, ["a"] * 5).p(-1.0) == 1.0


def test_a_mean_over_benchmarks_weighs_them_alike() -> None:
    changes = [100.0] * 10 + [0.0] * 90 + [-100.0] * 10 + [0.0] * 10
    found = bound_mean(changes, strata=["a"] * 100 + ["b"] * 20)
    assert found.mean == pytest.approx((10 - 50) / 2)
    alone = bound_mean(changes[100:])
    assert alone.mean == -50.0
    assert found.error < alone.error


def test_compare_joins_by_id() -> None:
    a = {"1": 0.0, "2": 100.0, "3": 0.0, "4": None, "only a": 0.0}
    b = {"3": 100.0, "2": 100.0, "1": 0.0, "4": 100.0, "only b": 100.0}
    found = compare(a, b)
    assert found.n == 3
    assert (found.gained, found.lost) == (1, 0)
    assert found.difference == pytest.approx(100 / 3)
    assert found.b - found.a == pytest.approx(found.difference)
    assert found.p == 1.0
    with pytest.raises(InputError, match="no question in common"):
        compare({"1": 1.0}, {"2": 1.0})
