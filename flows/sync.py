"""Look at the sources of origin's main, and retrain where one changed: the work of the flow `sync` (flows/deployed.py).

New locks go to origin's branch data/<date> (flows/triggers/branch.py), which people merge. A source that does not
answer keeps no other from being looked at; once those are seen to, the run fails, so that it is noticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed

from flows.shown import hide_in_failures, show_text
from flows.team.carry import see_branches
from flows.telling import tell, telling_failure
from flows.triggered import triggered_by
from flows.triggers.branch import Moved, Place, Start, open_place
from flows.triggers.runs import Asked, ask_for_run, check_deployment
from videollava.data.adding.add import lock_again
from videollava.errors import InputError
from videollava.params import load_params
from videollava.registry import news
from videollava.scrub import scrub

__all__ = ["Look", "Outcome", "ask_to_retrain", "describe", "sync"]

TRIES = 5  # where others push to the same branch


@dataclass(frozen=True)
class Look:
    """What a source has now. said: what differs, in words; trouble: why it could not be looked at."""

    source: str
    kind: str
    said: str = ""
    trouble: str = ""
    changed: bool = False

    def __str__(self) -> str:
        return f"{self.source}: {self.trouble or self.said or 'as before'}"


@dataclass(frozen=True)
class Outcome:
    """What a sync saw and did. commit: on start.branch, "" where nothing changed."""

    start: Start
    looks: Sequence[Look]
    commit: str = ""

    @property
    def silent(self) -> list[Look]:
        return [look for look in self.looks if look.trouble]

    @property
    def changes(self) -> list[str]:
        return [str(look) for look in self.looks if look.changed]


def sync(home: Path, sources: Sequence[str], trigger: str, main: str, who: str = "") -> Any:
    """Look at `sources` (all without a name), commit the locks that differ to data/<date> of origin, and have the
    deployment `trigger` ("": none) retrain at that commit, once.

    The run fails where the remote or Prefect's server refuses, and, when all else is done, where a source is silent.
    """
    tracking, person = load_params(home / "params.yaml").tracking, triggered_by(home, who)
    see_branches(home, get_run_logger().warning)  # who is told stands in gate.yaml of its main
    try:
        with telling_failure(home, tracking, person, "sync"):
            if trigger:
                check_deployment(trigger, {"commit": ""})
            with open_place(home, main=main) as place:
                outcome = _see_to(place, list(dict.fromkeys(sources)))
            asked = ask_to_retrain(outcome, trigger)
            _show(outcome, asked, trigger, main)
            if outcome.commit:
                tell(
                    home,
                    tracking,
                    news.synced(tracking, describe(outcome, asked, main), outcome.changes, person),
                )
            if outcome.silent:
                raise InputError(_say_silent(outcome.silent))
    except InputError as error:
        return Failed(message=scrub(str(error)))
    return Completed(message=scrub(describe(outcome, asked, main)))


def _see_to(place: Place, names: Sequence[str]) -> Outcome:
    """Look, commit and push; again from the start where somebody pushed to the branch meanwhile."""
    for _ in range(TRIES):
        start = place.begin(f"{datetime.now(UTC):%Y-%m-%d}")
        if start.told:
            get_run_logger().warning(start.told)
        looks = _look_at_all(place, names)
        changed = [look.source for look in looks if look.changed]
        if not changed:
            return Outcome(start, looks)
        commit = place.commit(start, changed, _message(looks))
        try:
            place.push(commit, start.branch)
            return Outcome(start, looks, commit)
        except Moved:
            get_run_logger().warning("%s: another sync pushed to it; looking again from there", start.branch)
    raise InputError(f"{start.branch}: others pushed to it {TRIES} times meanwhile; sync again")


def _look_at_all(place: Place, names: Sequence[str]) -> list[Look]:
    sources = load_params(place.root / "params.yaml").sources
    if unknown := [name for name in names if name not in sources]:
        raise InputError(
            f"params.yaml of {place.main}: sources: no {unknown[0]!r}; there are: {', '.join(sources) or 'none'}"
        )
    looks = [
        look_at_source.with_options(task_run_name=f"look@{name}")(place.root, name, sources[name].kind)
        for name in names or sources
    ]
    differing = place.changed([look.source for look in looks if not look.trouble])
    return [replace(look, changed=look.source in differing) for look in looks]


@task(name="look", cache_policy=NO_CACHE, persist_result=False)
@hide_in_failures
def look_at_source(root: Path, name: str, kind: str) -> Look:
    """The source's lock, taken anew; what keeps it from being looked at is the Look's `trouble`, never an error."""
    log = get_run_logger()
    try:
        found = lock_again(root, name)
    except Exception as error:  # of a client's library, too: the other sources are looked at whatever it is
        reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        look = Look(name, kind, trouble=scrub(" ".join(reason.split())))
        log.error("%s", look)
        return look
    # A lock may differ in what is asked of a source alone: params.yaml was changed, and the lock was not taken.
    look = Look(name, kind, scrub(found.in_words()))
    log.info("%s", look)
    return look


def _message(looks: Sequence[Look]) -> str:
    lines = [scrub(f"{look.source}: {look.said or 'asked otherwise'}") for look in looks if look.changed]
    names = ", ".join(look.source for look in looks if look.changed)
    return f"Lock {names} as {'it is' if len(lines) == 1 else 'they are'} now\n\n" + "\n".join(lines)


def ask_to_retrain(outcome: Outcome, trigger: str) -> Asked | None:
    """The retraining at the commit that was pushed, now or by a sync that was ended before it could ask for it."""
    commit = outcome.commit or outcome.start.synced
    if not commit or not trigger:
        return None
    key = f"sync-{trigger}-{commit}"
    return ask_for_run(trigger, {"commit": commit}, key, label=f"sync-{commit[:8]}")


def describe(outcome: Outcome, asked: Asked | None, main: str) -> str:
    """What came of it, in a sentence or two: the run's state, and the notice's text."""
    start = outcome.start
    if not outcome.commit:
        count = len(outcome.looks)
        looked = "1 source as {} has it" if count == 1 else f"{count} sources as {{}} has them"
        looked = f"nothing changed: {looked.format(start.waiting or main)}"
        waits = f", which {main} lacks ({_how(start.waiting)})" if start.waiting else ""
        late = (
            f"; {asked.name} retrains, which a sync before was kept from asking for"
            if asked and asked.new
            else ""
        )
        return f"{looked}{waits}{late}"
    run = f"; {asked.name} retrains at it" if asked else ""
    where = f"{start.branch} at {outcome.commit[:12]}"
    return f"{where}: {'; '.join(outcome.changes)}{run}. {_how(start.branch)} takes it into {main}"


def _say_silent(silent: Sequence[Look]) -> str:
    names = ", ".join(look.source for look in silent)
    return f"{names} could not be looked at (the others were): {'; '.join(look.trouble for look in silent)}"


def _how(branch: str) -> str:
    return f"`git fetch origin && git merge origin/{branch}`"


def _show(outcome: Outcome, asked: Asked | None, trigger: str, main: str) -> None:
    """What came of it, as a page of the run; how a person takes the branch into main."""
    start = outcome.start
    rows = [f"| {look.source} | {look.kind} | {_cell(look)} |" for look in outcome.looks]
    lines = ["| source | kind | |", "|---|---|---|", *rows, "", describe(outcome, asked, main)]
    if asked:
        lines += ["", f"Retraining: {trigger}, run `{asked.name}` ({asked.identity})"]
    if branch := start.branch if outcome.commit else start.waiting:
        lines += [
            "",
            f"Only people move `{main}`. To take these data into it, once the retraining is to your liking:",
            "",
            f"    git fetch origin && git switch {main} && git merge origin/{branch} && git push origin {main}",
        ]
    show_text("\n".join(lines), "sync", "What the sources have now, and what was done")


def _cell(look: Look) -> str:
    text = f"**not seen**: {look.trouble}" if look.trouble else look.said or "as before"
    return text.replace("|", "\\|")
