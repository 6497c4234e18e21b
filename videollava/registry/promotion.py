"""Which version is live: the alias `champion`, moved by one promotion at a time, with a trail and a way back.

The lock is a registered model of its own, because its name is unique in the store whoever asks: no second
service is needed. It carries its holder and when it lapses; a lapsed one is overtaken by the next number.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.gate import Decision, decide, read_pairs
from videollava.params import Params, Tracking
from videollava.registry.evidence import answers_folder
from videollava.registry.versions import CHAMPION, PREVIOUS, Version, _aliases, find_version, open_store

__all__ = [
    "Move",
    "PromotionConflict",
    "champion",
    "examine",
    "move_champion",
    "promote",
    "rollback",
    "trail",
]

LEASE_SECONDS = 60.0
WAIT_SECONDS = 30.0


class PromotionConflict(InputError):
    """Somebody else moved the champion, or is moving it."""


@dataclass(frozen=True)
class Move:
    """One move of the champion, as the trail keeps it. Numbers are versions, 0: none."""

    action: str
    to: int
    came_from: int
    who: str
    when: str
    reasons: tuple[str, ...] = ()
    forced: bool = False


def champion(workspace: Path, tracking: Tracking, store: Any = None) -> Version | None:
    """The live version, None where there is none yet."""
    store = store or open_store(workspace, tracking)
    number = _aliases(store.client, tracking.model).get(CHAMPION)
    return find_version(workspace, tracking, str(number), store) if number else None


def examine(version: Version, live: Version | None, params: Params, workspace: Path) -> Decision:
    """The gate's decision on a version, against the champion it would replace, answer by answer where both
    versions' answers are at hand; where they are not, a note says so.
    """
    if live is None or live.number == version.number:
        return decide(version.metrics, None, params.gate)
    mine, theirs = answers_folder(workspace, version), answers_folder(workspace, live)
    pairs, lacking = {}, "answers of one are in no store"
    if mine and theirs:
        try:
            pairs, lacking = read_pairs(mine, theirs), ""
        except InputError as error:  # an old version that cannot be read must not bar every new one
            lacking = str(error)
    decision = decide(version.metrics, live.metrics, params.gate, pairs)
    if lacking:
        note = f"version {version.number} and champion {live.number} are compared by figures alone: {lacking}"
        decision = replace(decision, notes=(*decision.notes, note))
    return decision


def promote(
    workspace: Path, params: Params, reference: str, force: bool = False
) -> tuple[Decision, Move | None]:
    """Gate a version and make it champion. The move is None where the gate refused or it is champion already.

    force: move in spite of the gate; the trail says so. PromotionConflict where the champion changed
    meanwhile.
    """
    store = open_store(workspace, params.tracking)
    version = find_version(workspace, params.tracking, reference, store)
    live = champion(workspace, params.tracking, store)
    decision = examine(version, live, params, workspace)
    if (not decision.passed and not force) or (live is not None and live.number == version.number):
        return decision, None
    reasons = decision.reasons or (f"passed the gate: {_scores(decision)}",)
    forced = force and not decision.passed
    return decision, move_champion(workspace, params.tracking, version, live, reasons, forced, store)


def move_champion(
    workspace: Path,
    tracking: Tracking,
    version: Version,
    live: Version | None,
    reasons: Sequence[str],
    forced: bool = False,
    store: Any = None,
) -> Move:
    """Make `version` the champion if the champion still is `live` (what the gate compared with)."""
    store = store or open_store(workspace, tracking)
    expected = live.number if live else 0
    with _promotion_lock(store.client, tracking.model):
        now = _aliases(store.client, tracking.model).get(CHAMPION, 0)
        if now != expected:
            raise PromotionConflict(
                f"the champion is version {now or 'none'}, the gate compared {expected or 'none'}: gate again"
            )
        move = Move("promote", version.number, now, _who(), _now(), tuple(reasons), forced)
        _apply(store.client, tracking.model, move, previous=now, workspace=workspace)
    return move


def rollback(workspace: Path, tracking: Tracking, reference: str = "", reason: str = "") -> Move:
    """Give the title back to the version that had it before (or to `reference`).

    Called again, it goes one further back in the trail; InputError where there is nothing to go back to.
    """
    store = open_store(workspace, tracking)
    wanted = find_version(workspace, tracking, reference, store).number if reference else 0
    with _promotion_lock(store.client, tracking.model):
        now = _aliases(store.client, tracking.model).get(CHAMPION, 0)
        titles = _titles(trail(workspace, tracking, store))
        if not now or (not wanted and len(titles) < 2):
            raise InputError(
                f"{tracking.model}: no version before {now or 'none'} was champion; nothing to roll back to"
            )
        target = wanted or titles[-2]
        left = titles[: titles.index(target)] if target in titles else titles[:-1]
        move = Move("rollback", target, now, _who(), _now(), (reason,) if reason else ())
        _apply(store.client, tracking.model, move, previous=left[-1] if left else 0, workspace=workspace)
    return move


def trail(workspace: Path, tracking: Tracking, store: Any = None) -> list[Move]:
    """Every move of the champion, oldest first."""
    from mlflow.exceptions import MlflowException

    store = store or open_store(workspace, tracking)
    try:
        tags = store.client.get_registered_model(tracking.model).tags
    except MlflowException:
        return []
    moves = []
    for name in sorted(name for name in tags if name.startswith("audit.")):
        fields = json.loads(tags[name])
        moves.append(Move(**{**fields, "reasons": tuple(fields["reasons"])}))
    return moves


def _titles(moves: Sequence[Move]) -> list[int]:
    """The stack of champions: a promotion puts one on, a rollback takes off down to its target."""
    titles: list[int] = []
    for move in moves:
        if move.action == "promote":
            titles.append(move.to)
        else:
            titles = (
                [*titles[: titles.index(move.to)], move.to] if move.to in titles else [*titles[:-1], move.to]
            )
    return titles


def _apply(client: Any, model: str, move: Move, previous: int, workspace: Path) -> None:
    # The trail goes first: a move that was cut short shows there, and the next one reads the alias, not the
    # trail.
    record = json.dumps(asdict(move))
    client.set_registered_model_tag(model, f"audit.{time.time_ns():020d}", record)
    client.set_registered_model_alias(model, CHAMPION, str(move.to))
    if previous:
        client.set_registered_model_alias(model, PREVIOUS, str(previous))
    elif PREVIOUS in _aliases(client, model):
        client.delete_registered_model_alias(model, PREVIOUS)
    runs = workspace / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    with (runs / "audit.jsonl").open("a") as stream:
        stream.write(record + "\n")


@contextmanager
def _promotion_lock(client: Any, model: str) -> Iterator[None]:
    mine = _acquire(client, model)
    try:
        yield
    finally:
        _release(client, model, mine)


def _acquire(client: Any, model: str) -> int:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        held = _locks(client, model)
        newest = max(held, default=0)
        if newest and held[newest]["expires"] > time.time():
            if time.monotonic() > deadline:
                raise PromotionConflict(
                    f"{held[newest]['holder']} is moving the champion of {model}; try again"
                )
            time.sleep(0.2)
        elif _create(client, model, newest + 1):
            # Numbers only grow while anybody holds one: ours counts if it is the newest after all.
            if max(_locks(client, model), default=0) == newest + 1:
                return newest + 1
            _delete(client, model, newest + 1)


def _release(client: Any, model: str, mine: int) -> None:
    for number in sorted(_locks(client, model)):
        if number <= mine:
            _delete(client, model, number)


def _create(client: Any, model: str, number: int) -> bool:
    from mlflow.exceptions import MlflowException

    tags = {"holder": f"{_who()} {uuid.uuid4().hex[:8]}", "expires": str(time.time() + LEASE_SECONDS)}
    try:
        client.create_registered_model(f"{model}.promotion-lock.{number}", tags=tags)
    except MlflowException as error:
        if error.error_code == "RESOURCE_ALREADY_EXISTS":
            return False
        raise
    return True


def _delete(client: Any, model: str, number: int) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.delete_registered_model(f"{model}.promotion-lock.{number}")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def _locks(client: Any, model: str) -> dict[int, dict[str, Any]]:
    prefix = f"{model}.promotion-lock."
    found = client.search_registered_models(f"name LIKE '{prefix}%'")
    return {
        int(item.name.removeprefix(prefix)): {
            "holder": item.tags.get("holder", "somebody"),
            "expires": float(item.tags.get("expires", 0)),
        }
        for item in found
    }


def _scores(decision: Decision) -> str:
    return ", ".join(f"{row['benchmark']} {row['score']} ({row['gain']})" for row in decision.cells())


def _who() -> str:
    return os.environ.get("VIDEOLLAVA_USER") or f"{getpass.getuser()}@{socket.gethostname()}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
