"""Encoders on zero-shot benchmarks: vectors of the media, figures with intervals, metrics.json and a table.

In the target folder:
    vectors/<name>.<model>.parquet   the media's vectors (`videollava embed`'s table), so that an ended run goes on
    predictions/<name>.jsonl  a row a query: what it found first
    metrics.json             figures by benchmark, and whose they are
    table.md                 the same beside the paper's
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq

from videollava.embedding.classification import class_vectors
from videollava.embedding.encoders import Encoders, Vectors, embed, similarity
from videollava.embedding.files import embed_files
from videollava.embedding.kinds import kind_of
from videollava.embedding.table import made_by
from videollava.embedding.templates import templates_for
from videollava.embedding.zero_shot.layouts import Captioned, Labelled
from videollava.embedding.zero_shot.pairs import read_pairs
from videollava.embedding.zero_shot.sets import PAIRS, Chosen, read_items
from videollava.errors import InputError
from videollava.evaluate.answers import write_lines
from videollava.evaluate.zero_shot.figures import (
    Figures,
    Row,
    measure_classes,
    measure_retrieval,
    rows_of_classes,
    rows_of_retrieval,
)
from videollava.evaluate.zero_shot.pairs import measure_pairs
from videollava.evaluate.zero_shot.table import format_table

__all__ = ["evaluate_zero_shot", "measure_sets"]

NAMED = 20  # media that are named where they lack
SHORT = 16  # digits of a medium's sum in a row
Say = Callable[[str], None]


def evaluate_zero_shot(
    encoders: Encoders, chosen: Sequence[Chosen], target: Path, batch: int = 32, say: Say = print
) -> str:
    """Measure each benchmark, write metrics.json, predictions and table.md below `target`, and give the table."""
    benchmarks: dict[str, Figures] = {}
    for name, figures, rows in measure_sets(encoders, chosen, target, batch, say):
        benchmarks[name] = figures
        if rows:
            write_lines(rows, target / "predictions" / f"{name}.jsonl")
    kinds = {kind for one in benchmarks.values() if (kind := one.get("modality"))}
    made = asdict(made_by(encoders, kinds))
    made, benchmarks = _with_earlier(target / "metrics.json", made, benchmarks)
    _write(target / "metrics.json", json.dumps({"model": made, "benchmarks": benchmarks}, indent=1) + "\n")
    table = format_table(benchmarks)
    _write(target / "table.md", table + "\n")
    return table


def measure_sets(
    encoders: Encoders, chosen: Sequence[Chosen], target: Path, batch: int = 32, say: Say = print
) -> Iterator[tuple[str, Figures, list[Row]]]:
    """Name, figures and rows of each; pairs of data/index are several. Vectors of files are kept below `target`."""
    target.mkdir(parents=True, exist_ok=True)
    for one in chosen:
        if one.set.task == PAIRS:
            pairs = read_pairs(one.folder, one.set.name)
            for name, (figures, rows) in measure_pairs(encoders, pairs, one.folder, batch, say).items():
                yield name, _told(figures, rows), rows
            continue
        items = read_items(one)
        kind = one.set.kind or kind_of(items.media[0])
        encoders.tower(kind)
        say(f"{one.set.name}: {len(items.media)} media")
        items, vectors, unreadable = _vectors(
            encoders, items, kind, _own_table(encoders, one.set.name, kind, target / "vectors"), batch
        )
        if isinstance(items, Captioned):
            figures, rows = _retrieve(encoders, items, vectors, kind, batch)
        else:
            figures, rows = _classify(encoders, items, vectors, kind)
        if lacking := len(items.absent) + len(unreadable):
            say(f"{one.set.name}: {lacking} media lack or cannot be read: left out, so figures are of fewer")
        told = {
            "task": one.set.task,
            "modality": kind,
            **figures,
            **({"paper": one.set.paper} if one.set.paper is not None else {}),
            "absent": len(items.absent),
            "unreadable": len(unreadable),
            **(
                {"lacking": [*items.absent, *(path for path, _ in unreadable)][:NAMED]}
                if items.absent or unreadable
                else {}
            ),
        }
        yield one.set.name, _told(told, rows), rows


def _told(figures: Figures, rows: Sequence[Row]) -> Figures:
    """With what every benchmark tells: n, chance, and a hash of what was asked about which media."""
    chance = figures.get("chance", figures.get("chance_r1", figures.get("chance_top1")))
    found = {**figures, "n": len(rows) or figures["media"]}
    if chance is not None:
        found["chance"] = chance
    if rows:
        asked = sorted(
            json.dumps([r["question_id"], r["question"], r["answer"], r["media_sums"]]) for r in rows
        )
        found["questions"] = hashlib.sha256("\n".join(asked).encode()).hexdigest()
    for row in rows:
        row["media_sums"] = [digest[:SHORT] for digest in row["media_sums"]]
    return found


def _retrieve(
    encoders: Encoders, items: Captioned, vectors: Vectors, kind: str, batch: int
) -> tuple[Figures, list[Row]]:
    captions = [caption for said in items.captions for caption in said]
    owners = [number for number, said in enumerate(items.captions) for _ in said]
    texts = embed(encoders, texts=captions, batch=batch)
    names, sums = [file.name for file in items.media], [_sum(file) for file in items.media]
    places = [str(file) for file in items.media]
    rows = rows_of_retrieval(texts, vectors, owners, captions, names, places, sums, f"text → {kind}")
    return measure_retrieval(texts, vectors, owners), rows


def _classify(encoders: Encoders, items: Labelled, vectors: Vectors, kind: str) -> tuple[Figures, list[Row]]:
    templates = templates_for(kind)
    scores = similarity(vectors, class_vectors(encoders, items.classes, templates))
    figures = {**measure_classes(scores, items.labels, items.multi), "templates": len(templates)}
    places, sums = [str(file) for file in items.media], [_sum(file) for file in items.media]
    return figures, rows_of_classes(scores, items.labels, items.classes, places, sums, kind)


def _sum(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _vectors(
    encoders: Encoders, items: Captioned | Labelled, kind: str, table: Path, batch: int
) -> tuple[Captioned | Labelled, Vectors, list[tuple[str, str]]]:
    """The media's vectors, and the items without those that cannot be read."""
    table.parent.mkdir(parents=True, exist_ok=True)
    rows = list(dict.fromkeys((str(file), kind) for file in items.media))
    done = embed_files(encoders, rows, table, add=table.exists(), batch=batch)
    found = pq.read_table(table)
    flat = found.column("vector").combine_chunks().flatten().to_numpy().reshape(-1, encoders.dim)
    named = zip(found.column("path").to_pylist(), found.column("kind").to_pylist(), strict=True)
    places = {row: place for place, row in enumerate(named)}
    kept = [number for number, file in enumerate(items.media) if (str(file), kind) in places]
    vectors = flat[[places[(str(items.media[number]), kind)] for number in kept]]
    media = [items.media[number] for number in kept]
    if isinstance(items, Captioned):
        if len(kept) < 2:
            raise InputError(f"{items.media[0].parent}: {len(kept)} media can be read: a gallery needs two")
        return Captioned(media, [items.captions[n] for n in kept], items.absent), vectors, done.unreadable
    labels = [items.labels[number] for number in kept]
    return Labelled(media, labels, items.classes, items.absent, items.multi), vectors, done.unreadable


def _own_table(encoders: Encoders, name: str, kind: str, folder: Path) -> Path:
    """Where these encoders' vectors of a benchmark lie; those of others are removed."""
    whose = hashlib.sha256(f"{encoders.space}{encoders.tower(kind).hash}".encode()).hexdigest()[:12]
    table = folder / f"{name}.{whose}.parquet"
    for other in folder.glob(f"{name}.*"):
        if not other.name.startswith(table.name):
            shutil.rmtree(other) if other.is_dir() else other.unlink()
    return table


def _with_earlier(
    file: Path, made: Figures, benchmarks: dict[str, Figures]
) -> tuple[Figures, dict[str, Figures]]:
    """What is told with what the file tells of other benchmarks, where it is of the same encoders."""
    try:
        told = json.loads(file.read_text())
        old, earlier = told["model"], told["benchmarks"]
        whose = {kind: encoder["hash"] for kind, encoder in old["encoders"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        return made, benchmarks
    ours = {kind: encoder["hash"] for kind, encoder in made["encoders"].items()}
    if old.get("space") != made["space"] or any(whose.get(kind, of) != of for kind, of in ours.items()):
        return made, benchmarks
    return {**made, "encoders": {**old["encoders"], **made["encoders"]}}, {**earlier, **benchmarks}


def _write(file: Path, text: str) -> None:
    aside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    aside.write_text(text)
    os.replace(aside, file)
