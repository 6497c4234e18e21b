"""How long a run has given no sign of life, as one can tell who asks now and then.

No clock is compared with another: what counts is time that the asker was awake and the server answered. Neither a
server that was away for an hour nor a machine that slept makes a run look dead.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.client.schemas.objects import FlowRun, StateType

from flows.team.life.pulse import KEY

__all__ = ["PENDING_LOST", "PULSE_LOST", "Signs", "read_signs", "starts_at_once"]

PULSE_LOST = 60.0  # seconds without a sign of life, of a run that should give some
PENDING_LOST = 600.0  # that a worker has to start the process of a run it took
MOST_PASSED = 15.0  # seconds that one look can add: what was longer, nobody watched


class Signs:
    """Of one run."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: Any = None
        self._looked = clock()
        self.silent = 0.0
        self.changed = False  # seen alive

    def take(self, sign: Any) -> None:
        """What the server told of it just now; the same as before is silence."""
        now = self._clock()
        passed = min(now - self._looked, MOST_PASSED)
        self.silent = self.silent + passed if sign == self._last else 0.0
        self.changed = self.changed or (self._last is not None and sign != self._last)
        self._last, self._looked = sign, now

    def are_lost(self, run: FlowRun) -> bool:
        """Whether the run is to be closed: nobody works at it."""
        kind = run.state.type if run.state else None
        if kind in (StateType.RUNNING, StateType.CANCELLING):
            return self.silent > PULSE_LOST
        return kind == StateType.PENDING and self.silent > PENDING_LOST


def read_signs(client: SyncPrefectClient, runs: list[FlowRun]) -> dict[UUID, Any]:
    """By run, something that changes as long as it is alive."""
    ids = [run.id for run in runs]
    found = client.read_artifacts(
        artifact_filter=ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=ids), key=ArtifactFilterKey(any_=[KEY])
        ),
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=ids)),
    )
    beats = {one.flow_run_id: one.updated for one in found}
    signs: dict[UUID, Any] = {}
    for run in runs:
        queues = run.state and run.state.is_pending() and not starts_at_once(client, run)
        signs[run.id] = object() if queues else (run.state.id if run.state else None, beats.get(run.id))
    return signs


def starts_at_once(client: SyncPrefectClient, run: FlowRun) -> bool:
    """Whether a run that was taken becomes a process of its worker; a cluster may let it wait for hours."""
    return bool(run.work_pool_name and client.read_work_pool(run.work_pool_name).type == "process")
