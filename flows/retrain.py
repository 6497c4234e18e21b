"""The main job as a Prefect flow: every stage of dvc.yaml, then register, gate and promote.

`python -m flows.retrain [--profile NAME] [--set KEY=VALUE]... [--no-promote]`, or the deployment
`retrain/retrain` (flows/deployed.py).
"""

from __future__ import annotations

if __name__ == "__main__":  # a retraining with nothing to do answers before Prefect is even imported
    from flows.local import main

    raise SystemExit(main())

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import State

from flows.history.keep import keep, push_refs, tie
from flows.history.lineage import write_pages
from flows.history.save import Saved
from flows.history.snapshot import Snapshot, take_snapshot
from flows.page.live import open_report
from flows.placed import note_place
from flows.places.workspace import apply_params, occupy, repository
from flows.session import Session, open_session
from flows.shown import hide_in_failures
from flows.stages.stage import push_stages
from flows.stages.tasks import may_pass_later
from flows.storage import stores
from flows.team.carry import see_branches
from flows.team.course import Course, answer_first, do_stages
from flows.team.life.pulse import beating
from flows.team.trigger import settle_trigger
from flows.telling import tell, telling_failure
from flows.triggered import triggered_by
from videollava import registry
from videollava.errors import InputError
from videollava.gate import Decision
from videollava.machine import VARIABLE, Pools, find_machine, load_machine
from videollava.machine.pools import Priority
from videollava.needs import find_lacks
from videollava.params import load_params
from videollava.registry import news
from videollava.registry.manifest import Manifest
from videollava.scrub import scrub
from videollava.tracking.lineage import read_lineage
from videollava.tracking.packages import differing_packages, in_words
from videollava.tracking.store import tracking_uri

__all__ = ["retrain", "work"]

# Between tries: an MLflow server that was killed takes a minute to be there again on a busy machine.
BACK_SECONDS: list[float] = [5, 30, 60, 120]
echo: Callable[[str], None] | None = None  # gets the stages' raw output too: set where a person watches
held: tuple[Path, int] | None = None  # a checkout that this process has to itself already, and its lock


@flow(name="retrain", log_prints=False)
@hide_in_failures
def retrain(workspace: str, promote: bool = True, push: bool = True) -> dict[str, Any]:
    """Bring the model of a checkout up to date with its data, code and parameters: `make retrain`."""
    return work(promote=promote, workspace=workspace, push=push)


def work(
    profile: str = "",
    overrides: Sequence[str] = (),
    promote: bool = True,
    workspace: str = "",
    commit: str = "",
    push: bool = True,
    who: str = "",
    priority: Priority = "default",
) -> dict[str, Any]:
    """Bring the model up to date with data, code and parameters; register it, and promote it if the gate
    allows.

    profile, overrides: written to the workspace's params.yaml first. workspace: a checkout to work in;
    without one a clean clone at `commit` (HEAD) is made. push: share outputs and run-cache where DVC has a
    remote. who: the person it is for; by default what the server or this machine tells. priority: of the
    stages that pools do.
    """
    home = repository()
    note_place()
    with ExitStack() as stack:
        pulse = stack.enter_context(beating(get_run_logger().info))
        clone = ""
        if not workspace:
            commit, clone = settle_trigger(home, commit, profile, overrides, _warn)
        root, lock = stack.enter_context(occupy(home, workspace, commit, held, clone))
        if scrub(str(overrides)) != str(overrides):
            get_run_logger().warning(
                "overrides: hold a credential, and Prefect keeps a run's parameters; set it in the environment instead"
            )
        apply_params(root, profile, overrides)
        params = load_params(root / "params.yaml")
        if not workspace:  # a clone's history belongs to the checkout it is of; so does how fast it goes
            os.environ.setdefault("MLFLOW_TRACKING_URI", tracking_uri(home, params.tracking))
            if file := find_machine(home).file:
                os.environ[VARIABLE] = str(file)
        load_machine(root)  # a mistake in it shows before anything is done
        stores(root)  # settings of DVC that cannot be right end it here
        person = triggered_by(home, who)
        stack.enter_context(telling_failure(root, params.tracking, person))
        session = stack.enter_context(open_session(root, params, person))
        _look_ahead(session)
        keeper = (
            root if workspace else home
        )  # a clone is dropped one day: what is saved goes to the checkout it is of
        report = stack.enter_context(open_report(session, keeper, person, overrides))
        before = _note_code(root)
        course = Course(lock, push, pulse, _warn, echo, priority)
        stages, manifest = do_stages(session, home, course)
        saved = save_retraining(session, keeper, before, person) if before else None
        version = register_version(session, saved, manifest)
        name = tag_version(session, keeper, version["number"], saved) if saved else ""
        answer_first(session, home, course, version["number"])
        if load_machine(root).pools != Pools():
            see_branches(home, _warn)
        decision = judge_version(session, version["number"])
        moved = promote_version(session, version["number"], person) if promote else None
        _tell(session, decision, version["number"], moved, person, version["new"] and not promote)
        _keep_lineage(session, keeper, version["reference"])
        report.finish(version, decision, moved, saved, promote)
        remote = load_machine(root).push_to
        if saved and push and remote:
            unpushed = [stage.stage for stage in stages if stage.unpushed]
            _push(session, keeper, remote, [saved.ref, *([name] if name else [])], unpushed)
    return {
        "stages": [asdict(stage) for stage in stages],
        "version": version,
        "saved": saved.commit if saved else "",
        "passed": decision.passed,
        "reasons": list(decision.reasons),
        "notes": list(decision.notes),
        "table": decision.table(),
        "promoted": asdict(moved) if moved else None,
    }


def _look_ahead(session: Session) -> None:
    """What would be found out after the training: InputError where the tracker refuses for good, else a warning."""
    told = [f"lacks: {line}" for line in find_lacks(session.params, load_machine(session.root), session.root)]
    if lacking := session.check_tracking():
        told.append(f"tracking: {lacking}; the training goes on, the version is made when MLflow answers")
    if differing := differing_packages(session.root):
        told.append(f"packages: not as the lock has them, which is recorded: {in_words(differing)}")
    if trouble := read_lineage(session.root).trouble:
        told.append(f"lineage: no commit is recorded with this retraining: {trouble}")
    for line in told:
        _warn(line)


def _warn(line: str) -> None:
    get_run_logger().warning(line)
    if echo:
        echo(f"{line}\n")


def _note_code(root: Path) -> Snapshot | None:
    """The code as it is before any stage reads it; None, and a warning, where git cannot keep it."""
    try:
        return take_snapshot(root)
    except InputError as error:
        _warn(f"this retraining is not saved in git: {error}")
        return None


@task(name="save", task_run_name="save", cache_policy=NO_CACHE, persist_result=False)
@hide_in_failures
def save_retraining(session: Session, keeper: Path, before: Snapshot, who: str) -> Saved | None:
    """The retraining as a commit in `keeper`; None, and a warning, where it cannot be: the training is kept."""
    session.run_id()  # stages' runs are known to MLflow then
    try:
        saved = keep(session.root, keeper, session.params, "", before, session.journal.identity, who)
    except InputError as error:
        _warn(f"not saved in git: {error}")
        return None
    session.journal.tags({"saved_commit": saved.commit, "saved_ref": saved.ref})
    for note in saved.notes if saved.new else ():
        _warn(f"save: {note}")
    get_run_logger().info("%s: %s", saved.ref, saved.commit if saved.new else "saved before")
    return saved


@task(
    name="register",
    task_run_name="register",
    retries=len(BACK_SECONDS),
    retry_delay_seconds=BACK_SECONDS,
    retry_condition_fn=may_pass_later,
    cache_policy=NO_CACHE,
)
@hide_in_failures
def register_version(
    session: Session, saved: Saved | None = None, manifest: Manifest | None = None
) -> dict[str, Any]:
    """A version by reference, unless these very outputs are one already."""
    session.keep(registry.read_metrics(session.root))
    places = stores(session.root)
    place = (saved.commit, saved.ref) if saved else ("", "")
    try:
        version, new = registry.register(
            session.root, session.params, session.run_id(), places=places, saved=place, manifest=manifest
        )
    except InputError as error:
        raise InputError(
            f"{error}; the training is kept, `make retrain` registers it without another"
        ) from error
    session.journal.tags({"version": str(version.number)})
    get_run_logger().info("%s: %s", version.reference, "new" if new else "registered before")
    return {"number": version.number, "reference": version.reference, "new": new}


@task(
    name="tag",
    task_run_name="tag",
    retries=len(BACK_SECONDS),
    retry_delay_seconds=BACK_SECONDS,
    retry_condition_fn=may_pass_later,
    cache_policy=NO_CACHE,
)
@hide_in_failures
def tag_version(session: Session, keeper: Path, number: int, saved: Saved) -> str:
    """Name the saved commit after the version, and say it with the version; the ref, "" where another has that name."""
    try:
        version = registry.find_version(session.root, session.params.tracking, str(number))
        named = tie(keeper, session.root, session.params, version, saved)
    except InputError as error:
        _warn(f"version {number} has no name in git: {error}; `videollava save` makes up for it")
        return ""
    if named.note:
        _warn(f"tag: {named.note}")
    get_run_logger().info("%s: %s", named.ref, saved.commit)
    return "" if named.note else named.ref


@task(
    name="gate",
    task_run_name="gate",
    retries=len(BACK_SECONDS),
    retry_delay_seconds=BACK_SECONDS,
    retry_condition_fn=may_pass_later,
    cache_policy=NO_CACHE,
)
@hide_in_failures
def judge_version(session: Session, number: int) -> Decision:
    """The gate's decision, against the champion of now."""
    tracking = session.params.tracking
    version = registry.find_version(session.root, tracking, str(number))
    live = registry.champion(session.root, tracking)
    places = stores(session.root)
    decision = registry.examine(version, live, session.params, session.root, places)
    log = get_run_logger()
    log.info("gate: %s", "passed" if decision.passed else "refused")
    for reason in decision.reasons:
        log.warning("gate: %s", reason)
    for note in decision.notes:
        log.info("gate: %s", note)
    registry.note_decision(session.root, tracking, version, decision)
    try:
        if page := registry.comparison_page(session.root, session.params, version, live, places):
            session.journal.artifact(page)
    except InputError as error:  # a page less is no reason to lose a training
        log.warning("no page beside the champion: %s", error)
    return decision


@task(
    name="promote",
    task_run_name="promote",
    retries=len(BACK_SECONDS),
    retry_delay_seconds=BACK_SECONDS,
    retry_condition_fn=may_pass_later,
    cache_policy=NO_CACHE,
)
@hide_in_failures
def promote_version(session: Session, number: int, who: str) -> registry.Move | None:
    """Make it champion if the gate allows, or ask for approval where gate.yaml wants it; None where it stays as it was.
    Gated again if another was faster.
    """
    outcome = registry.promote(
        session.root, session.params, str(number), places=stores(session.root), who=who, approve=False
    )
    get_run_logger().info(registry.result_of(outcome))
    return outcome.move or outcome.request


def _tell(
    session: Session, decision: Decision, number: int, moved: registry.Move | None, who: str, kept: bool
) -> None:
    root, tracking = session.root, session.params.tracking
    if moved:
        tell(root, tracking, news.moved(root, tracking, moved, decision))
    elif not decision.passed:
        tell(root, tracking, news.refused(root, tracking, number, decision, who))
    elif kept:  # nobody wanted it promoted, so nothing else says that it is there
        tell(root, tracking, news.passed(root, tracking, number, decision, who))


def _not_refused(_task: Any, _run: Any, state: State[Any]) -> bool:
    """A remote that holds another commit of that name says so again; one that is not reached may be, later."""
    return "[rejected]" not in str(state.result(raise_on_failure=False))


@task(
    name="push",
    task_run_name="push",
    retries=2,
    retry_delay_seconds=[5, 60],
    retry_condition_fn=_not_refused,
    cache_policy=NO_CACHE,
)
@hide_in_failures
def push_saved(session: Session, keeper: Path, remote: str, refs: list[str], stages: list[str]) -> None:
    """What the retraining made to the DVC remote, then its commit and tag to the git remote."""
    if stages and (reason := push_stages(session.root, stages, get_run_logger().info)):
        raise InputError(f"the DVC remote lacks what was made ({reason}), so its commit is not pushed either")
    for ref in push_refs(keeper, remote, refs):
        get_run_logger().info("%s: pushed to %s", ref, remote)


def _push(session: Session, keeper: Path, remote: str, refs: list[str], stages: list[str]) -> None:
    try:
        push_saved(session, keeper, remote, refs, stages)
    except InputError as error:
        _warn(
            f"not pushed to {remote}: {error}; `dvc push --run-cache` and `videollava save --push {remote}` do it later"
        )


def _keep_lineage(session: Session, keeper: Path, reference: str) -> None:
    """What the version is made of, as a picture and as JSON, on its run's page."""
    with TemporaryDirectory() as folder:
        try:
            pages = write_pages(keeper, reference, Path(folder))
        except InputError as error:
            _warn(f"no picture of the lineage: {error}")
            return
        for page in pages:
            session.journal.artifact(page)
