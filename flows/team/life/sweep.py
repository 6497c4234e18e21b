"""What is left over: runs that nobody works at (their worker, or its machine, is lost), and runs that nobody waits for.

Clones and the processes of killed ones are no part of it: whoever works in a folder next ends and clears them up
(flows/places), and a run that lives sees itself that it is closed or waited for by nobody (pulse.py).
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext

from flows.team.life.claims import waiting_for, was_claimed
from flows.team.life.server import AWAY, impatient_client
from flows.team.life.signs import PENDING_LOST, Signs, read_signs, starts_at_once
from flows.team.life.watch import UNWANTED, cancel_run, close_lost
from flows.team.turns import work_tag
from videollava.scrub import scrub

__all__ = ["nobody_works", "sweep", "sweep_beside"]

FLOWS = ["retrain", "stage"]  # those that beat
OTHERS = ["sync", "sweep", "evaluate", "promote"]  # minutes at most, without a beat
AT_WORK = [StateType.RUNNING, StateType.CANCELLING, StateType.PENDING]
LOOK = 5.0
PATIENCE = 600.0  # for a server that is away in between
KEPT = timedelta(days=1)  # what was published for work that is over; it may be asked for again soon
MOST = 200  # runs at once, the longest at work first


def sweep(say: Callable[[str], None]) -> list[str]:
    """Close and cancel such runs, wherever they are; their names. Takes PULSE_LOST seconds where any seems lost.

    A server that was away, or is slow, makes no run look lost (signs.py).
    """
    swept: list[str] = []
    signs: dict[object, Signs] = {}
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            with impatient_client() as client:
                if not signs:
                    swept += _cancel_unwanted(client, say)
                closed, doubtful = _close_lost(client, signs, say)
                closed += _close_never_begun(client, say)
        except AWAY:
            time.sleep(LOOK)
            continue
        swept += closed
        if not doubtful:
            break
        time.sleep(LOOK)
    return swept


def nobody_works(key: str) -> bool:
    """Whether all runs of this work are over since KEPT, and there were some: one may be about to be made for what was
    just published.
    """
    with impatient_client() as client:
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[work_tag(key)])), limit=MOST
        )
    ends = [run.end_time for run in runs if run.state and run.state.is_final() and run.end_time]
    return bool(runs) and len(ends) == len(runs) and max(ends) < datetime.now(UTC) - KEPT


def sweep_beside(say: Callable[[str], None]) -> None:
    """Have it swept beside the work: a coordinator that begins may wait for the place of one that is lost."""
    if FlowRunContext.get() is not None:
        run = partial(contextvars.copy_context().run, _sweep_quietly, say)  # `say` may ask which flow this is
        threading.Thread(target=run, name="sweep", daemon=True).start()


def _sweep_quietly(say: Callable[[str], None]) -> None:
    try:
        sweep(say)
    except Exception as error:  # the deployment `sweep` does what is left
        say(scrub(f"sweep: {type(error).__name__}: {error}"))


def _close_lost(
    client: SyncPrefectClient, signs: dict[object, Signs], say: Callable[[str], None]
) -> tuple[list[str], bool]:
    """Closed ones, by name; whether there are some of which it is not known yet."""
    runs = _read_runs(client, AT_WORK)
    told = read_signs(client, runs) if runs else {}
    closed, doubtful = [], False
    for run in runs:
        known = signs.setdefault(run.id, Signs())
        known.take(told[run.id])
        if known.are_lost(run):
            close_lost(client, run)
            say(f"{run.name}: nobody works at it any more; it is closed")
            closed.append(run.name)
        elif not known.changed and run.state and run.state.type != StateType.PENDING:
            doubtful = True
    return closed, doubtful


def _close_never_begun(client: SyncPrefectClient, say: Callable[[str], None]) -> list[str]:
    """Closed ones, by name, that a worker took long ago and died before they began. By the server's clock: it noted
    when this run changed last, and when that one did.
    """
    context = FlowRunContext.get()
    me = client.read_flow_run(context.flow_run.id) if context and context.flow_run else None
    closed = []
    for run in _read_runs(client, [StateType.PENDING], [*FLOWS, *OTHERS]) if me else []:
        if me is None or not me.updated or not run.updated or not starts_at_once(client, run):
            continue
        since = max(run.updated, run.expected_start_time or run.updated)  # one taken early waits
        if (me.updated - since).total_seconds() > PENDING_LOST:
            close_lost(client, run)
            say(f"{run.name}: its worker took it and is gone; it is closed")
            closed.append(run.name)
    return closed


def _cancel_unwanted(client: SyncPrefectClient, say: Callable[[str], None]) -> list[str]:
    """Runs that wait for a worker, while nobody waits for them any more."""
    found = [
        run
        for run in _read_runs(client, [StateType.SCHEDULED])
        if was_claimed(run) and not waiting_for(client, run)
    ]
    for run in found:
        cancel_run(client, run, UNWANTED)
        say(f"{run.name}: {UNWANTED}; it is cancelled")
    return [run.name for run in found]


def _read_runs(client: SyncPrefectClient, states: list[StateType], flows: list[str] = FLOWS) -> list[FlowRun]:
    return client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=flows)),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states)),
        ),
        sort=FlowRunSort.START_TIME_ASC,
        limit=MOST,
    )
