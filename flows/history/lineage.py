"""`videollava lineage VERSION`: commit, parameters, data, bases, code, machine, scores, the gate's word, promotions."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.history.made import MadeStage
from flows.history.picture import STAGES, draw
from flows.history.story import Story, tell
from videollava.command import file_to_write
from videollava.gate import primary

__all__ = ["add_arguments", "as_json", "as_text", "run", "write_pages"]

Rows = Sequence[Sequence[str]]
SHORT = 12  # digits of a sum that are shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `videollava lineage`."""
    parser.add_argument(
        "version", metavar="VERSION", help="a number, an alias, models:/NAME/N, a tag model/NAME/N, a commit"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--picture", type=file_to_write, metavar="FILE", help="draw it too (.svg)")


def run(options: argparse.Namespace) -> int:
    """Print what the version is made of."""
    story = tell(Path.cwd(), options.version)
    if options.picture:
        options.picture.write_text(draw(story))
    print(json.dumps(as_json(story), indent=2) if options.json else as_text(story))
    return 0


def write_pages(root: Path, reference: str, folder: Path) -> list[Path]:
    """The story of a version as lineage.svg and lineage.json in `folder`."""
    story = tell(root, reference)
    picture, text = folder / "lineage.svg", folder / "lineage.json"
    picture.write_text(draw(story))
    text.write_text(json.dumps(as_json(story), indent=2))
    return [picture, text]


def as_json(story: Story) -> dict[str, Any]:
    """The story as plain values."""
    made = story.made.model_dump(mode="json") if story.made is not None else None
    version = story.version
    return {
        "reference": story.title,
        "name": story.name,
        "number": story.number,
        "aliases": list(version.aliases) if version is not None else [],
        "run": version.run_id if version is not None else (story.made.retraining_run if story.made else ""),
        "commit": story.commit,
        "ref": story.ref,
        "baseline": story.baseline,
        "changed": list(story.changed),
        "params": dict(story.params),
        "data": [asdict(data) for data in story.data],
        "bases": [asdict(base) for base in story.bases],
        "scores": {name: dict(scores) for name, scores in story.scores.items()},
        "decision": dict(story.decision),
        "moves": [asdict(move) for move in story.moves],
        "made": made,
        "lacks": list(story.lacks),
    }


def as_text(story: Story) -> str:
    """The story on a terminal: what is known, a line or a small table each; what is not known at the end."""
    aliases = "".join(f" @{alias}" for alias in story.version.aliases) if story.version else ""
    parts = [f"{story.title}{aliases}", *_heads(story)]
    for title, rows in (
        ("data", _data(story)),
        ("bases", [(base.stage, base.name, base.revision) for base in story.bases]),
        ("stages", _stages(story)),
        ("scores", _scores(story)),
        ("promoted", [_move(move) for move in story.moves]),
    ):
        if rows:
            parts += ["", title, *_aligned(rows)]
    parts += [f"lacks: {line}" for line in story.lacks]
    return "\n".join(parts)


def _heads(story: Story) -> Iterator[str]:
    if story.commit:
        yield f"commit      {story.commit[:SHORT]} ({story.ref or 'named by the registry alone'})"
        yield f"on          {story.baseline[:SHORT]} {story.subject}"
        code = (
            f"{len(story.changed)} files differ from it: {', '.join(story.changed[:5])}"
            if story.changed
            else ""
        )
        yield f"code        {code or 'as in that commit'}"
    elif story.version is not None:
        yield f"commit      {story.version.lineage.describe()}"
    if story.params:
        yield f"parameters  profile {story.params.get('profile', '?')}, seed {story.params.get('seed', 0)}"
    if (made := story.made) is not None:
        yield f"machine     {', '.join(_machine(made.machine))}; Python {made.python}"
        differing = [f"{name} {version or 'not installed'}" for name, version in made.packages.items()]
        yield f"packages    {'as pinned' if not differing else 'not as pinned: ' + ', '.join(differing)}"
        yield f"made by     {made.who or 'unknown'}, {sum(made.hours.values()):.2f} hours of all ranks"
        for one in made.accepted:
            yield f"accepted    {one.stage}: {one.because} ({one.who}, {one.when})"
    if story.decision:
        passed = "passed" if story.decision.get("passed") else "refused"
        yield f"gate        {passed}{_gate(story.decision)}"
        for reason in story.decision.get("reasons") or ():
            yield f"            {reason}"


def _machine(machine: Mapping[str, str]) -> Iterator[str]:
    for name in ("host", "gpus", "driver", "system"):
        if machine.get(name):
            yield machine[name]
    if machine.get("cores"):
        yield f"{machine['cores']} cores"


def _gate(decision: Mapping[str, Any]) -> str:
    rules = decision.get("rules")
    if not isinstance(rules, Mapping) or not rules.get("source"):
        return ""
    sha256 = str(rules.get("sha256") or "")
    return f" by gate.yaml of {rules['source']} (sha256 {sha256[:SHORT]})" if sha256 else " by the defaults"


def _data(story: Story) -> Rows:
    rows = [
        (
            data.name,
            data.kind,
            data.origin,
            f"{data.files:,}",
            f"{data.bytes / 1e6:,.1f} MB",
            data.sum[:SHORT] or "no sum",
            data.licence or "licence not stated",
        )
        for data in story.data
    ]
    return [("source", "kind", "from", "files", "size", "sum", "licence"), *rows] if rows else []


def _stages(story: Story) -> Rows:
    if story.made is None:
        return []
    rows = [
        (
            name,
            "" if stage.hours is None else f"{stage.hours:.3f}",
            str(stage.ranks or ""),
            stage.device,
            stage.host,
            stage.run[:SHORT],
            "; ".join(_remarks(stage)),
        )
        for name, stage in _ordered(story)
    ]
    return [("stage", "hours", "ranks", "device", "host", "run", ""), *rows]


def _remarks(stage: MadeStage) -> Iterator[str]:
    if stage.finished_early:
        yield f"finished early, {stage.finished_early}"
    if stage.went_on_from:
        yield f"went on from {stage.went_on_from}"
    if stage.came_from:
        yield f"restored, made in {stage.came_from[:SHORT]}"


def _ordered(story: Story) -> list[tuple[str, MadeStage]]:
    """Stages in the order of the pipeline."""
    assert story.made is not None
    place = {name: number for number, name in enumerate(("fetch", "shards", *STAGES))}
    return sorted(
        story.made.stages.items(), key=lambda item: place.get(item[0].partition("@")[0], len(place))
    )


def _scores(story: Story) -> Rows:
    rows = []
    for name, scores in story.scores.items():
        figure, blind = primary(scores), scores.get("blind_accuracy")
        rows.append(
            (
                name,
                "-" if figure is None else f"{figure:.2f}",
                f"{blind:.2f}" if isinstance(blind, int | float) else "-",
                str(scores.get("n", "")),
                " ".join(str(scores[key]) for key in ("judge", "judge_version") if scores.get(key)),
            )
        )
    return [("benchmark", "score", "blinded", "questions", "judge"), *rows] if rows else []


def _move(move: Any) -> Sequence[str]:
    forced = " (forced)" if move.forced else ""
    return (
        move.when,
        f"{move.action}{forced}",
        f"after {move.came_from or 'none'}",
        move.who,
        "; ".join(word for word in (*move.reasons, move.because) if word),
    )


def _aligned(rows: Rows) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
