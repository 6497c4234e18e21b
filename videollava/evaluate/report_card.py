"""The data card as a part of the report: sources and licences, lengths, what was left out, samples with pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from videollava.evaluate.page import Markup, clip, section, table, tag
from videollava.evaluate.pictures import Album

__all__ = ["card_part", "sample_lines"]

HEADS = ("source", "licence", "records", "media", "MiB", "quarantined", "forgotten")
LENGTHS = "Tokens of a record, visual ones included; the last columns count records with up to so many."
TEXT = 200


def card_part(card: Mapping[str, Any], album: Album) -> Markup:
    """A section; `card` as read_card gives it."""
    rows = [_source_row(name, told, card["forgotten"]) for name, told in card["sources"].items()]
    return section(
        "data",
        "Data card",
        table(HEADS, rows, texts=2),
        _reasons(card["sources"]),
        tag("h3", "Lengths"),
        _lengths(card["splits"]),
        tag("h3", "Samples"),
        *(
            sample_lines(f"{one['split']}, {one['source']}: {one['id']}", one["turns"], one["media"], album)
            for one in card["samples"]
        ),
    )


def sample_lines(
    title: str, turns: Sequence[Sequence[str]], media: Sequence[int | str], album: Album
) -> Markup:
    """A record: its media, and its first question and answer."""
    said = [tag("p", tag("b", f"{role}: "), clip(text, TEXT)) for role, text in turns]
    return tag("div", tag("p", tag("code", title)), *(album.picture(one) for one in media), *said)


def _source_row(name: str, told: Mapping[str, Any], forgotten: Mapping[str, Any]) -> list[str]:
    media = ", ".join(f"{count:,} {kind}" for kind, count in told["media"].items())
    return [
        name,
        told["licence"],
        f"{sum(told['records'].values()):,}",
        media or "0",
        f"{told['bytes'] / 2**20:,.1f}",
        f"{sum(told['quarantined'].values()):,}",
        f"{forgotten.get(name, {}).get('records', 0):,}",
    ]


def _reasons(sources: Mapping[str, Any]) -> Markup:
    rows = [
        [reason, name, what, f"{count:,}"]
        for name, told in sources.items()
        for key, what in (("quarantined", "records"), ("members_refused", "files"))
        for reason, count in told[key].items()
    ]
    if not rows:
        return tag("p", "Nothing was quarantined.", class_="note")
    return table(("left out because", "source", "of", "number"), rows, texts=3)


def _lengths(splits: Mapping[str, Any]) -> Markup:
    edges = sorted({edge for split in splits.values() for edge, _ in split["lengths"]})
    heads = ["split", "records", "median", "95 %", "most", *(f"to {edge:,}" for edge in edges)]
    rows = []
    for name, split in splits.items():
        counts = dict(split["lengths"])
        figures = [f"{split[key]:,}" for key in ("records", "median", "p95", "most")]
        rows.append([name, *figures, *(f"{counts.get(edge, 0):,}" for edge in edges)])
    return table(heads, rows, caption=LENGTHS)
