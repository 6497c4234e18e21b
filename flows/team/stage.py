"""What a worker does: neighbouring stages of a commit that a coordinator published, in a clone of its own checkout.

Its results go to the team's DVC remote, its journals to the coordinator's MLflow run, its stages' entries of dvc.lock
into the artifact "lock" of its run: to git it writes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import Artifact
from prefect.context import FlowRunContext
from pydantic import BaseModel, ConfigDict

from flows.evaluate import answer
from flows.placed import note_place
from flows.places.clones import have_clone
from flows.places.git import run_git
from flows.places.workspace import settle_clone
from flows.stages.reading import Outcome
from flows.stages.sending import Sending
from flows.stages.stage import StageResult
from flows.stages.tasks import stage_task
from flows.storage import has_remote
from flows.team.carry import bring
from flows.team.entries import take_entries
from flows.team.known import recall
from flows.team.life.pulse import Pulse, beating
from flows.team.parcel import pack
from flows.team.results import list_model
from flows.team.shelf import open_shelf
from flows.team.turns import wait_for_step
from videollava.errors import InputError
from videollava.machine import VARIABLE, find_machine
from videollava.params import Params, load_params
from videollava.tracking import FOLLOWED, PARENT
from videollava.tracking.forward import Follower
from videollava.tracking.journal import close_abandoned
from videollava.tracking.store import connect, tracking_uri
from videollava.tracking.tidy import tidy
from videollava.tracking.troubles import is_from_store

__all__ = ["LOCK_ARTIFACT", "Order", "do_group"]

LOCK_ARTIFACT = "lock"
LEAVING_SECONDS = 180.0  # that an earlier attempt, which was closed, may need to end here


class Order(BaseModel):
    """A group, as a coordinator orders it. key: of the work; steps: of each stage with those before it. commit:
    published under the key. parent: the identity of the retraining's journal; run: its MLflow run, "" where MLflow did
    not answer. mark: of the DVC remote. model, benchmarks: a version that is to answer questions of the commit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    stages: tuple[str, ...]
    steps: tuple[str, ...] = ()
    commit: str
    parent: str
    run: str = ""
    mark: str = ""
    model: str = ""
    benchmarks: tuple[str, ...] = ()


def do_group(home: Path, order: Order) -> None:
    """Do the stages of an order, send their data, leave the artifact. `home`: the worker's checkout.

    InputError, before any work, where this checkout shares no remote or no MLflow with the coordinator.
    """
    log = get_run_logger()
    with ExitStack() as stack:
        pulse = stack.enter_context(beating(log.info))
        note_place()
        _check_remote(home, order)
        root, lock = stack.enter_context(_occupy(home, order))
        params = load_params(root / "params.yaml")
        os.environ.setdefault("MLFLOW_TRACKING_URI", tracking_uri(home, params.tracking))
        if file := find_machine(home).file:
            os.environ[VARIABLE] = str(file)
        _check_tracking(root, params, order)
        with _followed(root, params, order):
            results = _do(root, home, order, lock, pulse)
            if order.model:
                answer(root, params, order.model, order.benchmarks, lock)
        _hand_back(root, order, results)


def _do(root: Path, home: Path, order: Order, lock: int, pulse: Pulse) -> list[StageResult]:
    log = get_run_logger()
    environment = {
        FOLLOWED: "1",
        PARENT: order.parent,
        "MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"],
    }
    done = [name for name in take_entries(root) if name not in order.stages]
    sending = Sending(root, must=True)
    results = []
    for name, step in zip(order.stages, order.steps, strict=True):
        known: dict[str, Outcome] = {}

        def look(stage: str = name, found: dict[str, Outcome] = known) -> bool:
            found |= recall(root, home, done, [stage])
            return stage in found

        if wait_for_step(step, look, log.info):
            log.info("%s: %s", name, known[name])
            results.append(StageResult(name, known[name], 0.0))
        else:
            with pulse.over(root, name, order.parent) as heard:
                words = (root, name, environment, [lock], log.warning, None, pulse.look)
                results.append(stage_task(name)(*words, heard=heard, recalled=True))
            sending.add(results[-1])  # what is recalled is there
        done.append(name)
    sending.flush()
    list_model(root, order.stages)
    return results


def _check_remote(home: Path, order: Order) -> None:
    if not has_remote(home):
        raise InputError(
            f"{home}: DVC has no default remote (`dvc remote add --default`), so others cannot read results"
        )
    with open_shelf(home) as shelf:
        if order.mark and shelf.mark() != order.mark:
            raise InputError(
                f"{home}: DVC's default remote is not the coordinator's: nobody would find the results there"
            )


def _check_tracking(root: Path, params: Params, order: Order) -> None:
    """Whether MLflow is the coordinator's: it has that one's run. One that does not answer is not asked."""
    uri = tracking_uri(root, params.tracking)
    if not uri.startswith(("http://", "https://")):
        raise InputError(
            f"MLflow's store is {uri}, this worker's own; MLFLOW_TRACKING_URI names the team's server"
        )
    if not order.run:
        return
    try:
        connect(root, params.tracking).client.get_run(order.run)
    except Exception as error:
        if not is_from_store(error):
            raise
        if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
            raise InputError(
                f"MLflow at {uri} does not know the coordinator's run {order.run}: it is another server, and "
                "MLFLOW_TRACKING_URI must name the same one for both"
            ) from error
        get_run_logger().warning("MLflow does not answer (%s); the journals wait", type(error).__name__)


@contextmanager
def _occupy(home: Path, order: Order) -> Iterator[tuple[Path, int]]:
    """A clone for work of this key, at the commit that was published: what an earlier attempt left is gone on from."""
    bring(home, order.key, order.commit)
    with have_clone(home, order.commit, order.key[:12], LEAVING_SECONDS) as (root, lock):
        run_git(root, "reset", "--quiet", "--soft", f"{order.commit}^")  # what runs are said to be made from
        settle_clone(home, root)
        yield root, lock


@contextmanager
def _followed(root: Path, params: Params, order: Order) -> Iterator[None]:
    """Journals are forwarded inside, those of the stages closed at the end, whatever ended them."""
    follower = Follower(root, params.tracking)
    follower.start()
    try:
        yield
    finally:
        for name in order.stages:
            close_abandoned(root / "runs", name)
        follower.stop()
        tidy(root / "runs")


def _hand_back(root: Path, order: Order, results: list[StageResult]) -> None:
    ran = [result.stage for result in results if result.outcome == "ran"]
    context = FlowRunContext.get()
    run = str(context.flow_run.id) if context and context.flow_run else order.commit
    with open_shelf(root) as shelf:
        parcel = pack(root, ran, shelf, f"runs/{order.key}/{run}.tar.gz")
    data: dict[str, Any] = {
        "key": order.key,
        "parent": order.parent,
        "parcel": parcel,
        "stages": take_entries(root, order.stages),
        "results": [asdict(result) for result in results],
    }
    Artifact(type="json", key=LOCK_ARTIFACT, description="Entries of dvc.lock", data=data).create()
