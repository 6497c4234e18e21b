"""A group's run on a worker: started once for equal work, waited for, started again where that may help."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.states import Pending

from flows.team.life.ends import may_help, status_of
from flows.team.life.watch import wait_for_run
from flows.team.pools import Group
from flows.team.stage import LOCK_ARTIFACT, Order
from flows.team.turns import step_tag, work_tag
from videollava.errors import InputError
from videollava.machine.pools import Priority
from videollava.scrub import scrub

__all__ = ["Done", "GroupFailed", "run_group"]

FLOW = "stage"


class GroupFailed(RuntimeError):
    """A group did not come to its end. state: the final one of its last run. status: its stage's, or 0."""

    def __init__(self, group: Group, run: FlowRun, state: State[Any]) -> None:
        self.state, self.status = state, status_of(state)
        text = f"{group.title} on pool {group.pool}: {run.name}: {state.name}: {state.message or 'no reason given'}"
        super().__init__(scrub(text))


@dataclass(frozen=True)
class Done:
    """A group that is done. answer: what its worker handed back. shared: another coordinator had asked for it."""

    run: str
    answer: dict[str, Any]
    shared: bool


def run_group(
    group: Group,
    order: Order,
    usable: Callable[[dict[str, Any]], bool],
    warn: Callable[[str], None],
    priority: Priority = "default",
    begun: Callable[[str], None] = lambda run: None,
) -> Done:
    """Have a group done once: a run of equal work that is under way, or is done, is taken for it.

    usable: whether what an earlier run handed back can still be used (its data may be gone). priority: of a run that
    is made for it; one that waits already stays where it waits. begun: told the id of each run that is waited for.
    GroupFailed where no attempt completes; InputError where the server has no such pool or deployment.
    """
    tries, attempt = 0, 0
    while True:
        attempt += 1
        run, mine, over = _start(group, order, attempt, priority)
        begun(str(run.id))
        state = run.state if over and run.state else wait_for_run(run.id, warn)
        if state.is_completed():
            answer = _answer(run)
            if answer is not None and usable(answer):
                return Done(str(run.id), answer, not mine)
            warn(f"{group.title}: what {run.name} made is not to be had any more; it is done again")
            continue
        if over or (not mine and state.is_cancelled()):
            continue  # how another one's attempt ended is no failure of this trigger
        tries += 1
        if not may_help(state, tries):
            raise GroupFailed(group, run, state)
        warn(
            f"{group.title}: {run.name} ended as {state.name}: {scrub(state.message or '')}; it is started again"
        )


def _start(group: Group, order: Order, attempt: int, priority: Priority) -> tuple[FlowRun, bool, bool]:
    """(the run of this work and attempt, whether this coordinator made it, whether it was over before)."""
    name = f"{group.title} {order.key[:6]}-{attempt}"
    with _client() as client:
        try:
            deployment = client.read_deployment_by_name(f"{FLOW}/{group.pool}")
        except ObjectNotFound as error:
            raise InputError(
                f"machine.yaml: pools: Prefect's server has no deployment {FLOW}/{group.pool}; prefect.yaml names one "
                "for each pool that does stages, and `prefect deploy --all` makes them"
            ) from error
        run = client.create_flow_run_from_deployment(
            deployment.id,
            parameters={"order": order.model_dump(mode="json")},
            name=name,
            tags=[work_tag(order.key), *map(step_tag, order.steps)],
            idempotency_key=f"{order.key}-{attempt}",
            work_queue_name=priority,
            parent_task_run_id=_place(client, name),
        )
    mine = bool(run.parameters.get("order", {}).get("parent") == order.parent)
    return run, mine, bool(run.state and run.state.is_final())


def _place(client: SyncPrefectClient, name: str) -> Any:
    """A task run of the coordinator that stands for the child on its page; None outside a flow."""
    from prefect.tasks import Task

    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return None
    stand_in: Task[[], None] = Task(fn=lambda: None, name=name)
    made = client.create_task_run(
        task=stand_in, flow_run_id=context.flow_run.id, dynamic_key=name, name=name, state=Pending()
    )
    return made.id


def _answer(run: FlowRun) -> dict[str, Any] | None:
    wanted = ArtifactFilter(
        flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]), key=ArtifactFilterKey(any_=[LOCK_ARTIFACT])
    )
    with _client() as client:
        found = client.read_artifacts(artifact_filter=wanted)
    import json

    data = found[0].data if found else None
    data = json.loads(data) if isinstance(data, str) else data
    return dict(data) if isinstance(data, dict) else None


@contextmanager
def _client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client
