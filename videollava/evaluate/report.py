"""The evaluation's one page: scores, curves, how the data were split, questions with their pictures.

The same input gives the same bytes: the page bears no date, and what is shown of many follows from ids. Input are also
the journals (runs/): a model that is trained anew took another time.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from videollava.data.modalities import KINDS
from videollava.data.prepare.tables import base_split
from videollava.data.toy import scenes as toy
from videollava.data.versions.card import CARD, read_card
from videollava.embedding.zero_shot.sets import PAPER
from videollava.errors import InputError
from videollava.evaluate.charts import curve_chart, read_curve
from videollava.evaluate.compare import title_of
from videollava.evaluate.page import Markup, document, join, section, table, tag
from videollava.evaluate.pictures import Album
from videollava.evaluate.report_card import card_part
from videollava.evaluate.report_cost import cost_part
from videollava.evaluate.report_samples import sample_cards
from videollava.evaluate.report_scores import (
    Scored,
    answer_notes,
    chart,
    kinds_part,
    paper_tables,
    score_all,
    score_notes,
    score_table,
    tiles,
)
from videollava.evaluate.results import Results, read_metrics, read_results
from videollava.evaluate.zero_shot.table import tables
from videollava.params import Params
from videollava.tracking.lineage import lock_entry, read_lineage

__all__ = ["write_report"]

RETRIEVAL = ("text_to_{}_r1", "{}_to_text_r1", "{}_chance_r1")
HEADLINES = {"top1": "top-1", "map": "mAP", "text_to_media_r1": "text to media R@1"}
STAGES = ("bases", "align", "pretrain", "finetune")
PICTURES = 2_000_000  # characters of pictures in the page
SAMPLES = 48  # of all benchmarks, in groups of at most MOST
MOST = 8
SHORT = 12  # digits of a hash
CONTAMINATION = (
    "Media are compared byte for byte; texts by their words, nearly the same being four fifths of the pairs of "
    "neighbouring words. Common questions are in every training set; only the same text about the same medium gives "
    "an answer away."
)
HELD_OUT = " Splits that end in -valid were held out of training, to measure its loss on."
EASY_VQA = (
    "easy-VQA's own split, as it is published, image by image: training images are asked about in training "
    "only, test images in the test only, all{questions} questions of its test set."
)


def write_report(
    workspace: Path,
    params: Params,
    metrics: Mapping[str, Any],
    target: Path,
    champion: Path | None = None,
    lineage: Mapping[str, str] | None = None,
    left_out: str = "",
) -> Path:
    """Write the report of the evaluation in `target`'s folder (its predictions/) to `target`, an HTML file.

    Args:
        workspace: where data/index, plots/ and the lineage are.
        metrics: as in metrics.json.
        champion: the champion's evaluation folder, to compare with.
        lineage: names and texts for the page's head; default: what the workspace says of itself.
        left_out: what was asked for and not done, with the reason.

    Raises:
        InputError: no predictions, a line of them or of a curve cannot be read, or a benchmark has no score.
            A champion that cannot be compared fairly is no error: the page says why.
    """
    results = read_results(target.parent, metrics)
    before = read_results(champion) if champion else None
    scores = score_all(metrics, results, before, read_metrics(champion) if champion else None)
    album = Album(workspace, params.model.frames, PICTURES)
    compared = before is not None
    card = read_card(workspace, params) if (workspace / CARD).is_file() else None
    parts = [
        _head(params, scores, _lineage(workspace) if lineage is None else lineage, card),
        _scores(scores, compared, metrics),
        _kinds(scores, results),
        *_encoders(target.parent, left_out),
        _curves(workspace),
        _split(workspace, params, results, target.parent),
        _samples(scores, results, before or {}, album),
        *([card_part(card, album)] if card else []),
    ]
    page = document(f"Video-LLaVA evaluation: {params.profile}", *parts)
    aside = target.with_name(target.name + ".tmp")
    aside.write_text(page, encoding="utf-8")
    os.replace(aside, target)
    return target


def _head(
    params: Params, scores: Sequence[Scored], lineage: Mapping[str, str], card: Mapping[str, Any] | None
) -> Markup:
    facts = {"profile": params.profile, "seed": str(params.seed), **lineage}
    lines = [tag("div", tag("dt", name), tag("dd", tag("code", text))) for name, text in facts.items()]
    links = {"scores": "Scores", "kinds": "By kind", "curves": "Training", "split": "Split"}
    links |= {"samples": "Samples"} | ({"data": "Data"} if card else {})
    return tag(
        "header",
        tag("h1", "Video-LLaVA evaluation"),
        tag("dl", *lines, class_="facts"),
        tiles(scores),
        tag("nav", *(tag("a", name, href=f"#{key}") for key, name in links.items())),
    )


def _lineage(workspace: Path) -> dict[str, str]:
    """Only what a rerun finds again: dvc.lock's hash, for one, changes with the run itself."""
    found = read_lineage(workspace)
    outs = lock_entry(workspace, "finetune").get("outs") or ()
    model = next((out.get("md5", "") for out in outs if out.get("path") == "models/videollava"), "")
    facts = {"commit": found.describe(SHORT) if found.commit else "", "parameters": found.params[:SHORT]}
    facts |= {"data": found.data[:SHORT], "model": model[:SHORT]}
    return {name: text or "not recorded" for name, text in facts.items()}


def _scores(scores: Sequence[Scored], compared: bool, metrics: Mapping[str, Any]) -> Markup:
    lacking = [note for one in scores for note in answer_notes(one, metrics[one.benchmark])]
    notes = [tag("p", note, class_="note") for note in (*score_notes(scores, compared), *lacking)]
    published = paper_tables(scores)
    beside = [tag("h3", "Beside the paper's tables"), published] if published else []
    return section("scores", "Scores", chart(scores), score_table(scores, compared), *notes, *beside)


def _kinds(scores: Sequence[Scored], results: Mapping[str, Results]) -> Markup:
    parts = [kinds_part(one, results[one.benchmark]) for one in scores if one.benchmark in results]
    shown = [part for part in parts if part]
    return section(
        "kinds", "By kind of question", *(shown or [tag("p", "No kinds are given.", class_="note")])
    )


def _encoders(folder: Path, left_out: str) -> list[Markup]:
    """The encoders by themselves: retrieval and classification, the paper's figures beside them."""
    file = folder / "zero_shot/metrics.json"
    if left_out:
        return [section("encoders", "Encoders by themselves", tag("p", left_out, class_="note"))]
    if not file.is_file():
        return []
    shown = tables(json.loads(file.read_text())["benchmarks"])
    note = tag("p", f"Intervals of 95%, by medium. paper: {PAPER}, of the published encoders.", class_="note")
    return [section("encoders", "Encoders by themselves", *(table(head, rows) for head, rows in shown), note)]


def _curves(workspace: Path) -> Markup:
    files = {stage: workspace / "plots" / f"{stage}.csv" for stage in STAGES}
    charts = [curve_chart(read_curve(file)) for file in files.values() if file.is_file()]
    missing = [stage for stage, file in files.items() if not file.is_file()]
    note = tag("p", f"No curve of {', '.join(missing)}.", class_="note") if missing else ""
    asked = (_retrieval(workspace), _zero_shot(workspace))
    parts = [tag("div", *charts, class_="charts"), note, *asked, cost_part(workspace)]
    return section("curves", "Training", *parts)


def _retrieval(workspace: Path) -> Markup:
    """What was measured on held-out pairs while encoders were aligned."""
    found = [
        [kind, row["step"], *(_percent(row[key.format(kind)]) for key in RETRIEVAL)]
        for kind, row in _rows_of_align(workspace, "{}.csv")
    ]
    heads = ("media", "step of align", "text to media R@1", "media to text R@1", "chance")
    return table(heads, found, caption="Held-out pairs while encoders learned, in %") if found else Markup("")


def _zero_shot(workspace: Path) -> Markup:
    """What zero-shot sets gave while encoders were aligned: of each the figure that stands for it."""
    found = [
        [kind, row["step"], name, HEADLINES[figure], f"{float(value):.1f}"]
        for kind, row in _rows_of_align(workspace, "zero_shot/{}.csv")
        for (name, _, figure), value in ((key.rpartition("."), value) for key, value in row.items())
        if figure in HEADLINES and value
    ]
    heads = ("media", "step of align", "set", "figure", "%")
    return table(heads, found, caption="Zero-shot sets while encoders learned") if found else Markup("")


def _rows_of_align(workspace: Path, name: str) -> Iterator[tuple[str, dict[str, str]]]:
    for kind in KINDS:
        file = workspace / "plots/align" / name.format(kind)
        if file.is_file():
            with file.open(newline="", encoding="utf-8") as stream:
                yield from ((kind, row) for row in csv.DictReader(stream))


def _percent(share: str) -> str:
    return f"{100 * float(share):.1f}" if share else ""


def _split(workspace: Path, params: Params, results: Mapping[str, Results], folder: Path) -> Markup:
    """How training and test data are kept apart, source by source, with counts of the prepared data."""
    lines = []
    for source in params.sources.values():
        if source.kind == "generated":
            lines.append(tag("p", tag("b", f"{source.name}: "), toy.describe_split(source.sized)))
        elif source.format == "easy-vqa":
            asked = len(results["easy_vqa"].answers) if "easy_vqa" in results else 0
            text = EASY_VQA.format(questions=f" {asked:,}" if asked else "")
            lines.append(tag("p", tag("b", f"{source.name}: "), text))
        else:
            text = "used for training only; benchmarks bring their own questions and media."
            lines.append(tag("p", tag("b", f"{source.name}: "), text))
    return section("split", "How the split is made", *lines, _counts(workspace), _contamination(folder))


def _contamination(folder: Path) -> Markup:
    """What of the benchmarks is in the training data, by benchmark."""
    file = folder / "contamination.json"
    found = json.loads(file.read_text()) if file.is_file() else {}
    if not found:
        return tag(
            "p",
            "Whether training data hold the benchmarks' media or questions was not checked.",
            class_="note",
        )
    heads = ("benchmark", "media", "in training", "questions", "same text in training", "nearly the same")
    rows = [
        [
            title_of(name),
            f"{counts['of_media']:,}",
            f"{counts['media']:,}",
            f"{counts['of_questions']:,}",
            f"{counts['questions']:,}",
            f"{counts['near']:,}",
            f"{counts['both']:,}",
        ]
        for name, counts in found.items()
    ]
    return join([table((*heads, "same text, same medium"), rows), tag("p", CONTAMINATION, class_="note")])


def _counts(workspace: Path) -> Markup:
    file = workspace / "data/index/summary.json"
    if not file.is_file():
        return tag("p", "The prepared data left no summary.", class_="note")
    try:
        summary = json.loads(file.read_text())
        rows = [
            [name, *(f"{counts[key]:,}" for key in ("records", "images", "videos", "target_tokens"))]
            for name, counts in summary["splits"].items()
        ]
        near, quarantined = summary["left_out"]["near_a_test"], summary["quarantined"]["records"]
        cut = sum(counts.get("cut_records", 0) for counts in summary["splits"].values())
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file}: not what index writes ({error!r}); run `videollava index` again"
        ) from error
    heads = ("split", "records", "images", "videos", "answer tokens")
    note = (
        "Samples left out of training since a test asks about their media, or media like them: "
        f"{sum(near.values()):,}. "
        f"Records quarantined while preparing: {quarantined:,}."
        f"{f' Samples whose text was cut at its end: {cut:,}.' if cut else ''}"
        f"{HELD_OUT if any(name != base_split(name) for name in summary['splits']) else ''}"
    )
    return join([table(heads, rows), tag("p", note, class_="note")])


def _samples(
    scores: Sequence[Scored], results: Mapping[str, Results], champion: Mapping[str, Results], album: Album
) -> Markup:
    shown = [one for one in scores if one.benchmark in results]
    groups = sum(4 if one.contrast else 2 for one in shown)
    count = max(1, min(MOST, SAMPLES // max(1, groups)))
    parts: list[str] = [
        sample_cards(results[one.benchmark], champion.get(one.benchmark), one.contrast, album, count)
        for one in shown
    ]
    absent = [one.title for one in scores if one.benchmark not in results]
    if absent:
        parts.append(tag("p", f"No predictions of {', '.join(absent)} are at hand.", class_="note"))
    if album.left_out:
        parts.append(tag("p", f"{album.left_out} pictures are left out for the page's size.", class_="note"))
    if album.refused:
        reason = album.problem.replace(f"{album.workspace}{os.sep}", "")
        parts.append(tag("p", f"{album.refused} media have no picture; the first: {reason}", class_="note"))
    return section("samples", "Samples", *parts)
