"""The coordinator beside a run that it waits for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling, Crashed

from flows.team.life.claims import claim, drop_claim, waiting_for
from flows.team.life.server import AWAY, Away, impatient_client
from flows.team.life.signs import PULSE_LOST, Signs, read_signs

__all__ = ["UNWANTED", "cancel_run", "close_lost", "wait_for_run"]

LOOK = 1.0  # seconds between two looks at its state
SIGN_LOOK = 5.0  # between two looks for a sign of life
UNWANTED = "nobody waits for it any more"
GONE_SECONDS = 25.0  # that an interrupted coordinator has to see its runs end: its worker kills it after 30


def wait_for_run(run_id: UUID, say: Callable[[str], None]) -> State[Any]:
    """The final state of a run, waited for however long it takes.

    A server that is away is waited for, with one warning. A run that gives no sign of life while the server answers is
    closed as Crashed, which frees its slot. Whatever interrupts the waiting cancels the run, unless somebody else waits
    for it too, and returns when its processes are gone. ObjectNotFound where the server does not know the run.
    """
    context = FlowRunContext.get()
    waiter = context.flow_run.id if context and context.flow_run else None
    with _leaving(run_id, waiter, say):
        return _wait(run_id, waiter, say)


def cancel_run(client: SyncPrefectClient, run: FlowRun, why: str) -> None:
    """Have a run ended by its worker, or by itself; one that nobody began is cancelled at once."""
    if run.state and not run.state.is_final() and not run.state.is_cancelling():
        client.set_flow_run_state(run.id, Cancelling(message=why))


def close_lost(client: SyncPrefectClient, run: FlowRun) -> State[Any] | None:
    """Close a run that nobody works at, which frees its slot; the state it has then, its own where it just ended."""
    cancelled = bool(run.state and run.state.is_cancelling())
    why = f"no sign of life for {PULSE_LOST:.0f} s: its worker, or its machine, is lost or asleep"
    state: State[Any] = Cancelled(message=why) if cancelled else Crashed(message=why)
    client.set_flow_run_state(run.id, state)  # not by force: it may have ended just now
    closed = client.read_flow_run(run.id).state
    return closed if closed and closed.is_final() else None


def _wait(run_id: UUID, waiter: UUID | None, say: Callable[[str], None]) -> State[Any]:
    signs, away, looked = Signs(), Away(say), 0.0
    while True:
        try:
            with impatient_client() as client:
                while True:
                    run = client.read_flow_run(run_id)
                    if run.state and run.state.is_final():
                        return run.state
                    away.answered()
                    if time.monotonic() - looked >= SIGN_LOOK:
                        looked = time.monotonic()
                        if state := _look(client, run, waiter, signs, say):
                            return state
                    time.sleep(LOOK)
        except AWAY as error:
            away.failed(error)
            time.sleep(LOOK)


def _look(
    client: SyncPrefectClient, run: FlowRun, waiter: UUID | None, signs: Signs, say: Callable[[str], None]
) -> State[Any] | None:
    """Say that it is waited for; the state it is closed with, where it gives no sign of life."""
    if waiter:
        claim(client, run, waiter)
    signs.take(read_signs(client, [run])[run.id])
    if not signs.are_lost(run):
        return None
    say(f"{run.name} gives no sign of life: it is closed")
    return close_lost(client, run)


@contextmanager
def _leaving(run_id: UUID, waiter: UUID | None, say: Callable[[str], None]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(*AWAY, ObjectNotFound):  # it sees itself that nobody waits for it
            _leave(run_id, waiter, say)
        raise
    if waiter:
        with suppress(*AWAY, ObjectNotFound), impatient_client() as client:
            drop_claim(client, run_id, waiter)


def _leave(run_id: UUID, waiter: UUID | None, say: Callable[[str], None]) -> None:
    until = time.monotonic() + GONE_SECONDS
    with impatient_client() as client:
        if waiter:
            drop_claim(client, run_id, waiter)
        run = client.read_flow_run(run_id)
        if waiting_for(client, run):
            say(f"{run.name} goes on: somebody else waits for it")
            return
        say(f"{run.name} is cancelled: {UNWANTED}")
        cancel_run(client, run, UNWANTED)
        while time.monotonic() < until:
            run = client.read_flow_run(run_id)
            if run.state and run.state.is_final():
                return
            time.sleep(1)
    say(f"{run.name} is still ending")
