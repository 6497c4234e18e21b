"""A jump of the loss is noticed, noise and the steep beginning are not."""

from __future__ import annotations

import numpy as np
import pytest

from videollava.train.spikes import QUIET, WINDOW, Spikes


def noticed(losses: list[float]) -> list[int]:
    watch = Spikes()
    return [step for step, loss in enumerate(losses) if watch.above(loss) is not None]


def test_a_jump_is_told_with_the_median_before_it() -> None:
    watch = Spikes()
    for step in range(WINDOW):
        assert watch.above((1.0, 2.0, 4.0)[step % 3]) is None  # median 2, deviation a factor of 2
    assert watch.above(2.0 * 2**7.9) is None
    assert watch.above(2.0 * 2**8.1) == pytest.approx(2.0)


def test_once_and_then_quiet() -> None:
    losses = [1.0] * WINDOW + [9.0] * 2 + [1.0] * (QUIET - 2) + [9.0, 1.0, 9.0]
    assert noticed(losses) == [WINDOW, WINDOW + QUIET + 2]


def test_before_there_is_something_to_compare_with_nothing_is_a_spike() -> None:
    assert noticed([1.0] * (WINDOW - 1) + [50.0]) == []
    falling = [8.0 * 0.93**step + 1.0 for step in range(300)]
    assert noticed(falling) == []


def test_a_flat_curve_is_no_scale() -> None:
    assert noticed([1.0] * WINDOW + [1.4]) == []
    assert noticed([1.0] * WINDOW + [1.6]) == [WINDOW]


@pytest.mark.parametrize("seed", range(3))
def test_the_noise_of_small_batches_is_none(seed: int) -> None:
    """Log-normal losses with a third of their mean as deviation, falling slowly: in 5,000 steps at most one."""
    draw = np.random.default_rng(seed)
    losses = 2.0 * np.exp(-np.arange(5000) / 4000 + 0.33 * draw.standard_normal(5000))
    assert len(noticed(losses.tolist())) <= 1
