"""Every move of the champion, kept as tags of the registered model, oldest first.

An entry is written before the alias moves, not yet done; afterwards it is marked as done. So after a crash
between the two the entry, the next one's `came_from` and the alias tell together what really happened.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from videollava.registry.refusals import is_missing
from videollava.scrub import scrub

__all__ = ["Move", "begin", "finish", "read_trail", "titles", "withdraw"]

ENTRY = "audit."
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Move:
    """One move of the champion, as the trail keeps it. Numbers are versions, 0: none.

    done: the alias moved; an entry that is not was cut short before.
    """

    action: str
    to: int
    came_from: int
    who: str
    when: str
    reasons: tuple[str, ...] = ()
    forced: bool = False
    done: bool = True


def begin(client: Any, model: str, move: Move) -> str:
    """Write down what is about to happen; the entry's name."""
    name = f"{ENTRY}{time.time_ns():020d}"
    client.set_registered_model_tag(model, name, record(replace(move, done=False)))
    return name


def finish(client: Any, model: str, entry: str, move: Move) -> None:
    """Mark an entry as done."""
    client.set_registered_model_tag(model, entry, record(replace(move, done=True)))


def withdraw(client: Any, model: str, entry: str) -> None:
    """Take back the entry of a move that was not made."""
    client.delete_registered_model_tag(model, entry)


def record(move: Move) -> str:
    """A move as one line of JSON."""
    return json.dumps({**asdict(move), "reasons": [scrub(reason) for reason in move.reasons]})


def read_trail(client: Any, model: str, live: int) -> list[Move]:
    """Every move, oldest first; `done` says whether it really took place, judged by what came after.

    live: the champion of now. Entries that cannot be read are left out, and named in the log.
    """
    from mlflow.exceptions import MlflowException

    try:
        tags = client.get_registered_model(model).tags
    except MlflowException as error:
        if is_missing(error):
            return []
        raise
    moves = []
    for name in sorted(name for name in tags if name.startswith(ENTRY)):
        move = _parse(tags[name])
        if move is None:
            log.warning(
                "trail of %s: entry %s cannot be read and is left out: %.80s", model, name, tags[name]
            )
        else:
            moves.append(move)
    after = [*(move.came_from for move in moves[1:]), live]
    return [
        move if move.done else replace(move, done=then == move.to != move.came_from)
        for move, then in zip(moves, after, strict=False)
    ]


def titles(moves: Sequence[Move], live: int) -> list[int]:
    """The champions so far as a stack, the live one on top: a promotion puts one on, a rollback takes off down to
    where its target last was.

    What every move came from, and what is live now, set right what the trail does not know: moves that were cut
    short, an alias moved by hand, entries that are gone.
    """
    stack: list[int] = []
    for move in moves:
        if not move.done:
            continue
        _settle(stack, move.came_from)
        if move.action == "rollback":
            below = stack[:-1]
            stack = [*below[: _last(below, move.to)], move.to] if move.to in below else [*below, move.to]
        else:
            _settle(stack, move.to, push=True)
    _settle(stack, live)
    return stack


def _settle(stack: list[int], live: int, push: bool = False) -> None:
    """Make `live` the top of the stack: what lies above it never was, or is over. 0: nobody was champion."""
    if not live or (stack and stack[-1] == live):
        return
    if live in stack and not push:
        del stack[_last(stack, live) + 1 :]
    else:
        stack.append(live)


def _last(stack: Sequence[int], number: int) -> int:
    return max(index for index, item in enumerate(stack) if item == number)


def _parse(text: str) -> Move | None:
    try:
        fields = json.loads(text)
        return Move(
            action=str(fields["action"]),
            to=int(fields["to"]),
            came_from=int(fields["came_from"]),
            who=str(fields.get("who", "")),
            when=str(fields.get("when", "")),
            reasons=tuple(map(str, fields.get("reasons") or ())),
            forced=bool(fields.get("forced", False)),
            done=bool(fields.get("done", True)),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
