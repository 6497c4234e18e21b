"""How a run ended, by the name of its final state, and whether another attempt may end otherwise.

| name | it is | another attempt |
|---|---|---|
| Crashed | its process, worker or machine was lost | yes, from the checkpoint place |
| Stalled | a stage hung, and hung again (status 76) | no |
| Killed | a stage, or a rank, was killed (status 137): by hand, or for want of memory | one |
| Again | a stage was told to end, and kept a checkpoint (status 75) | yes |
| Budget | a stage has cost what it may (status 77) | a person decides |
| Refused | a mistake of the user's | never |
| Failed | anything else: a training that failed would fail again | no |
| Cancelled | a person, or nobody waited for it | no; yes, where somebody waits for it now |
"""

from __future__ import annotations

from typing import Any

from prefect.client.schemas.objects import State, StateType
from prefect.states import Failed

from flows.stages.stage import StageFailed
from flows.team.life.watch import UNWANTED
from videollava.ends import AGAIN, BUDGET, KILLED, STALLED
from videollava.errors import InputError
from videollava.scrub import scrub

__all__ = ["as_state", "may_help", "status_of"]

# By a stage's exit status.
NAMES = {AGAIN: "Again", BUDGET: "Budget", STALLED: "Stalled", **dict.fromkeys(KILLED, "Killed")}
TRIES = {"Crashed": 5, "Again": 5, "Killed": 2}  # of one trigger, by the name of the last one's end


def as_state(error: Exception) -> State[Any]:
    """What the flow `stage` returns where its work raised `error`: a Failed whose name says how."""
    name = "Failed"
    if isinstance(error, StageFailed):
        name = NAMES.get(error.status, "Failed")
    elif isinstance(error, InputError):
        name = "Refused"
    return Failed(name=name, message=scrub(str(error)))


def may_help(state: State[Any], tries: int) -> bool:
    """Whether another attempt may end otherwise, after `tries` of this trigger that did not complete."""
    name = "Crashed" if state.type == StateType.CRASHED else state.name or ""
    if state.type == StateType.CANCELLED and state.message == UNWANTED:
        name = "Crashed"  # two coordinators: one left as the other came
    return tries < TRIES.get(name, 0)


def status_of(state: State[Any]) -> int:
    """The exit status of the stage whose end the name of `state` tells of; 0 where it tells of none."""
    return next((status for status, name in NAMES.items() if name == state.name), 0)
