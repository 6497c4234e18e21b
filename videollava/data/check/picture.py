"""A picture of lengths: how many records are how long, and where training cuts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Bar", "bars_of", "draw"]

WIDTH, HEIGHT, EDGE = 720, 280, 44
COUNT = 24  # bars, at most
BLOCKS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True)
class Bar:
    """Records of `low` to below `high` tokens."""

    low: int
    high: int
    count: int

    def as_blocks(self, most: int, width: int = 30) -> str:
        """A bar of characters, `most` records filling the width."""
        eighths = math.ceil(8 * width * self.count / max(1, most))
        return BLOCKS[8] * (eighths // 8) + (BLOCKS[eighths % 8] if eighths % 8 else "")


def bars_of(lengths: Mapping[int, int], most: int = COUNT) -> list[Bar]:
    """Bars of one width, a round number of tokens, over all lengths."""
    if not lengths:
        return []
    low, high = min(lengths), max(lengths)
    width = _round_up((high - low + 1) / most)
    start = low // width * width
    counts = [0] * ((high - start) // width + 1)
    for length, count in lengths.items():
        counts[(length - start) // width] += count
    return [
        Bar(start + place * width, start + (place + 1) * width, count) for place, count in enumerate(counts)
    ]


def draw(bars: Sequence[Bar], title: str, bounds: Mapping[str, int]) -> str:
    """The bars as SVG; bounds: tokens at which a line stands, by name, where they lie within."""
    low, high = (bars[0].low, bars[-1].high) if bars else (0, 1)
    most = max((bar.count for bar in bars), default=1)

    def across(tokens: float) -> float:
        return EDGE + (tokens - low) / max(1, high - low) * (WIDTH - 2 * EDGE)

    def up(count: float) -> float:
        return HEIGHT - EDGE - count / most * (HEIGHT - 2 * EDGE)

    parts = [_text(EDGE, 24, title, size=15)]
    for bar in bars:
        left, wide = across(bar.low), across(bar.high) - across(bar.low)
        parts.append(
            f'<rect x="{left:.1f}" y="{up(bar.count):.1f}" width="{max(1.0, wide - 1):.1f}" '
            f'height="{HEIGHT - EDGE - up(bar.count):.1f}" fill="#4269d0">'
            f"<title>{bar.low:,} to {bar.high - 1:,} tokens: {bar.count:,} records</title></rect>"
        )
    parts.append(f'<path d="M{EDGE} {HEIGHT - EDGE}H{WIDTH - EDGE}" stroke="#666"/>')
    for tokens in sorted({low, (low + high) // 2, high}):
        parts.append(_text(across(tokens), HEIGHT - EDGE + 18, f"{tokens:,}", anchor="middle"))
    parts.append(_text(WIDTH - EDGE, HEIGHT - 8, "tokens", anchor="end"))
    parts.append(_text(EDGE - 6, up(most) + 4, f"{most:,}", anchor="end"))
    for name, tokens in bounds.items():
        if low <= tokens <= high:
            place = across(tokens)
            line = f'<path d="M{place:.1f} {EDGE}V{HEIGHT - EDGE}" stroke="#ff725c" stroke-dasharray="5 4"/>'
            parts += [line, _text(place - 4, EDGE + 10, f"{name} {tokens:,}", anchor="end")]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" aria-label="{escape(title)}" font-family="sans-serif">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>{"".join(parts)}</svg>\n'
    )


def _text(across: float, down: float, words: str, *, size: int = 12, anchor: str = "start") -> str:
    return (
        f'<text x="{across:.1f}" y="{down:.1f}" font-size="{size}" text-anchor="{anchor}" fill="#222">'
        f"{escape(words)}</text>"
    )


def _round_up(width: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50, ..."""
    size = 10 ** max(0, math.floor(math.log10(max(1.0, width))))
    return next(size * digit for digit in (1, 2, 5, 10) if size * digit >= width)
