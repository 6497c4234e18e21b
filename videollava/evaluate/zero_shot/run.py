"""Encoders on zero-shot benchmarks: vectors of the media, figures with intervals, metrics.json and a table.

In the target folder:
    vectors/<name>.<model>.parquet   the media's vectors (`videollava embed`'s table), so that an ended run goes on
    metrics.json             figures by benchmark, and whose they are
    table.md                 the same beside the paper's
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from videollava.embedding.classification import (
    average_precisions,
    class_ranks,
    class_vectors,
    draw_average_precisions,
)
from videollava.embedding.encoders import Encoders, Vectors, embed, similarity
from videollava.embedding.files import embed_files
from videollava.embedding.kinds import kind_of
from videollava.embedding.retrieval import KS, rank_all, summarise
from videollava.embedding.table import made_by
from videollava.embedding.templates import templates_for
from videollava.errors import InputError
from videollava.evaluate.statistics import bootstrap
from videollava.evaluate.zero_shot.layouts import Captioned, Labelled
from videollava.evaluate.zero_shot.sets import Chosen
from videollava.evaluate.zero_shot.table import format_table

__all__ = ["evaluate_zero_shot", "measure_classes", "measure_retrieval"]

SAMPLES = 2000  # draws of an interval; of mAP, which is no mean, a tenth of them
LEVEL = 0.95
NAMED = 20  # media that are named where they lack
Figures = dict[str, Any]
Say = Callable[[str], None]


def evaluate_zero_shot(
    encoders: Encoders, chosen: Sequence[Chosen], target: Path, batch: int = 32, say: Say = print
) -> str:
    """Measure each benchmark, write metrics.json and table.md below `target`, and give the table."""
    target.mkdir(parents=True, exist_ok=True)
    benchmarks: dict[str, Figures] = {}
    kinds: set[str] = set()
    for one in chosen:
        items = one.set.read(one.folder)
        kind = one.set.kind or kind_of(items.media[0])
        encoders.tower(kind)
        kinds.add(kind)
        say(f"{one.set.name}: {len(items.media)} media")
        items, vectors, unreadable = _vectors(
            encoders, items, kind, _own_table(encoders, one.set.name, kind, target / "vectors"), batch
        )
        if isinstance(items, Captioned):
            figures = _retrieve(encoders, items, vectors, batch)
        else:
            figures = _classify(encoders, items, vectors, kind)
        benchmarks[one.set.name] = {
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
        if lacking := len(items.absent) + len(unreadable):
            say(f"{one.set.name}: {lacking} media lack or cannot be read: left out, so figures are of fewer")
    made = asdict(made_by(encoders, kinds))
    made, benchmarks = _with_earlier(target / "metrics.json", made, benchmarks)
    _write(target / "metrics.json", json.dumps({"model": made, "benchmarks": benchmarks}, indent=1) + "\n")
    table = format_table(benchmarks)
    _write(target / "table.md", table + "\n")
    return table


def measure_retrieval(texts: Vectors, media: Vectors, owners: Sequence[int]) -> Figures:
    """Both directions of texts (T, D) and media (M, D), with intervals; owners: of each text the number of its medium.

    Intervals are by medium: its captions are drawn together, the gallery stays whole.
    """
    ranks = rank_all(texts, media, owners)
    several = len(owners) > len(media)
    directions = {
        "text_to_media": (ranks.text_to_media, owners),
        "media_to_text": (ranks.media_to_text, None),
    }
    if several:
        directions["media_to_caption"] = (ranks.media_to_caption, None)
    figures: Figures = {"headline": "text_to_media_r1", "texts": len(owners), "media": len(media)}
    figures["chance_r1"] = 100 / len(media)
    intervals: Figures = {}
    for name, (found, groups) in directions.items():
        figures |= {f"{name}_{key}": value for key, value in summarise(found).items()}
        for k in KS:
            intervals[f"{name}_r{k}"] = _interval(100.0 * (found <= k), groups)
        intervals[f"{name}_mean_rank"] = _interval(found, groups)
    return {**figures, "intervals": intervals}


def measure_classes(scores: Vectors, labels: Sequence[Sequence[int]], multi: bool = False) -> Figures:
    """Top-1 and top-5 of media (N, C) with one class each, or mAP where `multi`; with intervals, by medium."""
    counts: Figures = {"media": len(scores), "classes": scores.shape[1]}
    if multi:
        relevant = np.zeros(scores.shape, bool)
        for row, said in enumerate(labels):
            relevant[row, list(said)] = True
        value = 100 * float(np.nanmean(average_precisions(scores, relevant)))
        weights = np.random.default_rng(0).multinomial(
            len(scores), np.full(len(scores), 1 / len(scores)), SAMPLES // 10
        )
        drawn = 100 * np.nanmean(
            draw_average_precisions(scores, relevant, weights.astype(np.float64)), axis=1
        )
        low, high = np.quantile(drawn, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
        measured = int(relevant.any(0).sum())
        return {
            "headline": "map",
            "map": value,
            **counts,
            "classes_with_media": measured,
            "intervals": {"map": [float(low), float(high)]},
        }
    ranks = class_ranks(scores, [said[0] for said in labels])
    figures: Figures = {"headline": "top1", **counts, "chance_top1": 100 / scores.shape[1]}
    intervals = {}
    for k in (1, 5):
        right = 100.0 * (ranks <= k)
        figures[f"top{k}"], intervals[f"top{k}"] = float(right.mean()), _interval(right, None)
    return {**figures, "intervals": intervals}


def _interval(values: NDArray[Any], groups: Sequence[int] | None) -> list[float]:
    found = bootstrap(values.tolist(), groups, samples=SAMPLES, level=LEVEL)
    return [found.low, found.high]


def _retrieve(encoders: Encoders, items: Captioned, vectors: Vectors, batch: int) -> Figures:
    texts = [caption for said in items.captions for caption in said]
    owners = [number for number, said in enumerate(items.captions) for _ in said]
    return measure_retrieval(embed(encoders, texts=texts, batch=batch), vectors, owners)


def _classify(encoders: Encoders, items: Labelled, vectors: Vectors, kind: str) -> Figures:
    templates = templates_for(kind)
    scores = similarity(vectors, class_vectors(encoders, items.classes, templates))
    return {**measure_classes(scores, items.labels, items.multi), "templates": len(templates)}


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
