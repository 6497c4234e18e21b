"""Equal triggers are one: of coordinators that were asked for the same retraining the first works, the others wait for
it and then find all of it done.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from httpx import HTTPError
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.context import FlowRunContext

__all__ = ["TAG", "take_turn"]

TAG = "retraining"
LOOK_SECONDS = 2.0
AT_WORK = [StateType.RUNNING, StateType.CANCELLING]


def take_turn(key: str, say: Callable[[str], None]) -> None:
    """Return when no earlier run of this key is at work. Nothing outside a flow run."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    me, told = context.flow_run, ""
    tag = f"{TAG}:{key}"
    with get_client(sync_client=True) as client:
        client.update_flow_run(me.id, tags=sorted({*me.tags, tag}))
        wanted = FlowRunFilter(
            tags=FlowRunFilterTags(all_=[tag]),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=AT_WORK)),
        )
        while True:
            try:
                runs = client.read_flow_runs(flow_run_filter=wanted)
            except HTTPError:  # a server that is away: nobody else begins meanwhile
                time.sleep(LOOK_SECONDS)
                continue
            mine = next((run for run in runs if run.id == me.id), me)
            before = sorted((run for run in runs if _place(run) < _place(mine)), key=_place)
            if not before:
                return
            if told != before[0].name:
                told = before[0].name
                say(f"{told} does this very retraining; waiting for it")
            time.sleep(LOOK_SECONDS)


def _place(run: FlowRun) -> tuple[Any, str]:
    """Whoever began first is first."""
    return run.start_time or run.created, str(run.id)
