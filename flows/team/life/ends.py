"""How a run ended, by the name of its final state, and whether another attempt may end otherwise."""

from __future__ import annotations

from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Failed

__all__ = ["as_state", "may_help"]


def as_state(error: Exception) -> State[Any]:
    """What the flow `stage` returns where its work raised `error`: a Failed whose name says how."""
    return Failed(message=str(error))


def may_help(state: State[Any], tries: int) -> bool:
    """Whether another attempt may end otherwise, after `tries` of this trigger that did not complete."""
    return False
