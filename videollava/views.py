"""Questions of the present and the past, and a door for other systems: commands whose code lies above this package,
in flows/.

They are named by module and imported when one is called, as the stages are: nothing here knows git, DVC or Prefect.
A module gives `add_arguments(parser)` and `run(options)`, which returns the exit status.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module

from videollava.command import Arguments, Command

__all__ = ["VIEWS", "views"]

VIEWS = {
    "lineage": ("flows.history.lineage", "what a version is made of, how it was judged, who promoted it"),
    "diff": ("flows.history.diff", "what differs between two versions: parameters, data, code, answers"),
    "reproduce": (
        "flows.history.reproduce",
        "a version in a fresh folder, restored or made again, and a verdict",
    ),
    "retrainings": (
        "flows.history.retrainings",
        "all retrainings: when, who, what changed and ran, hours, cost, scores, gate",
    ),
    "save": ("flows.history.saving", "write what was retrained as a git commit beside the branch"),
    "accept": ("flows.history.accept", "let a stage's outputs stand for changed code that changes no result"),
    "status": (
        "flows.history.status",
        "each stage: current, or what it will run for; who made what is there",
    ),
    "gc": (
        "flows.history.gc",
        "what may be removed of DVC's cache and how large it is; removes it with --yes",
    ),
    "notify": (
        "flows.notify",
        "tell of a source that changed (an S3 event, a webhook's body), to be looked at by `sync`",
    ),
}


def views(words: Sequence[str]) -> dict[str, Command]:
    """The commands; only the one that `words` (the command line) names is imported."""
    chosen = next((word for word in words if not word.startswith("-")), "")
    return {name: _view(module, about, name == chosen) for name, (module, about) in VIEWS.items()}


def _view(module: str, about: str, chosen: bool) -> Command:
    def add(parser: argparse.ArgumentParser) -> None:
        if chosen:
            import_module(module).add_arguments(parser)

    def run(arguments: Arguments) -> int:
        return int(import_module(module).run(arguments) or 0)

    return Command(about, add, run)
