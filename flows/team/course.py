"""All stages of a retraining, each where machine.yaml says: here, one after the other, or on a pool's workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from flows.session import Session
from flows.stages.graph import stage_order
from flows.stages.stage import StageResult
from flows.stages.tasks import push_task, stage_task
from flows.team.pools import group_stages
from flows.team.results import bring_results
from flows.team.send import Team, join, send, take_known
from videollava.machine import load_machine
from videollava.machine.pools import Priority
from videollava.registry.manifest import Manifest

__all__ = ["do_stages"]


def do_stages(
    session: Session,
    home: Path,
    push: bool,
    lock: int,
    warn: Callable[[str], None],
    echo: Callable[[str], None] | None = None,
    priority: Priority = "default",
) -> tuple[list[StageResult], Manifest | None]:
    """Do them; what became of each, noted in the journal, and the list of the model's files where they are not here.

    home: the checkout whose `origin` carries commits to workers. lock: on the workspace, held by the stages' processes too. push: send what is made here to the DVC remote; what a
    pool is to read is sent in any case, and must arrive.
    """
    pools = load_machine(session.root).pools
    order = stage_order(session.root)
    team = join(session, home, priority) if any(map(pools.of, order)) else None
    results: dict[str, StageResult] = {}
    while todo := [name for name in order if name not in results]:
        made = take_known(session, team, list(results), todo) if team else []
        if not made:
            group = next(group_stages(todo, pools))
            if team and group.pool:
                made = send(session, team, group, warn)
            else:
                made = [_do_here(session, todo[0], team, push, lock, warn, echo)]
        for result in made:
            session.note(result)
            results[result.stage] = result
    manifest = bring_results(session.root) if team else None
    return [results[name] for name in order], manifest


def _do_here(
    session: Session,
    stage: str,
    team: Team | None,
    push: bool,
    lock: int,
    warn: Callable[[str], None],
    echo: Callable[[str], None] | None,
) -> StageResult:
    result = stage_task(stage)(
        session.root, stage, session.environment, [lock], warn, echo, recalled=team is not None
    )
    if not push and team is None:
        return result
    return replace(result, unpushed=push_task(stage)(session.root, stage, must=team is not None, echo=echo))
