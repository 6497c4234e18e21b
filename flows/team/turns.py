"""Equal triggers are one: of coordinators that were asked for the same retraining the first works, the others wait for
it and then find all of it done. Nor does a stage run twice at a time that two groups have in common.
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

__all__ = ["TAG", "step_tag", "take_turn", "wait_for_step", "work_tag"]

TAG = "retraining"
LOOK_SECONDS = 2.0
AT_WORK = [StateType.RUNNING, StateType.CANCELLING]


def take_turn(key: str, say: Callable[[str], None]) -> None:
    """Return when no earlier retraining of this key is at work. Nothing outside a flow run."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    me, tag = context.flow_run, f"{TAG}:{key}"
    with get_client(sync_client=True) as client:
        client.update_flow_run(me.id, tags=sorted({*me.tags, tag}))
    _wait(tag, lambda: False, lambda name: say(f"{name} does this very retraining; waiting for it"))


def wait_for_step(step: str, made: Callable[[], bool], say: Callable[[str], None]) -> bool:
    """Whether a stage is `made` by now: an earlier run that does it too, in a group of other stages, is waited for."""
    return made() or _wait(step_tag(step), made, lambda name: say(f"{name} does this stage; waiting for it"))


def work_tag(key: str) -> str:
    """The tag of runs that do a group of this key."""
    return f"work:{key}"


def step_tag(step: str) -> str:
    """The tag of runs that do a stage of this key."""
    return f"step:{step}"


def _wait(tag: str, over: Callable[[], bool], say: Callable[[str], None]) -> bool:
    """Wait until it is over (True), or no run of this tag that began before this one is at work."""
    context, told = FlowRunContext.get(), ""
    if context is None or context.flow_run is None:
        return False
    me = context.flow_run
    state = FlowRunFilterState(type=FlowRunFilterStateType(any_=AT_WORK))
    wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=[tag]), state=state)
    with get_client(sync_client=True) as client:
        while True:
            try:
                runs = client.read_flow_runs(flow_run_filter=wanted)
            except HTTPError:  # a server that is away: nobody else begins meanwhile
                time.sleep(LOOK_SECONDS)
                continue
            mine = next((run for run in runs if run.id == me.id), me)
            before = sorted((run for run in runs if _place(run) < _place(mine)), key=_place)
            if not before:
                return bool(told) and over()
            if told != before[0].name:
                told = before[0].name
                say(told)
            time.sleep(LOOK_SECONDS)
            if over():
                return True


def _place(run: FlowRun) -> tuple[Any, str]:
    """Whoever began first is first."""
    return run.start_time or run.created, str(run.id)
