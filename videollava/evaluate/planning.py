"""Which questions are answered together, and by which rank: planned of all of them, before a medium is read.

Lengths follow from the texts and the number of media, so every rank makes the same plan, and answers depend on
neither their number nor a kill in between. Batches that share a medium form a unit, which one rank answers: it
decodes and encodes each of the unit's media once.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from videollava.errors import InputError
from videollava.evaluate.batches import Outline, plan
from videollava.evaluate.prompting import narrow_prompt, visual_tokens
from videollava.evaluate.questions import Item, Medium

__all__ = ["Plan", "Row", "Unit", "deal", "make_plan"]

FEATURES = 512 << 20  # bytes of features that a unit may come to by joining batches
PARTS, FULL = 16, 8  # a unit joins batches up to such a part of the whole, or to so many full ones


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt with its media, and the questions that are it: mostly one, many where nothing is seen."""

    items: list[Item]
    outline: Outline

    @property
    def item(self) -> Item:
        """A question for all of them."""
        return self.items[0]


@dataclass(slots=True, eq=False)
class Unit:
    """Batches for one rank, their distinct media in the order they are encoded, and what they cost in tokens."""

    batches: list[list[Row]] = field(default_factory=list)
    media: dict[Medium, None] = field(default_factory=dict)
    answering: int = 0
    seeing: int = 0

    @property
    def cost(self) -> int:
        """Tokens through the language model, and visual tokens through an encoder."""
        return self.answering + self.seeing

    @property
    def items(self) -> Iterator[Item]:
        """Its questions."""
        return chain.from_iterable(row.items for batch in self.batches for row in batch)


@dataclass(frozen=True)
class Plan:
    """Units in the order of their first batch, longest prompts first; and why other questions are not asked."""

    units: list[Unit]
    unasked: dict[str, str]


def make_plan(
    model: Any, tokenizer: Any, items: Sequence[Item], batch_tokens: int, new: int, *, blind: bool = False
) -> Plan:
    """The plan of all questions, from their texts alone.

    batch_tokens: prompt and answer tokens of a batch, `new` of an answer. blind: all media of a kind look the same,
    so that no unit needs another's, and questions of the same words are one prompt.
    """
    config = model.config
    rows, unasked = _rows(config, tokenizer, items, blind)
    batches = [
        [rows[number] for number in batch] for batch in plan([row.outline for row in rows], batch_tokens, new)
    ]
    tokens = {"image": config.image_tokens, "video": config.video_tokens()}
    if blind:
        return Plan([_unit(batch, {}, new) for batch in batches], unasked)
    width = int(config.vision_config.hidden_size) * next(model.parameters()).element_size()
    units = [_unit(batch, tokens, new) for batch in batches]
    most = max(FULL * batch_tokens, sum(unit.cost for unit in units) // PARTS)
    return Plan(_join(units, tokens, FEATURES // width, most), unasked)


def deal(costs: Sequence[int], ranks: int) -> list[list[int]]:
    """The places of each rank, in order: the most expensive first, each to whom has least so far."""
    shares: list[list[int]] = [[] for _ in range(ranks)]
    loads = [(0, rank) for rank in range(ranks)]
    for place in sorted(range(len(costs)), key=lambda place: -costs[place]):
        load, rank = loads[0]
        shares[rank].append(place)
        heapq.heapreplace(loads, (load + costs[place], rank))
    return [sorted(share) for share in shares]


def _rows(
    config: Any, tokenizer: Any, items: Sequence[Item], blind: bool
) -> tuple[list[Row], dict[str, str]]:
    """Distinct prompts, and the questions that are none."""
    rows: dict[Hashable, Row] = {}
    prefixes: dict[Hashable, int] = {}
    unasked: dict[str, str] = {}
    wide = visual_tokens(config)
    for item in items:
        kinds = [kind for kind, _ in item.seen]
        seen = tuple(kinds) if blind else item.seen
        known = rows.get((item.question, seen))
        if known:
            known.items.append(item)
            continue
        try:
            ids = narrow_prompt(config, tokenizer, item.question, kinds, f"question {item.id!r}")
        except InputError as error:
            unasked[item.id] = str(error)
            continue
        rows[item.question, seen] = Row([item], _outline(ids, seen, wide, prefixes))
    return list(rows.values()), unasked


def _outline(
    ids: Sequence[int], seen: Hashable, wide: Mapping[int, int], prefixes: dict[Hashable, int]
) -> Outline:
    """As `batches.outline` finds it when the prompt is expanded."""
    last = next((place for place in range(len(ids), 0, -1) if ids[place - 1] < 0), 0)
    lengths = [wide.get(token, 1) for token in ids]
    if last in (0, len(ids)):
        return Outline(None, 0, sum(lengths))
    prefix = prefixes.setdefault((array("l", ids[:last]).tobytes(), seen), len(prefixes))
    return Outline(prefix, sum(lengths[:last]), len(ids) - last)


def _unit(batch: list[Row], tokens: Mapping[str, int], new: int) -> Unit:
    """tokens: of a medium of each kind; of none where nothing is seen."""
    prefixes = {row.outline.prefix: row.outline.cut for row in batch}
    answering = sum(prefixes.values()) + sum(row.outline.rest + new for row in batch)
    media = dict.fromkeys(medium for row in batch for medium in row.item.seen)
    return Unit([batch], media, answering, sum(tokens.get(kind, 0) for kind, _ in media))


def _join(units: Sequence[Unit], tokens: Mapping[str, int], room: int, most: int) -> list[Unit]:
    """Units that share a medium as one, while it has at most `room` visual tokens and costs at most `most`.

    Beyond that a medium is encoded once more, by whom has it then.
    """
    joined = dict.fromkeys(units)
    homes: dict[Medium, Unit] = {}
    for unit in units:
        current = unit
        for medium in list(unit.media):
            other = homes.get(medium, current)
            if other is current:
                continue
            seeing = current.seeing + other.seeing - tokens[medium[0]]
            if seeing <= room and current.answering + other.answering + seeing <= most:
                less, current = sorted((current, other), key=lambda one: len(one.media))
                _move(less, current, tokens, homes)
                del joined[less]
        homes.update(dict.fromkeys(unit.media, current))
    return list(joined)


def _move(less: Unit, unit: Unit, tokens: Mapping[str, int], homes: dict[Medium, Unit]) -> None:
    """All of the one into the other."""
    unit.seeing += sum(tokens[kind] for kind, key in less.media if (kind, key) not in unit.media)
    unit.answering += less.answering
    unit.batches += less.batches
    unit.media.update(less.media)
    homes.update(dict.fromkeys((medium for medium in less.media if homes.get(medium) is less), unit))
