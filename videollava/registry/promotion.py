"""Which version is live: one promotion, approval or rollback at a time, each a record of the trail (trail.py).

A move is made by the record that says it: whoever writes the one after what everybody has read is first, and the other
is told so (PromotionConflict). The aliases follow (aliases.py); a process that ends between the two leaves one story.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from videollava.errors import InputError
from videollava.gate import Decision, read_rules
from videollava.params import Params, Tracking
from videollava.registry.aliases import exists, settle
from videollava.registry.judging import examine, note_decision
from videollava.registry.ledger import PromotionConflict, Record
from videollava.registry.manifest import cache_of, missing_files, model_cache
from videollava.registry.refusals import answered
from videollava.registry.store import Store
from videollava.registry.trail import (
    ASK,
    PROMOTE,
    ROLLBACK,
    SETTING,
    Move,
    Story,
    as_line,
    begin,
    now,
    one_line,
    write,
)
from videollava.registry.versions import Version, find_version, open_store, version_manifest
from videollava.who import VARIABLE, is_account, name_person, same_person, this_process

__all__ = [
    "Move",
    "Outcome",
    "PromotionConflict",
    "Story",
    "champion",
    "move_champion",
    "promote",
    "result_of",
    "rollback",
    "tell",
    "trail",
]

NONE: Mapping[str, str] = {}
TRIES = 5  # others' requests in between
LONGEST = 1_000  # letters of a reason
log = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """What a promotion came to: moved, or asked for another person's approval, or (both None) neither.

    lapsed: a request for the same version that counts no longer, since the champion or the decision changed.
    """

    decision: Decision
    move: Move | None = None
    request: Move | None = None
    lapsed: Move | None = None


def result_of(outcome: Outcome) -> str:
    """What it came to, in words."""
    told = ""
    if outcome.lapsed:
        told = (
            f"the request of {outcome.lapsed.who} ({outcome.lapsed.when}) lapsed: the champion or the decision is "
            "another now\n"
        )
    if move := outcome.move:
        return f"{told}champion: version {move.to} (was {move.came_from or 'none'})"
    if request := outcome.request:
        return (
            f"{told}champion: unchanged; version {request.to} waits for approval, asked for by {request.who}: another "
            f"person runs `videollava promote {request.to}{' --force' if request.forced else ''}`"
        )
    return "champion: unchanged"


@answered
def champion(workspace: Path, tracking: Tracking, store: Any = None) -> Version | None:
    """The live version, None where there is none (yet, or any more: the version was deleted)."""
    store = store or open_store(workspace, tracking)
    number = settle(store.client, tracking.model).champion
    return find_version(workspace, tracking, str(number), store) if number else None


@answered
def promote(
    workspace: Path,
    params: Params,
    reference: str,
    force: bool = False,
    places: Sequence[Store] = (),
    *,
    because: str = "",
    who: str = "",
    approval: bool | None = None,
    approve: bool = True,
) -> Outcome:
    """Gate a version and make it champion, or ask for that where another person has to agree.

    force: move in spite of the gate, `because` of something; the trail keeps it. places: stores beside those it was
    registered with. who: the person, by default the one at work here. approval: whether another one has to agree, by
    default what gate.yaml says; their own `promote` of the same version, champion and decision is their agreement.
    approve: False asks alone, and never agrees to what another asked for (a retraining).
    InputError where the version or a file of it is gone, or the same person asks twice; PromotionConflict where the
    champion changed meanwhile. Nothing moves then.
    """
    because = _reason(because)
    if force and not because:
        raise InputError('--force goes past the gate, and the trail keeps why: --because "..."')
    model = params.tracking.model
    who = one_line(who or name_person(workspace))
    store = open_store(workspace, params.tracking)
    version = _own_version(workspace, params.tracking, reference, store)
    story = _begin(store.client, model)
    live = find_version(workspace, params.tracking, str(story.champion), store) if story.champion else None
    decision = examine(version, live, params, workspace, places)
    note_decision(workspace, params.tracking, version, decision)
    if (not decision.passed and not force) or story.champion == version.number:
        return Outcome(decision)
    _check_usable(workspace, params.tracking, version, places, store)
    move = Move(
        PROMOTE,
        version.number,
        story.champion,
        who,
        now(),
        decision.reasons or (f"passed the gate: {_scores(decision)}",),
        forced=not decision.passed,
        because=because,
        decision=_digest(decision, version.number, story.champion),
    )
    asked = story.asked(version.number)
    if read_rules(workspace, model).gate.approval if approval is None else approval:
        if asked is None or asked.decision != move.decision or asked.forced != move.forced:
            lapsed = asked or story.lapsed.get(version.number)
            return Outcome(decision, request=_ask(store.client, model, story, move), lapsed=lapsed)
        if not approve:
            return Outcome(decision, request=asked)
        _check_agreement(asked, who)
        move = replace(move, asked_by=asked.who)
    return Outcome(decision, _make(store.client, model, story, move, workspace))


def _check_agreement(asked: Move, who: str) -> None:
    """InputError where `who` may not agree to what was asked for."""
    if is_account(who):
        raise InputError(
            f"version {asked.to} waits for a person's approval, and {who} is none: give who, or set {VARIABLE}"
        )
    if same_person(asked.who, who):
        raise InputError(
            f"version {asked.to} waits for another person's approval: {asked.who} asked for it at {asked.when} and "
            f"cannot agree to it too; somebody else runs `videollava promote {asked.to}`"
        )


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
    client = (store or open_store(workspace, tracking)).client
    story = _begin(client, tracking.model)
    expected = live.number if live else 0
    if story.champion != expected:
        raise PromotionConflict(_overtaken(story.champion, expected))
    who = one_line(name_person(workspace))
    move = Move(PROMOTE, version.number, expected, who, now(), tuple(reasons), forced)
    return _make(client, tracking.model, story, move, workspace)


@answered
def rollback(
    workspace: Path,
    tracking: Tracking,
    reference: str = "",
    because: str = "",
    places: Sequence[Store] = (),
    who: str = "",
) -> Move:
    """Give the title back to the version that had it before (or to `reference`).

    Called again, it goes one further back in the trail. InputError where there is nothing to go back to, or
    where that version or its files are gone: nothing moves then.
    """
    because = _reason(because)
    store = open_store(workspace, tracking)
    story = _begin(store.client, tracking.model)
    target = _way_back(workspace, tracking, store, story, reference)
    _check_usable(workspace, tracking, find_version(workspace, tracking, str(target), store), places, store)
    who = one_line(who or name_person(workspace))
    move = Move(ROLLBACK, target, story.champion, who, now(), because=because)
    return _make(store.client, tracking.model, story, move, workspace)


@answered
def trail(workspace: Path, tracking: Tracking, store: Any = None) -> list[Move]:
    """Every move of the champion, oldest first."""
    return list(tell(workspace, tracking, store).moves)


@answered
def tell(workspace: Path, tracking: Tracking, store: Any = None) -> Story:
    """The whole story: moves, the champion, those before, requests that wait."""
    store = store or open_store(workspace, tracking)
    return settle(store.client, tracking.model)


def _reason(because: str) -> str:
    """What a person gives as the reason, in one line; InputError where it is too long to be read in a list."""
    if len(said := one_line(because)) > LONGEST:
        raise InputError(
            f"--because has {len(said):,} letters; say it in {LONGEST:,}, or where it is written down"
        )
    return said


def _own_version(workspace: Path, tracking: Tracking, reference: str, store: Any) -> Version:
    """A version that may be champion here; InputError for another registered model's: numbers are a model's own."""
    version = find_version(workspace, tracking, reference, store)
    if version.name != tracking.model:
        raise InputError(
            f"{version.reference} is no version of {tracking.model}, whose champion this checkout moves: name one of "
            "its own (`videollava models`), or set tracking.model in params.yaml"
        )
    return version


def _begin(client: Any, model: str) -> Story:
    """The story of now, with a trail that can be written to."""
    story = settle(client, model, strict=True)
    if story.record is None:
        begin(client, model, story)
        story = settle(client, model, strict=True)
    return story


def _ask(client: Any, model: str, story: Story, move: Move) -> Move:
    """Write the request for a move."""
    return _write(client, model, story, replace(move, action=ASK))[0]


def _make(client: Any, model: str, story: Story, move: Move, workspace: Path) -> Move:
    """Make a move: its record first, which decides, then the aliases."""
    made, record = _write(client, model, story, move, {SETTING + "{}": this_process()})
    notes = [(record.number, f"{SETTING}{record.nonce}")]
    # The champion has moved. Nothing below may say otherwise.
    for what, act in (
        ("aliases were", lambda: settle(client, model, notes)),
        ("line in runs/audit.jsonl was", lambda: _append(workspace, made)),
    ):
        try:
            act()
        except Exception as error:
            log.warning("champion is version %d, but its %s not written: %s", made.to, what, error)
    return made


def _write(
    client: Any, model: str, story: Story, move: Move, marks: Mapping[str, str] = NONE
) -> tuple[Move, Record]:
    """Write the record, again where only requests came in between. PromotionConflict where the champion moved."""
    last = story.record
    for _ in range(TRIES):
        if record := write(client, model, story, move, marks):
            return replace(move, number=record.number), record
        story = settle(client, model, strict=True)
        if (story.record and story.record.number) != (last and last.number):
            raise PromotionConflict(_overtaken(story.champion, move.came_from))
    raise PromotionConflict(f"others write to the trail of {model} all the time; try again")


def _overtaken(now_live: int, expected: int) -> str:
    if now_live == expected:
        return f"the champion moved, and is version {now_live or 'none'} again: look and try again"
    return f"the champion is version {now_live or 'none'}, expected was {expected or 'none'}: gate again"


def _way_back(workspace: Path, tracking: Tracking, store: Any, story: Story, reference: str) -> int:
    """The version to go back to."""
    live, model = story.champion, tracking.model
    if reference:
        target = _own_version(workspace, tracking, reference, store).number
        if target == live:
            raise InputError(f"version {live} is champion already; name another one (`videollava models`)")
        return target
    if not story.before:
        raise InputError(f"{model}: no version before {live or 'none'} was champion; nothing to roll back to")
    target = story.before[-1]
    if not live:  # the champion itself was deleted: the last one that is still there
        target = next((one for one in reversed(story.before) if exists(store.client, model, one)), target)
    _check_there(store, model, target, story.before, live)
    return target


def _check_there(store: Any, model: str, target: int, before: Sequence[int], now: int) -> None:
    if exists(store.client, model, target):
        return
    further = (number for number in reversed(before) if number not in (target, now))
    other = next((number for number in further if exists(store.client, model, number)), 0)
    remedy = (
        f"`videollava rollback {other}` goes to the one before"
        if other
        else "there is none before it, so name one (`videollava models`)"
    )
    raise InputError(
        f"version {target}, champion before {now or 'none'}, was deleted from the registry at {store.uri}: "
        f"{remedy}; nothing was moved"
    )


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


def _append(workspace: Path, move: Move) -> None:
    runs = workspace / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    with (runs / "audit.jsonl").open("a") as stream:
        stream.write(as_line(move) + "\n")


def _digest(decision: Decision, version: int, live: int) -> str:
    """Hash of a decision: who agrees later agrees to this very one. Notes, how often its questions judged others
    meanwhile, and another commit with the same gate.yaml decide nothing and are left out.
    """
    rows = [{**row, "decided": 0} for row in decision.as_dict()["rows"]]
    said = {
        **asdict(decision),
        "rows": rows,
        "notes": (),
        "rules": decision.rules.get("sha256"),
        "version": version,
        "champion": live,
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


def _scores(decision: Decision) -> str:
    return ", ".join(f"{row['benchmark']} {row['score']} ({row['gain']})" for row in decision.cells())
