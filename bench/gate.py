"""How often the whole gate lets a version pass that it should refuse, by simulation: `python bench/gate.py [--draws N] [--bound]`.

Answers are drawn in clusters, as questions about one picture or clip are: `together` is how alike what happens to a
medium's questions is (0: independent, 1: all or none). A candidate that is worse than allowed on one benchmark by the
least there is (it lost exactly what is allowed, and gained on all others) is the worst case for "no benchmark lost more";
one that equals the champion is it for "it gained". Each line: the share that passed, of N.
"""

from __future__ import annotations

import argparse
import time
from itertools import product

import numpy as np

from videollava.evaluate.statistics import Comparison
from videollava.gate import Bar, Gate, Pair, Rules, decide

# benchmarks, media of each, questions a medium, accuracy's changes both ways, together, allowed
WORSE = [
    *((k, 400, 9, 0.03, 0.3, 2.0) for k in (1, 2, 5)),
    *((2, 1000, 4, 0.01, together, 1.0) for together in (0.0, 0.3, 1.0)),
    (2, 360, 1, 0.0, 0.0, 1.0),
    (2, 100, 9, 0.0, 1.0, 5.0),
    (2, 25, 4, 0.02, 0.3, 15.0),
]
EQUAL = [(k, 400, 9, 0.03, 0.3) for k in (1, 2, 5)]


def draw(rng: np.random.Generator, media: int, per: int, both: float, together: float, gain: float) -> Pair:
    """A benchmark's answers: of each question 100 points won, lost or as before; `gain` is expected."""
    sizes = rng.integers(1, 2 * per, media)
    lost, won = (
        _rates(rng, both + max(0.0, -gain), together, media),
        _rates(rng, both + max(0.0, gain), together, media),
    )
    medium = np.repeat(np.arange(media), sizes)
    chance = rng.random(len(medium))
    changes = np.where(chance < lost[medium], -100.0, np.where(chance > 1 - won[medium], 100.0, 0.0))
    mean = float(changes.mean())
    found = Comparison(len(medium), media, 80.0, 80.0 + mean, mean, mean, mean, 1.0, 0, 0)
    return Pair({"accuracy": 80.0}, found, tuple(changes), tuple(map(str, medium)))


def _rates(rng: np.random.Generator, mean: float, together: float, media: int) -> np.ndarray:
    if not mean or not together:
        return np.full(media, mean)
    if together == 1:
        return (rng.random(media) < mean).astype(float)
    return rng.beta(mean * (1 - together) / together, (1 - mean) * (1 - together) / together, media)


def passes(rng: np.random.Generator, pairs: dict[str, Pair], gate: Gate) -> bool:
    """The gate's own decision on such answers."""
    new = {name: {"accuracy": 80.0 + pair.comparison.difference} for name, pair in pairs.items()}
    old = {name: {"accuracy": 80.0} for name in pairs}
    return decide(new, old, Rules(gate), pairs).passed


def sweep(rng: np.random.Generator, draws: int) -> None:
    """The bound alone over many settings: of each the share of draws whose bound excludes a loss that is the truth."""
    settings = list(product((25, 100, 400, 1000), (1, 4, 9), (0.01, 0.03, 0.1), (0.0, 0.03), (0.0, 0.3, 1.0)))
    shares = []
    for media, per, loss, both, together in settings:
        pairs = (draw(rng, media, per, both, together, -loss) for _ in range(draws))
        shares.append(100 * sum(pair.bound(0.05).low > -100 * loss for pair in pairs) / draws)
    worst = int(np.argmax(shares))
    print(
        f"bound alone, {len(settings)} settings: {np.mean(shares):.1f} % on average, {shares[worst]:.1f} % at worst"
    )
    print(f"worst: media, questions a medium, loss, both ways, together = {settings[worst]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--bound", action="store_true", help="the bound alone, over many settings")
    given = parser.parse_args()
    draws, rng, began = given.draws, np.random.default_rng(0), time.monotonic()
    if given.bound:
        sweep(rng, draws)
        print(f"{draws:,} draws each, {time.monotonic() - began:.0f} s")
        return
    print("| claim | benchmarks | media | questions a medium | together | allowed | passed |")
    print("|---|---|---|---|---|---|---|")
    for count, media, per, both, together, allowed in WORSE:
        gate = Gate(minimum_gain=-100.0, benchmarks={"b0": Bar(allowed_regression=allowed)})
        done = 0
        for _ in range(draws):
            pairs = {"b0": draw(rng, media, per, both, together, -allowed / 100)}
            pairs |= {f"b{n}": draw(rng, 500, 2, 0.01, 0.0, 0.05) for n in range(1, count)}
            done += passes(rng, pairs, gate)
        print(
            f"| lost no more | {count} | {media} | {per} | {together:g} | {allowed:g} | {100 * done / draws:.1f} % |"
        )
    for count, media, per, both, together in EQUAL:
        gate = Gate(minimum_gain=0.01, allowed_regression=100.0)
        done = sum(
            passes(rng, {f"b{n}": draw(rng, media, per, both, together, 0.0) for n in range(count)}, gate)
            for _ in range(draws)
        )
        print(f"| gained | {count} | {media} | {per} | {together:g} | - | {100 * done / draws:.1f} % |")
    print(f"{draws:,} draws each, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
