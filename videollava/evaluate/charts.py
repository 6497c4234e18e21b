"""Charts as inline SVG: scores on a line from nothing to everything, and curves over training steps.

Widths are percent or stretched, words are HTML beside the drawing, so a chart stays legible on a phone.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from videollava.errors import InputError
from videollava.evaluate.page import Markup, join, tag
from videollava.evaluate.statistics import Interval

__all__ = ["Curve", "Marks", "curve_chart", "read_curve", "score_chart"]

WIDTH, HEIGHT = 1000, 300  # drawing units of a curve; stretched to fit
POINTS = 300  # of a curve drawn, at most
LOG_FROM = 10.0  # a loss that falls by this factor is drawn on a log scale
SMOOTHED = 25  # a curve is averaged over about one part in so many
DIAMOND = "M0-6 6 0 0 6-6 0z"


@dataclass(frozen=True)
class Marks:
    """What one line of a score chart shows, 0 to `full`; None: not measured."""

    name: str
    ours: Interval
    blind: float | None = None
    chance: float | None = None
    champion: float | None = None
    full: float = 100.0


@dataclass(frozen=True)
class Curve:
    """A training curve; `skipped` rows had no finite loss. held_out: (step, loss) where it was measured."""

    name: str
    steps: tuple[int, ...]
    loss: tuple[float, ...]
    rate: tuple[float, ...]
    skipped: int = 0
    held_out: tuple[tuple[int, float], ...] = ()


def score_chart(lines: Sequence[Marks]) -> Markup:
    """Scores with their intervals beside the blinded model, chance and the champion."""
    parts = [join([tag("span", line.name), _score_line(line)]) for line in lines]
    axis = tag("span", *(tag("span", f"{share}%") for share in (0, 25, 50, 75, 100)), class_="axis")
    legend = [_legend(_disc(50, "ours"), "this model, 95% interval")]
    if any(line.blind is not None for line in lines):
        legend.append(_legend(_disc(50, "blind"), "the same model blinded"))
    if any(line.chance is not None for line in lines):
        legend.append(_legend(_tick(50), "chance"))
    if any(line.champion is not None for line in lines):
        legend.append(_legend(_diamond(50), "champion"))
    chart = tag("div", *parts, tag("span", class_="gap"), axis, class_="dots")
    return tag("figure", chart, tag("figcaption", *legend, class_="legend"))


def read_curve(file: Path) -> Curve:
    """Read plots/<stage>.csv: step, loss, learning_rate; and plots/<stage>/held_out.csv, where it is. InputError names
    line and column.
    """
    steps: list[int] = []
    losses: list[float] = []
    rates: list[float] = []
    skipped = 0
    with file.open(newline="", encoding="utf-8") as stream:
        rows = csv.DictReader(stream)
        for number, row in enumerate(rows, start=2):
            try:
                step, loss = int(row["step"]), float(row["loss"] or "nan")
                rate = float(row.get("learning_rate") or "nan")
            except (KeyError, ValueError, TypeError) as error:
                raise InputError(
                    f"{file}: line {number}: needs a whole step and a number as loss ({error}); "
                    "run the stage again"
                ) from error
            if not math.isfinite(loss):
                skipped += 1
                continue
            steps.append(step)
            losses.append(loss)
            rates.append(rate)
    aside = _read_held_out(file.with_suffix("") / "held_out.csv")
    return Curve(file.stem, tuple(steps), tuple(losses), tuple(rates), skipped, aside)


def _read_held_out(file: Path) -> tuple[tuple[int, float], ...]:
    if not file.is_file():
        return ()
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            found = [(int(row["step"]), float(row["held_out_loss"])) for row in csv.DictReader(stream)]
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{file}: needs whole steps and numbers as held_out_loss ({error}); run the stage again"
        ) from error
    return tuple((step, loss) for step, loss in found if math.isfinite(loss))


def curve_chart(curve: Curve) -> Markup:
    """Loss over steps, as it was and smoothed, that of held-out samples dotted; the learning rate dashed, on a scale of
    its own.
    """
    if not curve.steps:
        return tag("figure", tag("h3", curve.name), tag("p", "No step has a finite loss.", class_="note"))
    smooth = _smooth(curve.loss)
    aside = [loss for _, loss in curve.held_out]
    log = min(*curve.loss, *aside, math.inf) > 0 and max(smooth) > LOG_FROM * min(smooth)
    scale = _Scale.of([*curve.loss, *aside], log)
    marks = scale.ticks()
    rules = [_line(0, scale.height(mark), WIDTH, scale.height(mark), "rule") for mark in marks]
    labels = [
        tag("span", f"{mark:g}", style=f"top:{scale.height(mark) / HEIGHT * 100:.1f}%") for mark in marks
    ]
    ends = curve.steps[0], curve.steps[-1]
    raw = _path(curve.steps, [scale.height(v) for v in curve.loss], "raw", ends)
    line = _path(curve.steps, [scale.height(v) for v in smooth], "smooth", ends)
    held = [step for step, _ in curve.held_out]
    dots = _path(held, [scale.height(v) for v in aside], "held", ends) if held else ""
    peak = max((rate for rate in curve.rate if math.isfinite(rate)), default=0.0)
    rate = _rate_path(curve, peak) if peak > 0 else ""
    drawing = _svg(*rules, rate, raw, line, dots, label=f"loss of {curve.name} over {len(curve.steps)} steps")
    axis = tag("div", *(tag("span", f"step {s}") for s in ends), class_="steps")
    plot = tag("div", drawing, *labels, class_="plot")
    caption = tag("figcaption", _caption(curve, smooth, log, peak))
    return tag("figure", tag("h3", curve.name), caption, plot, axis, class_="chart")


@dataclass(frozen=True)
class _Scale:
    """Losses to heights, in drawing units from the top."""

    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, values: Sequence[float], log: bool) -> _Scale:
        low, high = (min(values), max(values)) if log else (min(0.0, *values), max(values))
        if high <= low:
            low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
        return cls(low, high, log)

    def height(self, value: float) -> float:
        at = (self._of(value) - self._of(self.low)) / (self._of(self.high) - self._of(self.low))
        return HEIGHT * (0.96 - 0.92 * at)

    def ticks(self) -> list[float]:
        """At most six round numbers within."""
        if not self.log:
            step = _round_step((self.high - self.low) / 4)
            first = math.ceil(self.low / step)
            return [round(n * step, 12) for n in range(first, math.floor(self.high / step) + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1, 2, 5), (1, 3), (1,)):
            marks = [float(f"{digit}e{decade}") for decade in decades for digit in digits]
            within = [mark for mark in marks if self.low <= mark <= self.high]
            if len(within) <= 6:
                return within
        return within[:: math.ceil(len(within) / 6)]

    def _of(self, value: float) -> float:
        return math.log(value) if self.log else value


def _round_step(step: float) -> float:
    size = 10.0 ** math.floor(math.log10(step))
    return next(digit * size for digit in (1, 2, 5, 10) if digit * size >= step * (1 - 1e-9))


def _smooth(values: Sequence[float]) -> list[float]:
    """An exponential average that is not drawn to zero at its start."""
    kept = 1 - 2 / (max(1.0, len(values) / SMOOTHED) + 1)
    smooth, total, weight = [], 0.0, 0.0
    for value in values:
        total = kept * total + (1 - kept) * value
        weight = kept * weight + (1 - kept)
        smooth.append(total / weight)
    return smooth


def _path(steps: Sequence[int], heights: Sequence[float], style: str, ends: tuple[int, int]) -> Markup:
    """A line through the points, or through averages of neighbours where there are more than POINTS. ends: the steps at
    the drawing's left and right.
    """
    span = max(1, ends[1] - ends[0])
    size = math.ceil(len(steps) / POINTS)
    points = []
    for start in range(0, len(steps), size):
        x = sum(steps[start : start + size]) / len(steps[start : start + size])
        y = sum(heights[start : start + size]) / len(heights[start : start + size])
        points.append(f"{(x - ends[0]) / span * WIDTH:.1f} {y:.1f}")
    return tag("path", d="M" + "L".join(points), class_=style)


def _rate_path(curve: Curve, peak: float) -> Markup:
    known = [
        (s, HEIGHT * (0.96 - 0.92 * r / peak))
        for s, r in zip(curve.steps, curve.rate, strict=True)
        if math.isfinite(r)
    ]
    ends = curve.steps[0], curve.steps[-1]
    return _path([step for step, _ in known], [height for _, height in known], "rate", ends)


def _caption(curve: Curve, smooth: Sequence[float], log: bool, peak: float) -> str:
    parts = [f"{len(curve.steps):,} steps, smoothed loss {smooth[0]:.3g} → {smooth[-1]:.3g}"]
    if curve.held_out:
        parts.append(f"dotted: held out, {curve.held_out[0][1]:.3g} → {curve.held_out[-1][1]:.3g}")
    if log:
        parts.append("log scale")
    if peak > 0:
        parts.append(f"dashed: learning rate, peak {peak:.2g}")
    if curve.skipped:
        parts.append(f"{curve.skipped} without a finite loss")
    return ", ".join(parts)


def _score_line(line: Marks) -> Markup:
    def place(value: float) -> float:
        return min(100.0, max(0.0, 100 * value / line.full))

    parts: list[str] = [_percent_line(0, 100, "rule")]
    said = [f"{line.ours.value:.2f}"]
    parts.append(_percent_line(place(line.ours.low), place(line.ours.high), "band"))
    if line.chance is not None:
        parts.append(_tick(place(line.chance)))
        said.append(f"chance {line.chance:.2f}")
    if line.blind is not None:
        parts.append(_disc(place(line.blind), "blind"))
        said.append(f"blinded {line.blind:.2f}")
    if line.champion is not None:
        parts.append(_diamond(place(line.champion)))
        said.append(f"champion {line.champion:.2f}")
    parts.append(_disc(place(line.ours.value), "ours"))
    return tag("svg", *parts, role="img", aria_label=f"{line.name}: {', '.join(said)}")


def _legend(mark: str, words: str) -> Markup:
    return tag("span", tag("svg", mark, aria_hidden="true"), words)


def _disc(percent: float, style: str) -> Markup:
    return tag("circle", cx=f"{percent:.2f}%", cy="50%", r="5", class_=style)


def _tick(percent: float) -> Markup:
    return tag("line", x1=f"{percent:.2f}%", x2=f"{percent:.2f}%", y1="15%", y2="85%", class_="chance")


def _diamond(percent: float) -> Markup:
    shape = tag("path", d=DIAMOND, class_="champion")
    return tag("svg", shape, x=f"{percent:.2f}%", y="50%", overflow="visible", width="1", height="1")


def _percent_line(start: float, stop: float, style: str) -> Markup:
    return tag("line", x1=f"{start:.2f}%", x2=f"{stop:.2f}%", y1="50%", y2="50%", class_=style)


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return tag("line", x1=f"{x1:g}", y1=f"{y1:.1f}", x2=f"{x2:g}", y2=f"{y2:.1f}", class_=style)


def _svg(*children: str, label: str) -> Markup:
    view = f"0 0 {WIDTH} {HEIGHT}"
    # SVG's own names for these have capitals, which keyword arguments keep.
    return tag("svg", *children, viewBox=view, preserveAspectRatio="none", role="img", aria_label=label)
