"""Zero-shot figures as tables of Markdown, LanguageBind's own beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from videollava.embedding.zero_shot.sets import PAPER

__all__ = ["format_table", "tables"]

DIRECTIONS = {
    "text_to_media": "text -> {}",
    "media_to_text": "{} -> text",
    "media_to_caption": "{} -> caption",
}
RETRIEVAL = (
    "benchmark",
    "direction",
    "queries",
    "R@1",
    "R@5",
    "R@10",
    "median rank",
    "mean rank",
    "paper R@1",
)
ACROSS = ("benchmark", "direction", "queries", "R@1", "R@5", "R@10", "chance R@1")
CLASSES = ("benchmark", "media", "classes", "figure", "top-5", "chance", "paper")


Table = tuple[Sequence[str], list[list[str]]]


def format_table(benchmarks: Mapping[str, Mapping[str, Any]]) -> str:
    """Retrieval, from kind to kind, and classification: percentages with their 95% intervals, and what they mean."""
    parts = [_table(head, rows) for head, rows in tables(benchmarks)]
    parts.append(f"Intervals of 95%, by medium. paper: {PAPER}, of the published encoders.")
    return "\n\n".join(parts)


def tables(benchmarks: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Heads and rows of each table that there is anything for."""
    rows: dict[str, list[list[str]]] = {"retrieval": [], "across": [], "classification": []}
    for name, one in benchmarks.items():
        made = {"retrieval": _both, "across": _across, "classification": _class}[one["task"]]
        rows[one["task"]] += made(name, one)
    heads = {"retrieval": RETRIEVAL, "across": ACROSS, "classification": CLASSES}
    return [(heads[task], found) for task, found in rows.items() if found]


def _across(name: str, one: Mapping[str, Any]) -> list[list[str]]:
    found = []
    for direction, figures in one["directions"].items():
        low, high = figures["interval_r1"]
        shares = [f"{figures[f'r{k}']:.1f}" for k in (5, 10)]
        cells = [name, direction, str(figures["queries"]), f"{figures['r1']:.1f} [{low:.1f}, {high:.1f}]"]
        found.append([*cells, *shares, f"{figures['chance_r1']:.2f}"])
    return found


def _both(name: str, one: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for key, words in DIRECTIONS.items():
        if f"{key}_r1" not in one:
            continue
        queries = one["texts"] if key == "text_to_media" else one["media"]
        shares = [_with_interval(one, f"{key}_r{k}") for k in (1, 5, 10)]
        paper = one.get("paper") if key == "text_to_media" else None
        rows.append(
            [
                name,
                words.format(one["modality"]),
                str(queries),
                *shares,
                f"{one[f'{key}_median_rank']:g}",
                f"{one[f'{key}_mean_rank']:.1f}",
                "-" if paper is None else f"{paper:.1f}",
            ]
        )
    return rows


def _class(name: str, one: Mapping[str, Any]) -> list[list[str]]:
    headline = one["headline"]
    cells = [
        name,
        str(one["media"]),
        str(one["classes"]),
        f"{'mAP' if headline == 'map' else 'top-1'} {_with_interval(one, headline)}",
        _with_interval(one, "top5") if "top5" in one else "-",
        f"{one['chance_top1']:.1f}" if "chance_top1" in one else "-",
        f"{one['paper']:.1f}" if "paper" in one else "-",
    ]
    return [cells]


def _with_interval(one: Mapping[str, Any], key: str) -> str:
    low, high = one["intervals"][key]
    return f"{one[key]:.1f} [{low:.1f}, {high:.1f}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
