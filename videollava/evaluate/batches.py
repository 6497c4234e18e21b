"""Which prompts are answered together: under a token budget, what shares a prefix side by side, longest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

__all__ = ["Batch", "Sample", "plan"]


@dataclass(frozen=True, eq=False)
class Sample:
    """One prompt with its media, in the order of their placeholders.

    prompt_ids: expanded, one placeholder for each visual token. images: pixels (C, H, W) or the encoder's
    features (tokens, dim); videos: pixels (T, C, H, W) or features (tokens, dim). The same tensor object in
    several samples is one medium: it is encoded once.
    """

    prompt_ids: Sequence[int]
    images: Sequence[Tensor] = ()
    videos: Sequence[Tensor] = ()


@dataclass
class Batch:
    """Rows answered together.

    Row i continues prefix `which[i]`; a prefix stands for every row that shares it.
    """

    rows: list[int] = field(default_factory=list)
    which: list[int] = field(default_factory=list)
    prefixes: list[int] = field(default_factory=list)  # a row that has this prefix, for each
    cut: dict[int, int] = field(default_factory=dict)  # length of each row's prefix


def plan(
    samples: Sequence[Sample], placeholders: tuple[int, int], batch_tokens: int, new: int
) -> list[Batch]:
    """Batches of at most `batch_tokens` (one row at least), one prefix's samples together, longest first."""
    cuts = [_cut(sample.prompt_ids, placeholders) for sample in samples]
    groups: dict[Any, list[int]] = {}
    for number, (sample, cut) in enumerate(zip(samples, cuts, strict=True)):
        media = (*map(id, sample.images), *map(id, sample.videos))
        key = (tuple(sample.prompt_ids[:cut]), media) if cut else number
        groups.setdefault(key, []).append(number)
    rest = {number: len(sample.prompt_ids) - cuts[number] for number, sample in enumerate(samples)}
    ordered = sorted(groups.values(), key=lambda g: (-cuts[g[0]], -max(rest[n] for n in g)))
    batches: list[Batch] = []
    head = tail = 0
    for group in ordered:
        for place, number in enumerate(sorted(group, key=lambda n: -rest[n])):
            current = batches[-1] if batches else None
            head_, tail_ = max(head, cuts[number]), max(tail, rest[number])
            full = current is None or (len(current.rows) + 1) * (head_ + tail_ + new) > batch_tokens
            # Rows without a prefix would be padding from end to end in the prefixes' pass.
            if full or (cuts[number] == 0) != (cuts[batches[-1].rows[0]] == 0):
                batches.append(Batch())
                head_, tail_ = cuts[number], rest[number]
            head, tail, current = head_, tail_, batches[-1]
            if cuts[number] and (place == 0 or not current.rows):
                current.prefixes.append(number)
            current.which.append(len(current.prefixes) - 1)
            current.rows.append(number)
            current.cut[number] = cuts[number]
    return batches


def _cut(ids: Sequence[int], placeholders: tuple[int, int]) -> int:
    """Length of the prefix up to the last visual token; 0 where nothing is left after it."""
    last = max((place for place, token in enumerate(ids) if token in placeholders), default=-1) + 1
    return 0 if last == len(ids) else last
