"""The data card: what an index holds, in figures and a few samples; written beside it as card.json.

sources    by name: media and bytes in its shards, records by split, what of it was quarantined and why
splits     by name: records, and how long they are: of tokens `median`, `p95`, `most`, and `lengths`, records with up to
           so many tokens each
samples    some of each split: who says what about which media
forgotten  what locks/forgotten.txt took out, by source

It is told from the index alone, so that it changes with it and with nothing else. Licences are none of it: correcting
one is no reason to train again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videollava.data.prepare.tables import MEDIA, load_split, open_table, split_names

__all__ = ["CARD", "write_card"]

CARD = "card.json"
SAMPLES = 3  # of a split
TEXT = 300  # characters of a sample's question and answer
FIRST_EDGE = 16  # tokens: the edges of lengths double from here


def write_card(folder: Path) -> None:
    """Write the card of an index that is otherwise complete."""
    summary = json.loads((folder / "summary.json").read_text())
    tables = {name: load_split(folder, name) for name in split_names(folder)}
    card = {
        "sources": _tell_sources(folder, tables, summary["quarantined"]),
        "splits": {name: _tell_lengths(table) for name, table in tables.items()},
        "samples": [sample for name, table in tables.items() for sample in _pick(name, table)],
        "forgotten": summary.get("forgotten", {}),
    }
    (folder / CARD).write_text(json.dumps(card, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def _tell_sources(folder: Path, tables: Mapping[str, Any], quarantined: Mapping[str, Any]) -> dict[str, Any]:
    media = _count_media(folder)
    records: dict[str, dict[str, int]] = {}
    for split, table in tables.items():
        for counted in table.column("source").value_counts().to_pylist():
            records.setdefault(counted["values"], {})[split] = counted["counts"]
    names = {*media, *records, *quarantined["by_source"], *quarantined["members"]}
    return {
        name: {
            "bytes": media.get(name, Counter()).pop("bytes", 0),
            "media": media.get(name, {}),
            "records": records.get(name, {}),
            "quarantined": quarantined["by_source"].get(name, {}),
            "members_refused": quarantined["members"].get(name, {}),
        }
        for name in sorted(names)
    }


def _count_media(folder: Path) -> dict[str, Counter[str]]:
    """By source, how many media of a kind lie in its shards, and their bytes."""
    shards = json.loads((folder / "shards.json").read_text())
    table = open_table(folder / MEDIA).select(["shard", "kind", "size"])
    found: dict[str, Counter[str]] = {shard["source"]: Counter() for shard in shards}
    for row in table.group_by(["shard", "kind"]).aggregate([("size", "count"), ("size", "sum")]).to_pylist():
        counts = {row["kind"]: row["size_count"], "bytes": row["size_sum"]}
        found[shards[row["shard"]]["source"]].update(counts)
    return found


def _tell_lengths(table: Any) -> dict[str, Any]:
    import numpy as np

    tokens = table.column("tokens").to_numpy()
    most = int(tokens.max(initial=0))
    edges = [FIRST_EDGE]
    while edges[-1] < most:
        edges.append(2 * edges[-1])
    counts = np.bincount(np.searchsorted(edges, tokens), minlength=len(edges)).tolist()
    median, p95 = (
        (int(value) for value in np.percentile(tokens, (50, 95), method="higher")) if most else (0, 0)
    )
    lengths = [[edge, count] for edge, count in zip(edges, counts, strict=True)]
    return {"records": table.num_rows, "median": median, "p95": p95, "most": most, "lengths": lengths}


def _pick(split: str, table: Any) -> list[dict[str, Any]]:
    """Some records, spread over the split."""
    count = min(SAMPLES, table.num_rows)
    rows = [
        table.slice(table.num_rows * place // count, 1)
        .select(["id", "source", "conversations", "media"])
        .to_pylist()[0]
        for place in range(count)
    ]
    return [
        {
            **{name: row[name] for name in ("id", "source", "media")},
            "split": split,
            "turns": [[role, text[:TEXT]] for role, text in json.loads(row["conversations"])[:2]],
        }
        for row in rows
    ]
