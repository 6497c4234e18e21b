"""The command `videollava data`: what is done with sources and their index; each imports what it needs when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from videollava.command import Arguments, Command

__all__ = ["DATA"]


def _nothing(parser: argparse.ArgumentParser) -> None:
    pass


def _run_join(arguments: Arguments) -> None:
    from videollava.data.prepare.listed import benchmark_sources, join_params
    from videollava.params import load_params

    params = load_params()
    told = "now reads" if join_params(Path.cwd(), params) else "reads"
    print(f"dvc.yaml: stage index {told} the shards of {', '.join(params.sources) or 'no source'}")
    if named := benchmark_sources(params):
        print(f"dvc.yaml: stage evaluate {told} what was fetched of {', '.join(named)}")


ACTIONS = {
    "join": Command("have dvc.yaml's stage index read the sources of params.yaml", _nothing, _run_join),
}


def _add(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, action in ACTIONS.items():
        action.add(actions.add_parser(name, help=action.about, description=action.about))


def _run(arguments: Arguments) -> int | None:
    return ACTIONS[arguments.action].run(arguments)


DATA = Command("sources and what became of them: join", _add, _run)
