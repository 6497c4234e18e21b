"""Commands on registered versions: each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from videollava.command import Arguments, Command, folder_to_write

__all__ = ["REGISTRY"]


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--trail", action="store_true", help="every move of the champion instead")


def _run_models(arguments: Arguments) -> None:
    from dataclasses import asdict

    from videollava import registry
    from videollava.gate import primary
    from videollava.params import load_params

    tracking = load_params().tracking
    store = registry.open_store(Path.cwd(), tracking)
    if arguments.trail:
        _show_trail(registry.tell(Path.cwd(), tracking, store), arguments.json)
        return
    versions = registry.list_versions(Path.cwd(), tracking, store)
    if arguments.json:
        print(json.dumps([asdict(version) for version in versions], indent=2, default=dict))
        return
    for version in versions:
        scores = {name: primary(values) for name, values in version.metrics.items()}
        shown = "  ".join(f"{name} {score:.2f}" for name, score in scores.items() if score is not None)
        marks = f" [{', '.join(version.aliases)}]" if version.aliases else ""
        commit = f"commit {version.lineage.describe()}" if version.lineage.commit else ""
        commit = f"saved {version.saved[:12]}" if version.saved else commit  # what ran, edits and all
        told = [shown, commit, f"run {version.run_id[:12]}" if version.run_id else "", *version.remarks]
        print("  ".join([f"{version.reference}{marks}", *(word for word in told if word)]))
    if not versions:
        print("no versions yet; `make retrain` makes one")
        return
    story = registry.tell(Path.cwd(), tracking, store)
    if story.moves:
        print(f"\n{_dated(story.moves[-1])}  (--trail shows all {len(story.moves)})")
    for ask in story.asks:
        print(_dated(ask))


def _show_trail(story: Any, as_json: bool) -> None:
    from dataclasses import asdict

    moves = [*story.moves, *story.asks]
    if as_json:
        print(json.dumps([asdict(move) for move in moves], indent=2))
        return
    for move in moves:
        print(_dated(move))
    if not moves:
        print("no version was ever champion; `videollava promote` makes one")


def _dated(move: Any) -> str:
    from videollava import registry

    return f"{move.when}  {registry.sentence(move)}"


def _add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("version", nargs="?", default="", help="a number, or the newest")
    parser.add_argument("--force", action="store_true", help="past the gate; wants --because")
    parser.add_argument("--because", default="", metavar="TEXT", help="why; the trail keeps it")


def _run_promote(arguments: Arguments) -> int:
    from videollava import registry
    from videollava.params import load_params

    params = load_params()
    outcome = registry.promote(
        Path.cwd(), params, arguments.version, arguments.force, because=arguments.because
    )
    decision, move, request, _ = outcome
    print(decision.table())
    for reason in (*decision.reasons, *decision.notes):
        print(f"- {reason}")
    print(registry.result_of(outcome))
    if made := move or request:
        _tell(params.tracking, made, decision)
    return 0 if decision.passed or move or request else 1


def _add_rollback(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("version", nargs="?", default="", help="a number; default: the champion before")
    parser.add_argument("--because", default="", metavar="TEXT", help="why; the trail keeps it")


def _run_rollback(arguments: Arguments) -> None:
    from videollava import registry
    from videollava.params import load_params

    tracking = load_params().tracking
    move = registry.rollback(Path.cwd(), tracking, arguments.version, arguments.because)
    print(f"champion: version {move.to} (was {move.came_from or 'none'})")
    _tell(tracking, move)


def _tell(tracking: Any, move: Any, decision: Any = None) -> None:
    from videollava.registry import news

    for trouble in news.announce(Path.cwd(), tracking, news.moved(Path.cwd(), tracking, move, decision)):
        print(trouble, file=sys.stderr)


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("version", help="a number, an alias, models:/NAME/3 or models:/NAME@champion")
    parser.add_argument("folder", type=folder_to_write, help="a new or empty folder")


def _run_export(arguments: Arguments) -> None:
    from videollava.params import Tracking, load_params
    from videollava.registry.whole.export import export

    file = Path("params.yaml")
    tracking = load_params(file).tracking if file.is_file() else Tracking()
    for note in export(arguments.version, arguments.folder, Path.cwd(), tracking):
        print(f"note: {note}", file=sys.stderr)
    size = sum(path.stat().st_size for path in arguments.folder.rglob("*") if path.is_file())
    print(f"{arguments.folder}: {size / 2**20:,.1f} MiB; README.md says how to load it")


REGISTRY = {
    "models": Command("registered versions: aliases, scores, lineage", _add_models, _run_models),
    "promote": Command("make a version champion, if the gate lets it", _add_version, _run_promote),
    "rollback": Command("make the previous champion champion again", _add_rollback, _run_rollback),
    "export": Command(
        "a version as a folder that needs no registry and no network", _add_export, _run_export
    ),
}
