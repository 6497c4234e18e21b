"""All stages of a retraining, each where machine.yaml says: here, one after the other, or on a pool's workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flows.evaluate import answer_as_champion
from flows.session import Session
from flows.stages.graph import stage_order
from flows.stages.sending import Sending
from flows.stages.stage import StageResult
from flows.stages.tasks import stage_task
from flows.storage import stores
from flows.team.life.pulse import Pulse
from flows.team.pools import group_stages
from flows.team.results import bring_results
from flows.team.send import join, send, send_questions, take_known
from videollava.machine import load_machine
from videollava.machine.pools import Priority
from videollava.registry.manifest import Manifest

__all__ = ["Course", "answer_first", "do_stages"]


@dataclass(frozen=True)
class Course:
    """How stages are done. lock: on the workspace, held by their processes too. push: send what is made here to the DVC
    remote; what a pool is to read is sent in any case. pulse: of the flow run. warn, echo: for a person. priority: of
    what pools do.
    """

    lock: int
    push: bool
    pulse: Pulse
    warn: Callable[[str], None]
    echo: Callable[[str], None] | None = None
    priority: Priority = "default"


def do_stages(session: Session, home: Path, course: Course) -> tuple[list[StageResult], Manifest | None]:
    """Do them; what became of each, noted in the journal, and the list of the model's files where they are not here.

    home: the checkout whose `origin` carries commits to workers.
    """
    pools = load_machine(session.root).pools
    order = stage_order(session.root)
    team = join(session, home, course.priority) if any(map(pools.of, order)) else None
    sending = Sending(session.root, team is not None, course.echo) if team or course.push else None
    results: dict[str, StageResult] = {}
    while todo := [name for name in order if name not in results]:
        made = take_known(session, team, list(results), todo) if team else []
        group = next(group_stages(todo, pools))
        if not made and team and group.pool:
            if sending:
                sending.flush()
            made = send(session, team, group, course.warn)
        elif not made:
            made = [_do_here(session, todo[0], course, sending, recalled=team is not None)]
        for result in made:
            session.note(result)
            results[result.stage] = result
    if sending:
        sending.flush()
        results = {name: sending.tell(result) for name, result in results.items()}
    manifest = bring_results(session.root) if team else None
    return [results[name] for name in order], manifest


def answer_first(session: Session, home: Path, course: Course, number: int) -> None:
    """Let the champion answer what version `number` was asked and it was not, on the pool for evaluations or here."""
    pool = load_machine(session.root).pools.eval
    if pool:
        send_questions(session, lambda: join(session, home, course.priority), pool, number, course.warn)
    else:
        answer_as_champion(session.root, session.params, number, course.lock, stores(session.root))


def _do_here(
    session: Session, stage: str, course: Course, sending: Sending | None, recalled: bool
) -> StageResult:
    words = (
        session.root,
        stage,
        session.environment,
        [course.lock],
        course.warn,
        course.echo,
        course.pulse.look,
    )
    with course.pulse.over(session.root, stage, session.journal.identity) as heard:
        result = stage_task(stage)(*words, heard=heard, recalled=recalled)
    if sending:
        sending.add(result)
    return result
