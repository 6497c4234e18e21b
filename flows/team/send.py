"""The coordinator's side of the stages that have a pool: what is known is taken, the rest sent out, group by group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.evaluate import find_unanswered
from flows.history.snapshot import take_snapshot
from flows.session import Session
from flows.shown import hide_in_failures
from flows.stages.stage import StageResult
from flows.storage import stores
from flows.team.carry import publish, take_back
from flows.team.entries import put_entries, take_entries
from flows.team.keys import DIGITS, group_keys
from flows.team.known import recall
from flows.team.parcel import unpack
from flows.team.pools import Group
from flows.team.runs import Done, GroupFailed, run_group
from flows.team.shelf import open_shelf
from flows.team.stage import Order
from videollava.errors import InputError
from videollava.machine.pools import Priority
from videollava.tracking.lineage import digest, locked_outputs
from videollava.tracking.store import tracking_uri

__all__ = ["Team", "join", "send", "send_questions", "take_known"]


@dataclass(frozen=True)
class Team:
    """What a coordinator and its workers share. mark: of the DVC remote; run: the retraining's, in MLflow. priority:
    the queue that work waits in.
    """

    home: Path
    mark: str
    run: str
    priority: Priority = "default"


def join(session: Session, home: Path, priority: Priority = "default") -> Team:
    """Before any work: InputError where others could not see what this coordinator works with."""
    uri = tracking_uri(session.root, session.params.tracking)
    if not uri.startswith(("http://", "https://")):
        raise InputError(
            f"machine.yaml names pools, and MLflow's store is {uri}, this checkout's own: workers could not write to "
            "it; MLFLOW_TRACKING_URI names the team's server"
        )
    with open_shelf(session.root) as shelf:
        mark = shelf.mark()
    return Team(home, mark, session.run_id(), priority)


def take_known(session: Session, team: Team, done: Sequence[str], todo: Sequence[str]) -> list[StageResult]:
    """Those that need not be done."""
    found = recall(session.root, team.home, done, todo)
    for stage, outcome in found.items():
        get_run_logger().info("%s: %s", stage, outcome)
    return [StageResult(stage, outcome, 0.0) for stage, outcome in found.items()]


def send(session: Session, team: Team, group: Group, warn: Callable[[str], None]) -> list[StageResult]:
    """Have a group done on its pool; what became of its stages, with dvc.lock, locks and journals as if done here."""
    root = session.root
    steps = group_keys(root, group.stages, take_entries(root))
    key, asked = steps[-1], {"stages": group.stages, "steps": steps}
    done = _go(session, team, group, key, asked, lambda answer: _there(root, answer), warn)
    return _take(session, done)


def send_questions(
    session: Session, find_team: Callable[[], Team], pool: str, number: int, warn: Callable[[str], None]
) -> None:
    """As `answer_as_champion`, on a pool."""
    root, params = session.root, session.params
    find = partial(find_unanswered, root, params, number, stores(root))
    model, benchmarks = find()
    if not benchmarks:
        return
    key = digest({"answers of": model, "to": benchmarks, "in": locked_outputs(root)})[:DIGITS]
    group = Group(pool, (f"answers of {model.partition('/')[2]}",))
    try:
        _go(
            session,
            find_team(),
            group,
            key,
            {"stages": (), "model": model, "benchmarks": benchmarks},
            lambda _: not find()[1],
            warn,
        )
    except (InputError, GroupFailed) as error:
        warn(f"{model} could not answer {', '.join(benchmarks)}: {error}")


def _go(
    session: Session,
    team: Team,
    group: Group,
    key: str,
    asked: dict[str, Any],
    usable: Callable[[dict[str, Any]], bool],
    warn: Callable[[str], None],
) -> Done:
    @task(name=group.title, task_run_name=group.title, cache_policy=NO_CACHE, persist_result=False)
    @hide_in_failures
    def go() -> Done:
        commit = publish(team.home, session.root, take_snapshot(session.root), key)
        shared = {"commit": commit, "parent": session.journal.identity, "run": team.run, "mark": team.mark}
        order = Order.model_validate({"key": key, **shared, **asked})
        get_run_logger().info("%s: sent to pool %s, key %s", group.title, group.pool, key)
        begun = partial(session.send, asked["stages"])
        done = run_group(group, order, usable, warn, team.priority, begun)
        take_back(team.home, key, commit)
        return done

    return go()


def _there(root: Path, answer: dict[str, Any]) -> bool:
    with open_shelf(root) as shelf:
        return (
            all(shelf.holds(entry) for entry in answer["stages"].values())
            and shelf.read(answer["parcel"]) is not None
        )


def _take(session: Session, done: Done) -> list[StageResult]:
    with open_shelf(session.root) as shelf:
        unpack(session.root, shelf, done.answer["parcel"])
    put_entries(session.root, done.answer["stages"])
    results = [StageResult(**result) for result in done.answer["results"]]
    # What another retraining had made is its own; this one says so.
    return [
        StageResult(one.stage, "restored", 0.0) if done.shared and one.outcome == "ran" else one
        for one in results
    ]
