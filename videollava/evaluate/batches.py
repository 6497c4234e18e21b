"""Which prompts are answered together: under a token budget, what shares a prefix side by side, longest first.

A plan needs lengths alone, so it can be made of all prompts before any medium is read.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["Batch", "Outline", "Sample", "lay", "outline", "plan"]


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


@dataclass(frozen=True, slots=True)
class Outline:
    """A prompt's lengths: `cut` tokens up to its last visual token, and `rest` after it.

    prefix: what prompts with the same first `cut` tokens and media have in common. cut is 0, and nothing is
    shared, where no token follows the last visual one, or where there is none.
    """

    prefix: Hashable
    cut: int
    rest: int


@dataclass
class Batch:
    """Rows answered together.

    Row i continues prefix `which[i]`; a prefix stands for every row that shares it.
    """

    rows: list[int] = field(default_factory=list)
    which: list[int] = field(default_factory=list)
    prefixes: list[int] = field(default_factory=list)  # a row that has this prefix, for each
    cut: dict[int, int] = field(default_factory=dict)  # length of each row's prefix


def outline(sample: Sample, placeholders: tuple[int, int]) -> Outline:
    """The lengths of a prompt whose placeholders are the model's ids of visual tokens."""
    ids = sample.prompt_ids
    last = next((place for place in range(len(ids), 0, -1) if ids[place - 1] in placeholders), 0)
    if last in (0, len(ids)):
        return Outline(None, 0, len(ids))
    media = (*map(id, sample.images), *map(id, sample.videos))
    return Outline((tuple(ids[:last]), media), last, len(ids) - last)


def plan(outlines: Sequence[Outline], batch_tokens: int, new: int) -> list[list[int]]:
    """The rows of each batch: at most `batch_tokens` (one row at least), `new` of an answer counted for each.

    Rows that share a prefix are in one batch; where they fill more, in batches of their own and one more.
    """
    groups: dict[Hashable, list[int]] = {}
    for row, one in enumerate(outlines):
        groups.setdefault((one.prefix,) if one.cut else row, []).append(row)
    batches, pieces = [], []
    for rows in groups.values():
        rows.sort(key=lambda row: -outlines[row].rest)
        longest = outlines[rows[0]]
        fit = max(1, batch_tokens // (longest.cut + longest.rest + new))
        parts = [rows[start : start + fit] for start in range(0, len(rows), fit)]
        batches += [part for part in parts if len(part) == fit]
        pieces += [part for part in parts if len(part) < fit]
    pieces.sort(key=lambda part: _longest_first(outlines[part[0]]))
    batches += _fill(pieces, outlines, batch_tokens, new)
    return sorted(batches, key=lambda rows: _longest_first(outlines[rows[0]]))


def lay(rows: Sequence[int], outlines: Sequence[Outline]) -> Batch:
    """A batch of these rows, either all with a prefix or none."""
    batch = Batch(list(rows))
    places: dict[Hashable, int] = {}
    for row in rows:
        one = outlines[row]
        batch.cut[row] = one.cut
        if one.cut and one.prefix not in places:
            places[one.prefix] = len(batch.prefixes)
            batch.prefixes.append(row)
        batch.which.append(places.get(one.prefix, 0))
    return batch


def _longest_first(one: Outline) -> tuple[int, int]:
    return -one.cut, -one.rest


def _fill(
    pieces: Sequence[list[int]], outlines: Sequence[Outline], batch_tokens: int, new: int
) -> list[list[int]]:
    """Batches of whole pieces, which come longest first."""
    batches: list[list[int]] = []
    head = tail = 0
    for piece in pieces:
        first = outlines[piece[0]]
        head_, tail_ = max(head, first.cut), max(tail, first.rest)
        full = not batches or (len(batches[-1]) + len(piece)) * (head_ + tail_ + new) > batch_tokens
        # Rows without a prefix would be padding from end to end in the prefixes' pass.
        if full or (first.cut == 0) != (outlines[batches[-1][0]].cut == 0):
            batches.append([])
            head_, tail_ = first.cut, first.rest
        batches[-1] += piece
        head, tail = head_, tail_
    return batches
