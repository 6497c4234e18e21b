"""Which version is live: the alias `champion`, moved by one promotion at a time, with a trail and a way back.

The lock is a registered model of its own, because its name is unique in the store whoever asks: no second
service is needed. It carries its holder and when it lapses; a lapsed one is overtaken by the next number.
"""

from __future__ import annotations

import getpass
import logging
import os
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.gate import Decision, decide, read_pairs
from videollava.params import Params, Tracking
from videollava.registry.evidence import answers_folder
from videollava.registry.manifest import cache_of, missing_files, model_cache
from videollava.registry.refusals import answered, is_missing
from videollava.registry.store import Store
from videollava.registry.trail import Move, begin, finish, read_trail, record, titles, withdraw
from videollava.registry.versions import (
    CHAMPION,
    PREVIOUS,
    Version,
    find_version,
    live_number,
    open_store,
    read_aliases,
    version_manifest,
)

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
log = logging.getLogger(__name__)


class PromotionConflict(InputError):
    """Somebody else moved the champion, or is moving it."""


@answered
def champion(workspace: Path, tracking: Tracking, store: Any = None) -> Version | None:
    """The live version, None where there is none (yet, or any more: the version behind the alias was deleted)."""
    store = store or open_store(workspace, tracking)
    number = live_number(store, tracking.model)
    return find_version(workspace, tracking, str(number), store) if number else None


def examine(
    version: Version, live: Version | None, params: Params, workspace: Path, places: Sequence[Store] = ()
) -> Decision:
    """The gate's decision on a version, against the champion it would replace, answer by answer where both
    versions' answers are at hand (in DVC's cache, in `places`); where they are not, a note says so.
    """
    if live is None or live.number == version.number:
        return decide(version.metrics, None, params.gate)
    mine, theirs = (answers_folder(workspace, params.tracking, one, places) for one in (version, live))
    pairs, lacking = {}, "answers of one are in no store"
    if mine and theirs:
        try:
            pairs, lacking = read_pairs(mine, theirs), ""
        except InputError as error:  # an old version that cannot be read must not bar every new one
            lacking = str(error)
    decision = decide(version.metrics, live.metrics, params.gate, pairs)
    if not live.metrics:  # nothing to lose against is not the same as nothing lost
        why = ", ".join(live.remarks) or "it has none"
        reason = (
            f"champion {live.number}: no scores to compare with ({why}); mend its tags, or promote by --force"
        )
        decision = replace(decision, passed=False, reasons=(*decision.reasons, reason))
    if lacking:
        note = f"version {version.number} and champion {live.number} are compared by figures alone: {lacking}"
        decision = replace(decision, notes=(*decision.notes, note))
    return decision


@answered
def promote(
    workspace: Path, params: Params, reference: str, force: bool = False, places: Sequence[Store] = ()
) -> tuple[Decision, Move | None]:
    """Gate a version and make it champion. The move is None where the gate refused or it is champion already.

    force: move in spite of the gate; the trail says so. places: stores beside those it was registered with.
    InputError where the version or a file of it is gone; PromotionConflict where the champion changed
    meanwhile. Nothing moves then.
    """
    store = open_store(workspace, params.tracking)
    version = find_version(workspace, params.tracking, reference, store)
    live = champion(workspace, params.tracking, store)
    decision = examine(version, live, params, workspace, places)
    if (not decision.passed and not force) or (live is not None and live.number == version.number):
        return decision, None
    _check_usable(workspace, params.tracking, version, places, store)
    reasons = decision.reasons or (f"passed the gate: {_scores(decision)}",)
    forced = force and not decision.passed
    return decision, move_champion(workspace, params.tracking, version, live, reasons, forced, store)


@answered
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
        now = live_number(store, tracking.model)
        if now != expected:
            raise PromotionConflict(
                f"the champion is version {now or 'none'}, the gate compared {expected or 'none'}: gate again"
            )
        before = titles(read_trail(store.client, tracking.model, now), now)
        move = Move("promote", version.number, now, _who(), _now(), tuple(reasons), forced)
        _apply(store, tracking.model, move, before, workspace)
    return move


@answered
def rollback(
    workspace: Path,
    tracking: Tracking,
    reference: str = "",
    reason: str = "",
    places: Sequence[Store] = (),
) -> Move:
    """Give the title back to the version that had it before (or to `reference`).

    Called again, it goes one further back in the trail. InputError where there is nothing to go back to, or
    where that version or its files are gone: nothing moves then.
    """
    store = open_store(workspace, tracking)
    now, target, _ = _way_back(workspace, tracking, store, reference)
    _check_usable(workspace, tracking, find_version(workspace, tracking, str(target), store), places, store)
    with _promotion_lock(store.client, tracking.model):
        # Asked again: files took their time, and only now nobody else moves it.
        found, again, left = _way_back(workspace, tracking, store, reference)
        if (found, again) != (now, target):
            raise PromotionConflict(
                f"the champion moved to version {found or 'none'} meanwhile: look and try again"
            )
        move = Move("rollback", target, now, _who(), _now(), (reason,) if reason else ())
        _apply(store, tracking.model, move, left, workspace)
    return move


@answered
def trail(workspace: Path, tracking: Tracking, store: Any = None) -> list[Move]:
    """Every move of the champion, oldest first; what was cut short before the champion moved is not `done`."""
    store = store or open_store(workspace, tracking)
    return read_trail(store.client, tracking.model, live_number(store, tracking.model))


def _way_back(workspace: Path, tracking: Tracking, store: Any, reference: str) -> tuple[int, int, list[int]]:
    """The champion of now, the version to go back to, and the champions before that one."""
    now = live_number(store, tracking.model)
    stack = titles(read_trail(store.client, tracking.model, now), now)
    before = stack[:-1] if now else stack
    if reference:
        target = find_version(workspace, tracking, reference, store).number
        if target == now:
            raise InputError(f"version {now} is champion already; name another one (`videollava models`)")
    elif not before:
        raise InputError(
            f"{tracking.model}: no version before {now or 'none'} was champion; nothing to roll back to"
        )
    else:
        target = before[-1]
        if not now:  # the champion itself was deleted: the last one that is still there
            target = next(
                (number for number in reversed(before) if _exists(store, tracking.model, number)), target
            )
        _check_there(store, tracking.model, target, before, now)
    cut = max((at for at, number in enumerate(before) if number == target), default=len(before))
    return now, target, before[:cut]


def _check_there(store: Any, model: str, target: int, before: Sequence[int], now: int) -> None:
    if _exists(store, model, target):
        return
    further = (number for number in reversed(before) if number not in (target, now))
    other = next((number for number in further if _exists(store, model, number)), 0)
    remedy = f"`videollava rollback {other}` goes to the one before" if other else "there is none before it"
    raise InputError(
        f"version {target}, champion before {now or 'none'}, was deleted from the registry at {store.uri}: "
        f"{remedy}; nothing was moved"
    )


def _exists(store: Any, model: str, number: int) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        store.client.get_model_version(model, str(number))
    except MlflowException as error:
        if is_missing(error):
            return False
        raise
    return True


def _check_usable(
    workspace: Path, tracking: Tracking, version: Version, places: Sequence[Store], store: Any
) -> None:
    """InputError where the version could not be loaded by whoever asks for the champion."""
    if version.archived:
        raise InputError(
            f"{version.reference} was archived; take it out of the archive on the page, or name another version"
        )
    manifest, recorded = version_manifest(workspace, tracking, version.reference, store)
    lacking = missing_files(manifest, [*recorded, cache_of(workspace), *places], model_cache(workspace))
    if lacking:
        raise InputError(f"{version.reference} cannot be made champion: {lacking}; nothing was moved")


def _apply(store: Any, model: str, move: Move, before: Sequence[int], workspace: Path) -> None:
    """Write down, move the alias, mark as done. before: champions below the new one, for the alias `previous`."""
    client = store.client
    entry = begin(client, model, move)
    try:
        client.set_registered_model_alias(model, CHAMPION, str(move.to))
    except Exception:
        if live_number(store, model) != move.to:  # a lost answer to a request that was heard is no failure
            withdraw(client, model, entry)
            raise
    # The champion has moved. Nothing below may say otherwise.
    for what, act in (
        ("trail", lambda: finish(client, model, entry, move)),
        ("alias `previous`", lambda: _set_previous(store, model, before)),
        ("runs/audit.jsonl", lambda: _append(workspace, move)),
    ):
        try:
            act()
        except Exception as error:
            log.warning("champion is version %d, but its %s was not written: %s", move.to, what, error)


def _set_previous(store: Any, model: str, before: Sequence[int]) -> None:
    previous = next((number for number in reversed(before) if _exists(store, model, number)), 0)
    if previous:
        store.client.set_registered_model_alias(model, PREVIOUS, str(previous))
    elif PREVIOUS in read_aliases(store.client, model):
        store.client.delete_registered_model_alias(model, PREVIOUS)


def _append(workspace: Path, move: Move) -> None:
    runs = workspace / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    with (runs / "audit.jsonl").open("a") as stream:
        stream.write(record(move) + "\n")


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
    try:
        for number in sorted(_locks(client, model)):
            if number <= mine:
                _delete(client, model, number)
    except Exception as error:  # what was done under it is done; the lock lapses
        log.warning("the promotion lock of %s stays for %.0f s: %s", model, LEASE_SECONDS, error)


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
        if not is_missing(error):
            raise


def _locks(client: Any, model: str) -> dict[int, dict[str, Any]]:
    prefix = f"{model}.promotion-lock."
    found = client.search_registered_models(f"name LIKE '{prefix}%'")
    return {
        int(number): {"holder": item.tags.get("holder", "somebody"), "expires": _expiry(item.tags)}
        for item in found
        if (number := item.name.removeprefix(prefix)).isdecimal()
    }


def _expiry(tags: Any) -> float:
    try:
        return float(tags.get("expires", 0))
    except ValueError:  # edited by hand: nobody can say that it is held
        return 0.0


def _scores(decision: Decision) -> str:
    return ", ".join(f"{row['benchmark']} {row['score']} ({row['gain']})" for row in decision.cells())


def _who() -> str:
    if named := os.environ.get("VIDEOLLAVA_USER"):
        return named
    try:
        name = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's uid that has no name
        name = f"uid-{os.getuid()}"
    return f"{name}@{socket.gethostname()}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
