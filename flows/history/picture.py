"""A version's lineage as a picture: sources, bases, stages, scores, the gate and the champion's title, as one SVG."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from flows.history.story import Story
from videollava.gate import primary

__all__ = ["STAGES", "draw"]

WIDE, HIGH, GAP_X, GAP_Y, EDGE = 190, 58, 46, 16, 16
STAGES = (
    "index",
    "bases",
    "align",
    "pretrain",
    "finetune",
    "evaluate",
)  # of one recipe; sources come before them
COLOURS = {"data": "#dbeafe", "model": "#fef3c7", "stage": "#f3f4f6", "score": "#dcfce7", "gate": "#fae8ff"}


@dataclass(frozen=True)
class Box:
    """One thing, with up to two small lines below its name."""

    kind: str
    title: str
    lines: tuple[str, ...] = ()


def draw(story: Story) -> str:
    """The picture as SVG text: a column a step, arrows from each column's boxes to the next."""
    columns = [column for column in _columns(story) if column]
    tall = max(len(column) for column in columns)
    width = EDGE * 2 + len(columns) * WIDE + (len(columns) - 1) * GAP_X
    height = EDGE * 2 + tall * HIGH + (tall - 1) * GAP_Y + 24
    places = [
        [_place(x, y, len(column), tall) for y in range(len(column))] for x, column in enumerate(columns)
    ]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<title>{escape(story.title)}</title><rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{EDGE}" y="{EDGE + 4}" font-size="14" font-weight="bold">{escape(story.title)}</text>',
    ]
    for left, right in itertools.pairwise(places):
        parts += [_arrow(one, other) for one in left for other in right]
    for column, spots in zip(columns, places, strict=True):
        parts += [_draw(box, spot) for box, spot in zip(column, spots, strict=True)]
    return "\n".join([*parts, "</svg>"])


def _columns(story: Story) -> list[list[Box]]:
    sources = [
        Box(
            "data",
            data.name,
            (f"{data.files:,} files, {data.bytes / 1e6:,.1f} MB", data.sum[:12] or "no sum"),
        )
        for data in story.data
    ]
    begun = [Box("model", base.name, (base.revision[:28],)) for base in story.bases]
    known = story.made.stages if story.made is not None else {}
    stages = [[_stage(name, story)] for name in STAGES if name in known]
    scores = [
        Box("score", name, (f"{figure:.2f}",))
        for name, values in story.scores.items()
        if (figure := primary(values)) is not None
    ]
    last = []
    if story.decision:
        last.append(Box("gate", "gate: " + ("passed" if story.decision.get("passed") else "refused")))
    last += [
        Box("gate", f"{move.action} after {move.came_from or 'none'}", (move.who, move.when))
        for move in story.moves
    ]
    return [[*sources, *begun] or [Box("data", "sources unknown")], *stages, scores, last]


def _stage(name: str, story: Story) -> Box:
    assert story.made is not None
    stage = story.made.stages[name]
    where = f"{stage.ranks or 1} x {stage.device or 'cpu'}"
    return Box("stage", name, (f"{_time(stage.hours)} {where}".strip(), stage.key[:12]))


def _time(hours: float | None) -> str:
    if hours is None:
        return ""
    return f"{hours:.1f} h," if hours >= 1 else f"{hours * 60:.1f} min,"


def _place(x: int, y: int, here: int, tall: int) -> tuple[int, int]:
    free = (tall - here) * (HIGH + GAP_Y) // 2
    return EDGE + x * (WIDE + GAP_X), EDGE + 24 + free + y * (HIGH + GAP_Y)


def _arrow(one: Sequence[int], other: Sequence[int]) -> str:
    x0, y0, x1, y1 = one[0] + WIDE, one[1] + HIGH // 2, other[0], other[1] + HIGH // 2
    middle = (x0 + x1) // 2
    return f'<path d="M{x0} {y0} C{middle} {y0} {middle} {y1} {x1} {y1}" fill="none" stroke="#9ca3af"/>'


def _draw(box: Box, spot: tuple[int, int]) -> str:
    x, y = spot
    parts = [
        f'<rect x="{x}" y="{y}" width="{WIDE}" height="{HIGH}" rx="6" fill="{COLOURS[box.kind]}" stroke="#6b7280"/>',
        f'<text x="{x + 8}" y="{y + 17}" font-weight="bold">{escape(_cut(box.title))}</text>',
    ]
    for number, line in enumerate(box.lines[:2]):
        parts.append(
            f'<text x="{x + 8}" y="{y + 33 + 14 * number}" fill="#374151">{escape(_cut(line))}</text>'
        )
    return "".join(parts)


def _cut(text: str, most: int = 28) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
