"""Two indexes side by side as a page: what was added, removed, changed, by source, with pictures of a few."""

from __future__ import annotations

from pathlib import Path

from videollava.data.versions.diff import KINDS, Diff
from videollava.evaluate.page import document, section, table, tag
from videollava.evaluate.pictures import Album
from videollava.evaluate.report_card import sample_lines

__all__ = ["write_diff"]

PICTURES = 2_000_000  # characters of pictures of each index
FRAMES = 4
SAME = "The same records about the same media, in the same splits."
NOTE = (
    "A record is known by its source and id; it changed where its text or its media's bytes did, and moved where only "
    "its split did. Media are known by their bytes, and belong to the source in whose shards they lie."
)


def write_diff(diff: Diff, target: Path) -> Path:
    """Write the page to `target`."""
    albums = {one.name: Album(one.root, FRAMES, PICTURES) for one in (diff.old, diff.new)}
    parts = [
        sample_lines(
            f"{one.what}: {one.source}, {one.before + ' to ' if one.before else ''}{one.split}: {one.id}",
            one.turns,
            one.media,
            albums[one.of.name],
        )
        for one in sorted(diff.examples, key=lambda one: (one.source, KINDS.index(one.what)))
    ]
    title = f"Data: {diff.old.name} to {diff.new.name}"
    counts = section(
        "counts", "By source", _counts(diff), tag("p", SAME if diff.same else NOTE, class_="note")
    )
    page = document(title, tag("header", tag("h1", title)), counts, section("some", "Some of them", *parts))
    target.parent.mkdir(parents=True, exist_ok=True)
    half = target.with_name(f"{target.name}.tmp")
    half.write_text(page, encoding="utf-8")
    half.replace(target)
    return target


def _counts(diff: Diff) -> str:
    heads = ("source", *(f"records {kind}" for kind in KINDS), "media added", "media removed")
    rows = [
        [
            name,
            *(f"{diff.records[name][kind]:,}" for kind in KINDS),
            *(f"{diff.media[name][kind]:,}" for kind in ("added", "removed")),
        ]
        for name in sorted({*diff.records, *diff.media})
    ]
    return table(heads, rows)
