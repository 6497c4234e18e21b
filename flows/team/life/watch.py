"""The coordinator beside a run that it waits for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from httpx import HTTPError
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State

__all__ = ["wait_for_run"]

LOOK_SECONDS = 1.0


def wait_for_run(run_id: UUID, say: Callable[[str], None]) -> State[Any]:
    """The final state of a run, waited for however long it takes.

    A server that is away is waited for, with one warning. A run that gives no sign of life while the server answers is
    closed as Crashed, which frees its slot. Whatever interrupts the waiting cancels the run, unless somebody else waits
    for it too, and returns when its processes are gone.
    """
    away = False
    with get_client(sync_client=True) as client:
        while True:
            try:
                state = client.read_flow_run(run_id).state
            except HTTPError as error:
                if not away:
                    say(f"the Prefect server does not answer ({type(error).__name__}); waiting for it")
                away = True
            else:
                away = False
                if state is not None and state.is_final():
                    return state
            time.sleep(LOOK_SECONDS)
