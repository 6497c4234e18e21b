"""Who waits for a run: labels of the run, one a coordinator, so that several may share one and nobody's runs on.

Two that write at once may lose one's label: who waits looks, and says it again.
"""

from __future__ import annotations

from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun

__all__ = ["ORPHAN_SECONDS", "Claims", "claim", "drop_claim", "waiting_for", "was_claimed"]

LABEL = "videollava.waits."
EVERY = 20.0  # seconds between two looks at who waits
ORPHAN_SECONDS = 600.0  # that a run goes on for nobody: the next trigger takes it over


def claim(client: SyncPrefectClient, run: FlowRun, waiter: UUID) -> None:
    """Say that `waiter` (a flow run) waits for `run`."""
    if run.labels.get(f"{LABEL}{waiter}") is not True:
        client.update_flow_run_labels(run.id, {f"{LABEL}{waiter}": True})


def drop_claim(client: SyncPrefectClient, run_id: UUID, waiter: UUID) -> None:
    """Say that it does not any more."""
    client.update_flow_run_labels(run_id, {f"{LABEL}{waiter}": False})


def waiting_for(client: SyncPrefectClient, run: FlowRun) -> list[FlowRun]:
    """The runs at work that wait for `run`."""
    names = [UUID(name.removeprefix(LABEL)) for name, held in _claims(run).items() if held]
    if not names:
        return []
    found = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=names)))
    return [one for one in found if one.state and not one.state.is_final()]


def was_claimed(run: FlowRun) -> bool:
    """Whether anybody ever waited for it: a run that a person started by hand is waited for by nobody."""
    return bool(_claims(run))


def _claims(run: FlowRun) -> dict[str, object]:
    return {name: held for name, held in run.labels.items() if name.startswith(LABEL)}


class Claims:
    """Of one run, as it sees them itself."""

    def __init__(self) -> None:
        self._looked = 0.0
        self._wanted = 0.0

    def are_given_up(self, client: SyncPrefectClient, run: FlowRun, now: float) -> bool:
        """Whether somebody waited, and for ORPHAN_SECONDS nobody has. now: of a clock that does not jump."""
        if now - self._looked < EVERY:
            return False
        if now - self._looked > 3 * EVERY:
            self._wanted = now  # this machine slept, or the server was away: nobody could say anything
        self._looked = now
        if not was_claimed(run) or waiting_for(client, run):
            self._wanted = now
        return now - self._wanted > ORPHAN_SECONDS
