"""When a run is given up for dead, and when another attempt may help."""

from __future__ import annotations

from datetime import datetime
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled, Crashed, Failed

from flows.stages.stage import StageFailed
from flows.team.life.ends import as_state, may_help
from flows.team.life.signs import PENDING_LOST, PULSE_LOST, Signs
from flows.team.life.watch import UNWANTED
from videollava.ends import AGAIN, BUDGET, STALLED
from videollava.errors import InputError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def run_in(kind: StateType) -> FlowRun:
    return FlowRun(flow_id=uuid4(), state=State(type=kind))


def look(signs: Signs, clock: Clock, seconds: float, every: float = 5.0, sign: object = 0) -> None:
    for _ in range(round(seconds / every)):
        clock.now += every
        signs.take(sign)


def test_silence_while_the_server_answers_is_death() -> None:
    clock = Clock()
    signs = Signs(clock)
    look(signs, clock, PULSE_LOST)
    assert not signs.are_lost(run_in(StateType.RUNNING))
    look(signs, clock, 10)
    assert signs.are_lost(run_in(StateType.RUNNING))
    assert signs.are_lost(run_in(StateType.CANCELLING))
    assert not signs.are_lost(run_in(StateType.SCHEDULED))
    assert not signs.are_lost(run_in(StateType.PENDING))
    look(signs, clock, PENDING_LOST)
    assert signs.are_lost(run_in(StateType.PENDING))


def test_a_server_that_was_away_and_an_asker_that_slept_kill_nobody() -> None:
    clock = Clock()
    signs = Signs(clock)
    for _ in range(4):
        look(signs, clock, 10)
        clock.now += 3600  # nobody could tell anything
        signs.take(0)
        assert not signs.are_lost(run_in(StateType.RUNNING))
        clock.now += 5
        signs.take(datetime(2026, 1, 1))  # it beat as soon as it could
        look(signs, clock, 5, sign=datetime(2026, 1, 1))
    look(signs, clock, 20, sign=0)
    assert not signs.are_lost(run_in(StateType.RUNNING))


@pytest.mark.parametrize(
    ("error", "name", "again"),
    [
        (StageFailed("finetune", AGAIN, []), "Again", True),
        (StageFailed("finetune", STALLED, []), "Stalled", False),
        (StageFailed("finetune", 137, []), "Killed", True),
        (StageFailed("finetune", -9, []), "Killed", True),
        (StageFailed("finetune", BUDGET, []), "Budget", False),
        (StageFailed("finetune", 1, []), "Failed", False),
        (InputError("params.yaml: no"), "Refused", False),
        (ValueError("no"), "Failed", False),
    ],
)
def test_how_it_ended_is_its_states_name(error: Exception, name: str, again: bool) -> None:
    state = as_state(error)
    assert (state.type, state.name, state.message) == (StateType.FAILED, name, str(error))
    assert may_help(state, 1) is again
    assert not may_help(state, 9)


def test_what_was_lost_or_unwanted_may_be_tried_again() -> None:
    assert may_help(Crashed(), 4)
    assert not may_help(Crashed(), 5)
    assert not may_help(Cancelled(message="by a person"), 1)
    assert may_help(Cancelled(message=UNWANTED), 1)
    assert not may_help(Failed(), 1)
    assert not may_help(Failed(name="Killed"), 2)


def test_no_credential_reaches_a_state() -> None:
    assert "secret" not in (as_state(ValueError("at https://me:secret@host/x")).message or "")
