"""The coordinator beside a run that it waits for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from prefect.client.schemas.objects import State

__all__ = ["wait_for_run"]


def wait_for_run(run_id: UUID, say: Callable[[str], None]) -> State[Any]:
    """The final state of a run, waited for however long it takes.

    A server that is away is waited for, with one warning. A run that gives no sign of life while the server answers is
    closed as Crashed, which frees its slot. Whatever interrupts the waiting cancels the run, unless somebody else waits
    for it too, and returns when its processes are gone.
    """
    raise NotImplementedError
