"""Which samples share a pack, which packs share a step: no padding, ranks balanced, the batch the paper's.

In: tokens, cost and target tokens of each sample (from the index), the batch size, ranks, a token budget.
Out: a `Plan`: for every optimiser step the packs of each rank and micro-step. Samples of an epoch come in
random order, so a step holds the data's own mix of images, videos and text. A step's packs are filled
longest-processing-time first: the costliest sample goes to the cheapest pack that still has room; what fits
nowhere opens the next step. Cost is linear in samples.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from videollava.errors import InputError

__all__ = ["Lengths", "Plan", "pack_capacity", "plan_epoch"]

# Share of the capacity that a step is filled to: what is over this fits nowhere too often.
FILL = 0.99
# A capacity is good if its first steps are this full; long samples can make a larger one worse
# (3.9 videos a pack is 3 videos and a hole).
GOOD_FILL, TRIAL_STEPS, MOST_SMALLER = 0.975, 20, 1.35


@dataclass(frozen=True)
class Lengths:
    """Per-sample arrays of one length: tokens and target tokens (counts), cost (FLOPs, or any unit)."""

    tokens: NDArray[np.int64]
    targets: NDArray[np.int64]
    cost: NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """One epoch. `samples` holds sample numbers pack by pack; pack p is samples[packs[p]:packs[p + 1]].

    Step s has packs steps[s] to steps[s + 1], in the order micro-step, then rank. `targets` counts each
    step's label tokens over all ranks: the loss is divided by it.
    """

    capacity: int
    ranks: int
    samples: NDArray[np.int32]
    packs: NDArray[np.int64]
    steps: NDArray[np.int64]
    targets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.steps) - 1

    def pack(self, number: int) -> NDArray[np.int32]:
        """Sample numbers of one pack; empty where a last step had too few samples for its ranks."""
        return self.samples[self.packs[number] : self.packs[number + 1]]

    def packs_of(self, step: int, rank: int) -> range:
        """Numbers of the packs that `rank` runs in `step`, one a micro-step."""
        return range(int(self.steps[step]) + rank, int(self.steps[step + 1]), self.ranks)

    def samples_of(self, step: int) -> int:
        """Samples in one step, over all ranks."""
        first, last = self.steps[step], self.steps[step + 1]
        return int(self.packs[last] - self.packs[first])

    def fill(self, lengths: Lengths) -> float:
        """Real tokens as a share of the capacity of all packs, the last step left out."""
        full = int(self.steps[-2]) if len(self) > 1 else int(self.steps[-1])
        tokens = lengths.tokens[self.samples[: self.packs[full]]].sum()
        return float(tokens / max(1, full * self.capacity))

    def imbalance(self, lengths: Lengths) -> float:
        """Mean over steps of the costliest rank's cost over the mean rank's, less 1 (the last step left out)."""
        sums = np.add.reduceat(np.append(lengths.cost[self.samples], 0.0), self.packs[:-1])
        sums[np.diff(self.packs) == 0] = 0.0
        ratios = []
        for step in range(max(1, len(self) - 1)):
            ranks = sums[self.steps[step] : self.steps[step + 1]].reshape(-1, self.ranks).sum(0)
            ratios.append(ranks.max() / ranks.mean())
        return float(np.mean(ratios) - 1.0)


def pack_capacity(
    tokens: NDArray[np.int64], batch_size: int, ranks: int, budget: int
) -> list[tuple[int, int]]:
    """Candidates, best first: packs a rank runs in a step, and the tokens a pack may hold.

    With each of them a step holds `batch_size` samples. The capacity is at most `budget` and is lowered to what
    the batch needs: full packs, the right batch. Raises InputError where one sample alone is over the budget.
    """
    longest = int(tokens.max(initial=1))
    if longest > budget:
        raise InputError(
            f"tokens_per_pack is {budget}, but the longest sample has {longest} tokens; "
            f"set tokens_per_pack to {longest} or more, or max_tokens to {budget} or less and run "
            "`videollava prepare` again (records whose media alone are longer are then left out)"
        )
    per_step = min(batch_size, len(tokens)) * float(tokens.mean())
    fewest = max(1, math.ceil(per_step / (FILL * ranks * budget)))
    # Packs much smaller than the budget would be full at the price of many small steps.
    counts = range(fewest, max(fewest, int(MOST_SMALLER * fewest)) + 1)
    return [(count, max(longest, math.ceil(per_step / (FILL * ranks * count)))) for count in counts]


def plan_epoch(lengths: Lengths, *, batch_size: int, ranks: int, budget: int, seed: int, epoch: int) -> Plan:
    """Lay out one epoch: every sample exactly once, the same for the same arguments."""
    order = np.random.default_rng([seed, epoch]).permutation(len(lengths.tokens))
    candidates = pack_capacity(lengths.tokens, batch_size, ranks, budget)
    # The sample of steps that decides is the same in every epoch, so that all epochs get one capacity.
    chosen = np.random.default_rng([seed]).permutation(len(lengths.tokens))[: TRIAL_STEPS * batch_size]
    trial = Lengths(lengths.tokens[chosen], lengths.targets[chosen], lengths.cost[chosen])
    best, best_fill = candidates[0], 0.0
    for candidate in candidates:
        fill = _lay_out(trial, np.arange(len(chosen)), ranks, *candidate).fill(trial)
        if fill > best_fill:
            best, best_fill = candidate, fill
        if fill >= GOOD_FILL:
            break
    return _lay_out(lengths, order, ranks, *best)


def _lay_out(lengths: Lengths, order: NDArray[np.int64], ranks: int, micro_steps: int, capacity: int) -> Plan:
    tokens, cost = lengths.tokens.tolist(), lengths.cost.tolist()
    running = np.cumsum(lengths.tokens[order])
    room = int(FILL * ranks * micro_steps * capacity)
    samples: list[int] = []
    sizes: list[int] = []
    steps = [0]
    carried: list[int] = []
    taken = 0
    while taken < len(order) or carried:
        wanted = room - sum(tokens[i] for i in carried)
        start = int(running[taken - 1]) if taken else 0
        upto = max(int(np.searchsorted(running, start + wanted, side="right")), taken + (not carried))
        chosen = carried + order[taken:upto].tolist()
        taken = max(taken, min(upto, len(order)))
        last = taken == len(order)
        count = ranks * (
            micro_steps if not last else _micro_steps(chosen, tokens, ranks, micro_steps, capacity)
        )
        packs, carried = _fill_packs(chosen, tokens, cost, count, capacity)
        for pack in _deal(packs, cost, ranks):
            samples.extend(pack)
            sizes.append(len(pack))
        steps.append(len(sizes))
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    array = np.asarray(samples, dtype=np.int32)
    bounds = np.asarray(steps, dtype=np.int64)
    label_sums = np.concatenate([[0], np.cumsum(lengths.targets[array])])
    targets = np.diff(label_sums[offsets[bounds]])
    return Plan(capacity, ranks, array, offsets, bounds, targets)


def _micro_steps(chosen: list[int], tokens: list[int], ranks: int, most: int, capacity: int) -> int:
    needed = math.ceil(sum(tokens[i] for i in chosen) / (FILL * ranks * capacity))
    return min(most, max(1, needed))


def _fill_packs(
    chosen: list[int], tokens: list[int], cost: list[float], count: int, capacity: int
) -> tuple[list[list[int]], list[int]]:
    """Spread samples over `count` packs, the costliest first to the cheapest pack with room; also what was left."""
    heap: list[tuple[float, int]] = [(0.0, pack) for pack in range(count)]
    packs: list[list[int]] = [[] for _ in range(count)]
    free = [capacity] * count
    left: list[int] = []
    for sample in sorted(chosen, key=cost.__getitem__, reverse=True):
        size = tokens[sample]
        passed = []
        while heap:
            spent, pack = heap[0]
            if free[pack] >= size:
                packs[pack].append(sample)
                free[pack] -= size
                heapq.heapreplace(heap, (spent + cost[sample], pack))
                break
            passed.append(heapq.heappop(heap))
        else:
            left.append(sample)
        for item in passed:
            heapq.heappush(heap, item)
    return packs, left


def _deal(packs: list[list[int]], cost: list[float], ranks: int) -> list[list[int]]:
    """Order packs by micro-step, then rank: like-priced packs run together, and ranks take turns at the dear end."""
    ordered = sorted(packs, key=lambda pack: sum(cost[i] for i in pack), reverse=True)
    dealt = []
    for micro, start in enumerate(range(0, len(ordered), ranks)):
        row = ordered[start : start + ranks]
        dealt.extend(row if micro % 2 == 0 else row[::-1])
    return dealt
