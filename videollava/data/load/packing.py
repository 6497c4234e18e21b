"""Which samples share a step, and which a pack: no padding, ranks balanced, the batch exactly the recipe's.

In: tokens, cost and target tokens of each sample (from the index), the batch size, ranks, a token budget.
Out: a `Plan`: for every optimiser step the packs of each rank and micro-step. An epoch's samples come in random order
and are cut into steps of `batch_size`; only then is a step packed for the ranks, so what a step learns from depends on
neither ranks nor budget. Packs have their own length. They are filled longest-processing-time first: the costliest
sample goes to the cheapest pack that still has room. Cost is linear in samples.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Lengths", "Plan", "plan_epoch"]


@dataclass(frozen=True)
class Lengths:
    """Per-sample arrays of one length: tokens and target tokens (counts), cost (FLOPs, or any unit)."""

    tokens: NDArray[np.int64]
    targets: NDArray[np.int64]
    cost: NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """One epoch. `samples` holds sample numbers pack by pack; pack p is samples[packs[p]:packs[p + 1]].

    Step s has packs steps[s] to steps[s + 1], in the order micro-step, then rank.
    """

    ranks: int
    samples: NDArray[np.int32]
    packs: NDArray[np.int64]
    steps: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.steps) - 1

    def pack(self, number: int) -> NDArray[np.int32]:
        """Sample numbers of one pack; empty where a step had too few samples for its ranks."""
        return self.samples[self.packs[number] : self.packs[number + 1]]

    def packs_of(self, step: int, rank: int) -> range:
        """Numbers of the packs that `rank` runs in `step`, one a micro-step."""
        return range(int(self.steps[step]) + rank, int(self.steps[step + 1]), self.ranks)

    def samples_of(self, step: int) -> int:
        """Samples in one step, over all ranks."""
        first, last = self.steps[step], self.steps[step + 1]
        return int(self.packs[last] - self.packs[first])

    def sums(self, values: NDArray[np.generic]) -> NDArray[np.float64]:
        """Sum over each pack of what each sample has."""
        running = np.concatenate([[0.0], np.cumsum(values[self.samples], dtype=np.float64)])
        return np.diff(running[self.packs])

    def busy(self, cost: NDArray[np.float64], each_pack: bool = False) -> float:
        """Share of the ranks' time in which they compute, the last step left out: the slowest rank is waited for at
        the end of a step, or (each_pack: where weights are sharded) after every micro-step.
        """
        sums, work, time = self.sums(cost), 0.0, 0.0
        for step in range(max(1, len(self) - 1)):
            shares = sums[self.steps[step] : self.steps[step + 1]].reshape(-1, self.ranks)
            work += float(shares.sum())
            time += self.ranks * float(shares.max(1).sum() if each_pack else shares.sum(0).max())
        return work / time if time else 1.0


def plan_epoch(lengths: Lengths, *, batch_size: int, ranks: int, budget: int, seed: int, epoch: int) -> Plan:
    """Lay out one epoch: every sample exactly once, the same for the same arguments.

    A sample of more tokens than `budget` has a pack of its own: how long samples may be is the recipe's to say, and
    whether one fits is tried before the first step.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(lengths.tokens))
    tokens, cost = lengths.tokens.tolist(), lengths.cost.tolist()
    samples: list[int] = []
    sizes: list[int] = []
    steps = [0]
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size].tolist()
        for pack in _pack(chosen, tokens, cost, ranks, budget):
            samples.extend(pack)
            sizes.append(len(pack))
        steps.append(len(sizes))
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    array, bounds = np.asarray(samples, dtype=np.int32), np.asarray(steps, dtype=np.int64)
    return Plan(ranks, array, offsets, bounds)


def _pack(
    chosen: list[int], tokens: list[int], cost: list[float], ranks: int, budget: int
) -> list[list[int]]:
    """The packs of one step, dealt to the ranks: as few for each rank as the budget allows."""
    ordered = sorted(chosen, key=cost.__getitem__, reverse=True)
    wanted = math.ceil(sum(tokens[i] for i in chosen) / (ranks * budget))
    each = max(
        1, min(wanted, math.ceil(len(chosen) / ranks))
    )  # a sample longer than the budget is one pack all the same
    while (packs := _fill(ordered, tokens, cost, ranks * each, budget)) is None:
        each += 1
    return _deal(packs, cost, ranks)


def _fill(
    ordered: list[int], tokens: list[int], cost: list[float], count: int, budget: int
) -> list[list[int]] | None:
    """Spread samples, the costliest first, over `count` packs, each to the cheapest with room; None where one has
    none.
    """
    heap: list[tuple[float, int]] = [(0.0, pack) for pack in range(count)]
    packs: list[list[int]] = [[] for _ in range(count)]
    free = [budget] * count
    for sample in ordered:
        size, passed = tokens[sample], []
        while heap:
            spent, pack = heap[0]
            if free[pack] >= size or not packs[pack]:
                packs[pack].append(sample)
                free[pack] -= size
                heapq.heapreplace(heap, (spent + cost[sample], pack))
                break
            passed.append(heapq.heappop(heap))
        else:
            return None
        for item in passed:
            heapq.heappush(heap, item)
    return packs


def _deal(packs: list[list[int]], cost: list[float], ranks: int) -> list[list[int]]:
    """Order packs by micro-step, then rank: like-priced packs run together, and ranks take turns at the dear end."""
    ordered = sorted(packs, key=lambda pack: sum(cost[i] for i in pack), reverse=True)
    dealt = []
    for micro, start in enumerate(range(0, len(ordered), ranks)):
        row = ordered[start : start + ranks]
        dealt.extend(row if micro % 2 == 0 else row[::-1])
    return dealt
