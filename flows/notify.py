"""`videollava notify`: the one door for other systems. Something changed: have `sync` look at the sources it touches.

What comes within a minute is one run for the same sources, which begins when the minute is over: so each change that
was told is there when they are looked at.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from flows.servers.server import find_standing
from flows.triggers.events import find_touched, read_body
from videollava.command import Arguments
from videollava.errors import InputError
from videollava.params import load_params

__all__ = ["add_arguments", "run"]

WINDOW = 60  # seconds
LARGEST = 1 << 20  # characters of a body: an event has a few thousand


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--source, --deployment; the body of an event comes from standard input."""
    parser.description = (
        "Have `sync` look at the sources that changed. Standard input may hold an event of S3 or a webhook's body; "
        "without one, and without --source, all sources are looked at."
    )
    parser.add_argument(
        "--source", action="append", default=[], metavar="NAME", help="of params.yaml; may be given again"
    )
    parser.add_argument(
        "--deployment", default="sync/team", metavar="FLOW/NAME", help="what looks (default: sync/team)"
    )


def run(arguments: Arguments) -> int:
    """Ask Prefect for a run of sync, and say which; nothing where no source is touched."""
    sources = load_params(Path("params.yaml")).sources
    body = "" if arguments.source else _read_input()
    names = [*arguments.source]
    if body:
        things = read_body(body)
        names = find_touched(sources, things)
        if not names:
            told = ", ".join(str(thing) for thing in things[:3])
            what = f"no source of params.yaml has {told}" if things else "a test message"
            print(f"nothing to look at: {what}")
            return 0
    for name in names:
        if name not in sources:
            raise InputError(f"params.yaml: sources: no {name!r}; there are: {', '.join(sources) or 'none'}")
    _ask(arguments.deployment, sorted(set(names)))
    return 0


def _ask(deployment: str, names: Sequence[str]) -> None:
    find_standing()
    from flows.triggers.runs import ask_for_run  # Prefect reads its settings when it is imported

    window = int(_now().timestamp()) // WINDOW + 1
    over = datetime.fromtimestamp(window * WINDOW, UTC)
    key = f"notify-{deployment}-{','.join(names)}-{window}"
    asked = ask_for_run(deployment, {"sources": list(names)}, key, over, "notified")
    what = "was asked for" if asked.new else "was asked for before and waits"
    print(f"{asked.name} {what}: at {over:%H:%M:%S} UTC it looks at {', '.join(names) or 'all sources'}")


def _now() -> datetime:
    return datetime.now(UTC)


def _read_input() -> str:
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    text = sys.stdin.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise InputError(f"standard input: more than {LARGEST:,} characters; an event is shorter")
    return text.strip()
