"""The trail as releases before the log kept it: tags `audit.*` of the registered model, one a move.

Read once, when the log begins (trail.py). An entry was written before the alias moved and marked as done afterwards;
what was cut short is told from what the next one came from.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["OldMove", "clear_locks", "read_old", "titles"]

ENTRY = "audit."
LOCK = ".promotion-lock."
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OldMove:
    """One entry. done: the alias moved."""

    action: str
    to: int
    came_from: int
    who: str
    when: str
    reasons: tuple[str, ...] = ()
    forced: bool = False
    done: bool = True


def read_old(tags: Mapping[str, str], live: int) -> list[OldMove]:
    """The moves that took place, oldest first. live: the champion of now. Entries that cannot be read are left out,
    and named in the log.
    """
    moves = []
    for name in sorted(name for name in tags if name.startswith(ENTRY)):
        move = _parse(tags[name])
        if move is None:
            log.warning("trail: entry %s cannot be read and is left out: %.80s", name, tags[name])
        else:
            moves.append(move)
    after = [*(move.came_from for move in moves[1:]), live]
    judged = [
        move if move.done else replace(move, done=then == move.to != move.came_from)
        for move, then in zip(moves, after, strict=False)
    ]
    return [move for move in judged if move.done]


def titles(moves: Sequence[OldMove], live: int) -> list[int]:
    """The champions so far as a stack, the live one on top: a promotion puts one on, a rollback takes off down to
    where its target last was.

    What every move came from, and what is live now, set right what the trail does not know: moves that were cut
    short, an alias moved by hand, entries that are gone.
    """
    stack: list[int] = []
    for move in moves:
        _settle(stack, move.came_from)
        if move.action == "rollback":
            below = stack[:-1]
            stack = [*below[: _last(below, move.to)], move.to] if move.to in below else [*below, move.to]
        else:
            _settle(stack, move.to, push=True)
    _settle(stack, live)
    return stack


def clear_locks(client: Any, model: str) -> None:
    """Remove the models that were locks of promotions, where a crash left one on MLflow's page."""
    for item in client.search_registered_models(f"name LIKE '{model}{LOCK}%'"):
        if item.name.removeprefix(f"{model}{LOCK}").isdecimal() and not item.latest_versions:
            client.delete_registered_model(item.name)


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


def _parse(text: str) -> OldMove | None:
    try:
        fields = json.loads(text)
        return OldMove(
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
