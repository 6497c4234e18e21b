"""`videollava finish [STAGE]`: a training ends after its step, and what it has learned until then is the result."""

from __future__ import annotations

import argparse
from pathlib import Path

from videollava.command import Arguments, Command
from videollava.ends import TRAINING
from videollava.errors import InputError

__all__ = ["FINISH", "TRAINING"]


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stage", nargs="?", choices=TRAINING, help="default: the one that is training")


def _run(arguments: Arguments) -> None:
    from videollava.train.ending import ask_to_finish

    workspace = Path.cwd()
    stage, identity, at_work = _find(workspace, arguments.stage)
    ask_to_finish(workspace, stage, identity)
    after = "after its step" if at_work else "as soon as it is started again, with what its checkpoint has"
    print(
        f"{stage}: ends {after}; what it has learned until then is its result, at the learning rate that its whole "
        "schedule has there"
    )


def _find(workspace: Path, named: str | None) -> tuple[str, str, bool]:
    """Stage, identity of its run, and whether it is at work, here or elsewhere. InputError where none is meant."""
    from videollava.tracking.journal import newest_run, seems_alive

    found = {}
    for stage in TRAINING:
        start, ended = newest_run(workspace / "runs", stage)
        if start and ended != "FINISHED":
            found[stage] = start["id"], not ended and seems_alive(start)
    if named:
        if named not in found:
            raise InputError(f"{named}: no run of it in {workspace} is under way, or waits to go on")
        return named, *found[named]
    at_work = [stage for stage, (_, works) in found.items() if works]
    if len(at_work) != 1:
        raise InputError(
            f"{' and '.join(at_work) or 'nothing'} is training in {workspace}: name the stage that is to end, or go to "
            "the folder that it trains in"
        )
    return at_work[0], *found[at_work[0]]


FINISH = Command("end a training after its step: what it has learned is the result", _add, _run)
