"""`videollava retrainings`: every retraining: when, who, what changed and ran, hours, cost, scores, the gate's word."""

from __future__ import annotations

import argparse
import json
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

from flows.history.past import Past, Retraining, read_past
from videollava.errors import InputError
from videollava.params import load_params

__all__ = ["add_arguments", "as_html", "as_page", "as_rows", "as_text", "run"]

HEADS = ("when", "version", "gate", "scores", "hours", "cost", "what changed", "what ran", "who", "commit")
SHORT = 12
WIDTH = 118
STYLE = (
    "body{font:13px sans-serif}td,th{padding:4px 8px;border-bottom:1px solid #ddd;text-align:left;"
    "vertical-align:top}"
)
SHOWN = 6  # changes of one retraining


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `videollava retrainings`."""
    parser.add_argument("--most", type=int, default=20, metavar="N", help="the newest N (20)")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(options: argparse.Namespace) -> int:
    """Print them."""
    if options.most < 1:
        raise InputError(f"--most {options.most}: at least 1")
    root = Path.cwd()
    past = read_past(root, load_params(root / "params.yaml"), options.most)
    if options.json:
        rows = [{name: value for name, value in asdict(row).items() if name != "params"} for row in past.rows]
        print(json.dumps({"retrainings": rows, "more": past.more, "lacks": past.lacks}, indent=2))
    else:
        print(as_text(past))
    return 0


def as_text(past: Past) -> str:
    """On a terminal: a line with figures, and below it what changed and what ran."""
    if not past.rows:
        lines = ["no retraining is known here yet; `make retrain` makes one"]
    else:
        heads = [_figures(row) for row in past.rows]
        widths = [max(map(len, column)) for column in zip(*heads, strict=True)]
        lines = []
        for head, row in zip(heads, past.rows, strict=True):
            cells = (cell.ljust(width) for cell, width in zip(head, widths, strict=True))
            lines += ["  ".join(cells).rstrip(), *_below(row)]
    if past.more:
        lines.append(f"and {past.more} older; --most shows more")
    return "\n".join([*lines, *(f"lacks: {line}" for line in past.lacks)])


def as_rows(past: Past) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Heads and rows of a table."""
    rows: list[Sequence[str]] = []
    for row in past.rows:
        when, version, gate, hours, cost, who, commit = _figures(row)
        scores = ", ".join(f"{name} {figure:.2f}" for name, figure in row.scores.items())
        word = "; ".join(filter(None, (gate, *row.promoted)))
        rows.append((when, version, word, scores, hours, cost, _changes(row), _ran(row), who, commit))
    return HEADS, rows


def as_page(past: Past) -> str:
    """As Markdown."""
    heads, rows = as_rows(past)
    lines = [heads, ["---"] * len(heads), *([_cell(cell) for cell in row] for row in rows)]
    told = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join([told, *(f"Lacks: {line}" for line in past.lacks)]) + "\n"


def as_html(past: Past, title: str) -> str:
    """A page that needs nothing else."""
    heads, rows = as_rows(past)
    cells = ["".join(f"<th>{escape(head)}</th>" for head in heads)]
    cells += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    table = "".join(f"<tr>{line}</tr>" for line in cells)
    lacks = "".join(f"<p>lacks: {escape(line)}</p>" for line in past.lacks)
    return (
        f'<!doctype html><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
        f"<h2>{escape(title)}</h2><table>{table}</table>{lacks}\n"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _figures(row: Retraining) -> Sequence[str]:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(row.when))
    aliases = "".join(f" @{alias}" for alias in row.aliases)
    hours = "" if row.hours is None else f"{row.hours:.2f} h" if row.hours >= 1 else f"{row.hours:.3f} h"
    commit = row.commit[:SHORT] or (f"on {row.baseline[:SHORT]}" if row.baseline else "")
    version = f"version {row.version}{aliases}" if row.version else "no version"
    return (when, version, _word(row), hours, _money(row.cost), row.who.partition(" <")[0], commit)


def _word(row: Retraining) -> str:
    if row.state != "done":
        return row.state
    return row.gate or ("" if row.ran else "nothing to do")


def _money(cost: Mapping[str, float]) -> str:
    return " + ".join(f"{amount:,.2f} {currency}" for currency, amount in cost.items())


def _changes(row: Retraining) -> str:
    more = f"; and {len(row.changed) - SHOWN} more" if len(row.changed) > SHOWN else ""
    return "; ".join(row.changed[:SHOWN]) + more or "nothing"


def _ran(row: Retraining) -> str:
    return ", ".join(row.ran) or "nothing"


def _below(row: Retraining) -> Iterator[str]:
    scores = ", ".join(f"{name} {figure:.2f}" for name, figure in row.scores.items())
    for title, text in (
        ("scores", scores),
        ("changed", _changes(row)),
        ("ran", _ran(row)),
        (row.gate or row.state, "; ".join(row.reasons)),
        ("champion", "; ".join(row.promoted)),
    ):
        if text:
            yield textwrap.fill(
                text,
                WIDTH,
                initial_indent=f"    {title:<9}",
                subsequent_indent=" " * 13,
                break_on_hyphens=False,
                break_long_words=False,
            )
