"""The picture of all differences, each with its interval over seeds and the seeds themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.claims.pooled import Pooled, Word

__all__ = ["Line", "draw"]

COLORS: dict[Word, str] = {
    "holds here": "#1a7f37",
    "does not hold here": "#cf222e",
    "no difference": "#0969da",
    "undecided": "#6e7781",
}


@dataclass(frozen=True)
class Line:
    """One contrast, its name on the left, its word on the right."""

    name: str
    found: Pooled
    word: Word


def draw(lines: Sequence[Line], file: Path) -> None:
    """Write an SVG, the same for the same lines."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "claims"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 0.8 + 0.45 * max(1, len(lines))))
    for height, line in enumerate(reversed(lines)):
        color, over, paired = COLORS[line.word], line.found.seeds, line.found.paired
        axes.plot(
            [paired.low, paired.high],
            [height, height],
            color=color,
            linewidth=7,
            alpha=0.25,
            solid_capstyle="butt",
        )
        if math.isfinite(over.low):
            axes.plot([over.low, over.high], [height, height], color=color, linewidth=1.5)
        seeds = list(line.found.by_seed.values())
        axes.plot(seeds, [height] * len(seeds), "o", color=color, markersize=3, alpha=0.6)
        axes.plot([over.value], [height], "D", color=color, markersize=6)
        axes.annotate(line.word, (1.01, height), xycoords=("axes fraction", "data"), va="center", color=color)
    axes.set_xlim(*_reach(lines))
    axes.axvline(0, color="#1f2328", linewidth=0.8)
    axes.set_yticks(range(len(lines)), [line.name for line in reversed(lines)])
    axes.set_ylim(-0.6, max(1, len(lines)) - 0.4)
    axes.set_xlabel(
        "points (diamond: mean; line, cut at the edge: 95% over seeds; band: 95% by questions; dots: seeds)"
    )
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)


def _reach(lines: Sequence[Line]) -> tuple[float, float]:
    """All seeds and bands by questions, and half as much again: of few seeds lines have no end worth showing."""
    ends = [0.0]
    for line in lines:
        ends += [*line.found.by_seed.values(), line.found.paired.low, line.found.paired.high]
    room = max(1.0, (max(ends) - min(ends)) / 2)
    return min(ends) - room, max(ends) + room
