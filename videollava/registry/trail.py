"""What the log (ledger.py) tells: every move of the champion, who is champion, who was before, who asked for what.

The trail decides; the aliases `champion` and `previous` follow it (aliases.py).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from videollava.registry.ledger import Log, Record, append, begin_log, read_log
from videollava.registry.old_trail import clear_locks, read_old, titles
from videollava.registry.refusals import is_missing
from videollava.scrub import scrub

__all__ = [
    "ASK",
    "OUTSIDE",
    "PROMOTE",
    "ROLLBACK",
    "SETTING",
    "SETTLED",
    "TAKEN_OVER",
    "Move",
    "Story",
    "as_line",
    "begin",
    "now",
    "one_line",
    "read_story",
    "sentence",
    "write",
]

PROMOTE, ROLLBACK, OUTSIDE, TAKEN_OVER, ASK = "promote", "rollback", "moved outside", "taken over", "ask"
# Notes on a move's record (aliases.py says what for): an alias may yet be set to it; the alias has stood at it.
NONE: Mapping[str, str] = {}
SETTING, SETTLED = "setting.", "settled"
OLD = "old_moves"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Move:
    """One move of the champion, or (`ask`) the wish for one. Numbers are versions, 0: none.

    reasons: the gate's. because: a person's. decision: hash of the gate's decision. asked_by: who asked, where another
    person agreed. number: its record in the trail, 0 for one of an earlier release.
    """

    action: str
    to: int
    came_from: int
    who: str
    when: str
    reasons: tuple[str, ...] = ()
    forced: bool = False
    because: str = ""
    decision: str = ""
    asked_by: str = ""
    number: int = 0


@dataclass(frozen=True)
class Story:
    """The whole trail. stack: champions, the live one on top where there is one. record: the last move's, None where
    the trail is not begun. asks: requests since the last move; lapsed: the newest of each version before it.
    """

    log: Log
    moves: tuple[Move, ...] = ()
    champion: int = 0
    stack: tuple[int, ...] = ()
    record: Record | None = None
    asks: tuple[Move, ...] = ()
    lapsed: Mapping[int, Move] = field(default_factory=dict)

    @property
    def before(self) -> tuple[int, ...]:
        """The champions before the one of now, the last of them last."""
        return self.stack[:-1] if self.champion else self.stack

    def asked(self, version: int) -> Move | None:
        """The request that waits for this version."""
        return next((ask for ask in reversed(self.asks) if ask.to == version), None)


def read_story(client: Any, model: str) -> Story:
    """The trail as it is. Where it was never begun: what an earlier release kept, and the alias."""
    found = read_log(client, model)
    if not found.records:
        return _read_before(client, model, found)
    story = Story(found)
    for record in found.records:
        story = _add(story, record, model)
    return story


def begin(client: Any, model: str, story: Story) -> None:
    """Begin the trail, with what an earlier release kept of it as its first record."""
    if story.log.records:
        return
    if not story.log.there:
        begin_log(client, model)
    if story.moves or story.champion:
        old = [{**asdict(move), "number": 0} for move in story.moves]
        body = {**_body(Move(TAKEN_OVER, story.champion, 0, "", now())), OLD: old, "stack": story.stack}
        clear_locks(client, model)
        # Who comes too late finds it done.
        append(
            client,
            model,
            story.log,
            body,
            sentence(Move(TAKEN_OVER, story.champion, 0, "", now())),
            {SETTLED: "1"},
        )


def write(
    client: Any, model: str, story: Story, move: Move, marks: Mapping[str, str] = NONE
) -> Record | None:
    """Make a move (or a request) the next one after `story`; None where another came first."""
    return append(client, model, story.log, _body(move), sentence(move), marks)


def sentence(move: Move) -> str:
    """A move in words."""
    if move.action == ASK:
        head = f"version {move.to} waits for another person's approval, asked for by {move.who}"
    elif move.action == TAKEN_OVER:
        head = f"trail begun: champion was {_named(move.to)}"
    elif move.action == OUTSIDE:
        head = f"champion {_named(move.came_from)} -> {_named(move.to)}, {OUTSIDE} (who is unknown)"
    else:
        head = f"champion {_named(move.came_from)} -> {_named(move.to)}, {move.action} by {move.who}"
    told = [", forced" if move.forced else "", f", asked for by {move.asked_by}" if move.asked_by else ""]
    why = [f"because {move.because}" if move.because else "", *move.reasons]
    return one_line(
        scrub(f"{head}{''.join(told)}{': ' if any(why) else ''}{'; '.join(word for word in why if word)}")
    )


def one_line(text: str) -> str:
    """What somebody said, in one line without control characters: it ends no line of the trail, steers no terminal."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in " ".join(text.split()))


def now() -> str:
    """When it is: to be read by people; nothing is decided by it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _named(number: int) -> str:
    return f"version {number}" if number else "none"


def _body(move: Move) -> dict[str, Any]:
    body = {name: value for name, value in asdict(move).items() if name != "number"}
    texts = {name: one_line(scrub(str(body[name]))) for name in ("who", "because", "asked_by")}
    return {**body, **texts, "reasons": [one_line(scrub(reason)) for reason in move.reasons]}


def _read_before(client: Any, model: str, found: Log) -> Story:
    from mlflow.exceptions import MlflowException

    try:
        registered = client.get_registered_model(model)
    except MlflowException as error:
        if is_missing(error):
            return Story(found)
        raise
    live = int(registered.aliases.get("champion", 0))
    old = read_old(registered.tags, live)
    moves = tuple(Move(m.action, m.to, m.came_from, m.who, m.when, m.reasons, m.forced) for m in old)
    return Story(found, moves, live, tuple(titles(old, live)))


def _add(story: Story, record: Record, model: str) -> Story:
    """The story with one more record; one that says nothing that can be read changes nothing."""
    try:
        move = _parse(record.body, record.number)
        old = tuple(_parse(item, 0) for item in record.body.get(OLD, ()))
        stack = tuple(int(number) for number in record.body.get("stack", ()))
    except (ValueError, TypeError, KeyError, AttributeError):
        log.warning("trail of %s: record %d cannot be read and is left out", model, record.number)
        return story
    if move.action == ASK:
        return replace(story, asks=(*story.asks, move))
    lapsed = {**story.lapsed, **{ask.to: ask for ask in story.asks}}
    lapsed.pop(move.to, None)
    told = replace(story, champion=move.to, record=record, asks=(), lapsed=lapsed)
    if move.action == TAKEN_OVER:
        return replace(told, moves=old, stack=stack)
    return replace(told, moves=(*story.moves, move), stack=tuple(_stack(story, move)))


def _stack(story: Story, move: Move) -> Sequence[int]:
    """A way back takes off down to where its target last was; whatever else puts its version on."""
    if not move.to:
        return story.stack  # nobody is: whoever was champion last is the one to go back to
    if move.action == ROLLBACK:
        below = list(story.before)
        at = max((at for at, number in enumerate(below) if number == move.to), default=len(below))
        return [*below[:at], move.to]
    return story.stack if story.stack[-1:] == (move.to,) else [*story.stack, move.to]


def _parse(body: Mapping[str, Any], number: int) -> Move:
    return Move(
        action=str(body["action"]),
        to=int(body["to"]),
        came_from=int(body["came_from"]),
        who=str(body.get("who", "")),
        when=str(body.get("when", "")),
        reasons=tuple(map(str, body.get("reasons") or ())),
        forced=bool(body.get("forced", False)),
        because=str(body.get("because", "")),
        decision=str(body.get("decision", "")),
        asked_by=str(body.get("asked_by", "")),
        number=number,
    )


def as_line(move: Move) -> str:
    """A move as one line of JSON."""
    return json.dumps(_body(move))
