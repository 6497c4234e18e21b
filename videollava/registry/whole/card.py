"""A model card: what a version was made of, how it scores and where it fails, what it took, how it is asked.

All of it is read from what a retraining left: metrics.json, evaluation/, the data card, locks/models, the journals.
What is not known is said to be unknown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from videollava.data.versions.card import CARD, read_card
from videollava.errors import InputError
from videollava.evaluate.results import read_results
from videollava.gate import primary
from videollava.params import Params
from videollava.scrub import scrub
from videollava.tracking.lineage import Lineage, locked_input_key, read_graph, stage_key
from videollava.tracking.spent import find_journal, read_spent

__all__ = ["card_of", "ranges_of", "short_card"]

LIMITS = """\
- Answers are text that is likely, not checked: it may name what is not there. Nothing here tests for harm or bias.
- It has learned what the data above hold, in their languages; the scores say nothing of other media or questions.
- A picture is seen at {image} x {image} pixels, a video as {frames} frames of {video} x {video}: smaller or briefer \
things are not seen. Sound is not heard.
- A question with its media and the answer have {positions:,} positions in all."""
COUNTED = {
    "missing_media": "lack their medium, and count as wrong",
    "unasked": "were not answered, and count as wrong",
    "cut_answers": "have an answer that ends where the model's positions do",
    "invalid": "have a judge's reply that could not be read",
    "unjudged": "were not judged",
}
REASONS = 8  # of a quarantine, the most frequent


Ranges = Mapping[str, tuple[float, float]]


def card_of(
    workspace: Path,
    params: Params,
    metrics: Mapping[str, Any],
    ranges: Ranges,
    lineage: Lineage,
    config: Mapping[str, Any],
) -> str:
    """The card in Markdown. ranges: as `ranges_of` gives them. config: the model's config.json."""
    parts = {
        f"{params.tracking.model}: a Video-LLaVA model": _about(lineage, params),
        "Scores": _scores(metrics, ranges),
        "Data": _data(workspace, params),
        "Known problems": _problems(workspace, params, metrics),
        "Limits": [_limits(config)],
        "What training starts from": _bases(workspace, params),
        "What it took": _spent(workspace),
    }
    text = "\n\n".join(
        f"{'#' if place == 0 else '##'} {title}\n\n" + "\n".join(lines)
        for place, (title, lines) in enumerate(parts.items())
    )
    return scrub(text) + "\n"


def short_card(workspace: Path, params: Params, metrics: Mapping[str, Any], ranges: Ranges) -> str:
    """The card in a line or two, as a version's description."""
    told = [
        f"{name} {score:.2f}{_range(ranges.get(name))}"
        for name, values in metrics.items()
        if (score := primary(values)) is not None
    ]
    sources = ", ".join(_card(workspace, params).get("sources", {}))
    return scrub(", ".join(told) + (f"\nData: {sources}. Card: artifacts/card.md" if sources else ""))


def _about(lineage: Lineage, params: Params) -> list[str]:
    return [
        "One language model that answers questions about images and videos, both projected into one space.",
        "",
        f"- Made by commit {lineage.describe()}, profile {params.profile}, seed {params.seed}",
        f"- Parameters {lineage.params[:12]}, data {lineage.data or 'unknown'} (DVC's hash of data/index)",
        f"- Ask it: `videollava ask QUESTION --image FILE --model models:/{params.tracking.model}/N`, or "
        f"`mlflow.pyfunc.load_model`: it brings its own code",
    ]


def _scores(metrics: Mapping[str, Any], ranges: Ranges) -> list[str]:
    rows = []
    for name, values in metrics.items():
        headline = str(values.get("headline", "accuracy"))
        blind, score = values.get(f"blind_{headline}"), primary(values)
        told = "-" if score is None else f"{score:.2f}{_range(ranges.get(name))}"
        figures = [told, *("-" if v is None else f"{v:.2f}" for v in (blind, values.get("chance")))]
        rows.append([name, headline, str(values.get("n", "-")), *figures, str(values.get("judge", "-"))])
    if not rows:
        return ["Nothing was scored."]
    heads = ("benchmark", "measure", "questions", "score [95 % interval]", "blinded", "by chance", "judge")
    note = "Blinded: each medium replaced by the mean of its kind; what is left of the score needs no eyes."
    return [*_table(heads, rows), "", note]


def ranges_of(workspace: Path, metrics: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """95 % intervals of the benchmarks whose score is the mean over the answers in evaluation/."""
    folder = workspace / "evaluation"
    if not (folder / "predictions").is_dir():
        return {}
    try:
        found = read_results(folder, metrics)
    except InputError:  # the evaluation is not here, or of another kind
        return {}
    told = {}
    for name, results in found.items():
        score = primary(metrics.get(name))
        if score is not None and results.answers and abs(results.score.value - score) < 0.01:
            told[name] = (results.score.low, results.score.high)
    return told


def _range(interval: tuple[float, float] | None) -> str:
    return f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else ""


def _card(workspace: Path, params: Params) -> dict[str, Any]:
    kept = workspace / "evaluation" / "card.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text()))
    return read_card(workspace, params) if (workspace / CARD).is_file() else {}


def _data(workspace: Path, params: Params) -> list[str]:
    card = _card(workspace, params)
    if not card:
        return ["Unknown: the data card (data/index/card.json) was not here when the version was made."]
    rows = []
    for name, told in card["sources"].items():
        records = ", ".join(f"{count:,} {split}" for split, count in told["records"].items())
        media = ", ".join(f"{count:,} {kind}" for kind, count in told["media"].items())
        rows.append([name, told.get("licence", "not stated"), records or "none", media or "none"])
    return _table(("source", "licence", "records by split", "media"), rows)


def _problems(workspace: Path, params: Params, metrics: Mapping[str, Any]) -> list[str]:
    card = _card(workspace, params)
    lines = [*_left_out(card), *_overlaps(card)]
    for name, values in metrics.items():
        lines += [
            f"- {name}: {values[key]:,} questions {words}"
            for key, words in COUNTED.items()
            if values.get(key)
        ]
    return lines or ["None was found by the checks of data and evaluation."]


def _left_out(card: Mapping[str, Any]) -> Iterator[str]:
    for name, told in card.get("sources", {}).items():
        for key, what in (("quarantined", "records"), ("members_refused", "files")):
            reasons = sorted(told.get(key, {}).items(), key=lambda item: -item[1])
            for reason, count in reasons[:REASONS]:
                yield f"- {name}: {count:,} {what} left out: {reason}"
            if rest := sum(count for _, count in reasons[REASONS:]):
                yield f"- {name}: {rest:,} {what} left out for other reasons"
    for name, told in card.get("forgotten", {}).items():
        yield f"- {name}: {told['media']:,} media with {told['records']:,} records taken out on request"


def _overlaps(card: Mapping[str, Any]) -> Iterator[str]:
    for name, found in card.get("overlap", {}).items():
        if found.get("media") or found.get("both"):
            yield (
                f"- {name}: {found['media']:,} of its {found['of_media']:,} media are trained on, "
                f"{found['both']:,} of its {found['of_questions']:,} questions with their medium"
            )


def _limits(config: Mapping[str, Any]) -> str:
    vision, video, text = (config.get(f"{part}_config") or {} for part in ("vision", "video", "text"))
    figures = {
        "image": vision.get("image_size"),
        "video": video.get("image_size"),
        "frames": video.get("num_frames"),
        "positions": text.get("max_position_embeddings"),
    }
    known = all(isinstance(value, int) for value in figures.values())
    return LIMITS.format(**figures) if known else "\n".join(LIMITS.splitlines()[:2])


def _bases(workspace: Path, params: Params) -> list[str]:
    """By name and what the name meant; folders without their place on the machine."""
    lines = []
    for part in ("model", "language", "image_encoder", "video_encoder"):
        name = getattr(params.bases, part)
        if name:
            shown = Path(name).name if name.startswith(("/", "~")) else name
            revision = _revisions(workspace).get(name, "")
            lines.append(f"- {part.replace('_', ' ')}: {shown}{f' at {revision}' if revision else ''}")
    learned = "- What is not named here was learned from nothing, on the data above."
    note = "- The licence of a base named here binds this model too: see the base's own page."
    foreign = [line for line in lines if not line.endswith(": train")]
    shown_lines = [
        line.replace(": train", ": a Llama trained here on the texts of the data") for line in lines
    ]
    return [*shown_lines, learned, *([note] if foreign else [])]


def _revisions(workspace: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in sorted((workspace / "locks" / "models").glob("*.json")):
        found |= json.loads(file.read_text())
    return found


def _spent(workspace: Path) -> list[str]:
    rows, sums, gone = [], {"GPU": 0.0, "process": 0.0}, []
    for stage in read_graph(workspace):
        journal = find_journal(
            workspace, stage, locked_input_key(workspace, stage), stage_key(workspace, stage)
        )
        if journal is None:
            gone.append(stage)
            continue
        spent = read_spent(journal)
        kind = "GPU" if spent.on_gpus else "process"
        sums[kind] += spent.hours
        rows.append([stage, f"{spent.hours:.3g} {kind}-hours", str(spent.attempts)])
    if not rows:
        return ["Unknown: the journals of its stages are not here."]
    total = " and ".join(f"{hours:.3g} {kind}-hours" for kind, hours in sums.items() if hours)
    lacking = f" Not recorded here: {', '.join(gone)}." if gone else ""
    note = f"{total or 'No time'} in all, of every rank and attempt.{lacking} What an hour costs is the owner's to say."
    return [*_table(("stage", "hours", "attempts"), rows), "", note]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [heads, ["---"] * len(heads), *rows]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in cells]
