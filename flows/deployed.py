"""What `prefect deploy` puts on a server: flows whose parameters are typed, checked before a run is made of them.

They work in clones of this checkout, or in it: nobody names a folder from afar, and no parameter loosens the gate.
"""

# Annotations are values here: Prefect looks for what they name beside what wraps the flow.
from typing import TYPE_CHECKING, Any, Literal

from prefect import flow, get_run_logger

from flows.evaluate import evaluate as score_again
from flows.places.workspace import repository
from flows.promote import promote as gate_and_move
from flows.retrain import work
from flows.shown import hide_in_failures
from flows.sync import sync as look_at_sources
from flows.team.carry import sweep_refs
from flows.team.life.ends import as_state
from flows.team.life.server import AWAY
from flows.team.life.sweep import nobody_works
from flows.team.life.sweep import sweep as sweep_up
from flows.team.stage import Order, do_group
from videollava.errors import InputError
from videollava.machine.pools import Priority
from videollava.params import profile_names
from videollava.params.changes import Changes, as_overrides
from videollava.scrub import scrub

__all__ = ["evaluate", "promote", "retrain", "stage", "sweep", "sync"]

if TYPE_CHECKING:
    Profile = str
else:
    Profile = Literal["", *profile_names()]  # "": as params.yaml is


@flow(name="retrain", log_prints=False)
@hide_in_failures
def retrain(
    profile: Profile = "",
    changes: Changes = Changes(),  # noqa: B008
    promote: bool = True,
    commit: str = "",
    push: bool = True,
    who: str = "",
    priority: Priority = "default",
) -> dict[str, Any]:
    """Bring the model up to date with data, code and parameters; register it, and promote it if the gate allows.

    profile: a preset in the place of params.yaml. changes: parameters that are to be others. commit: of this
    repository; without one, HEAD. push: share outputs and run-cache where DVC has a remote. who: the person it is for.
    priority: the queue of each pool that its stages wait in.
    """
    return work(profile, as_overrides(changes), promote, commit=commit, push=push, who=who, priority=priority)


@flow(name="evaluate", log_prints=False)
@hide_in_failures
def evaluate(
    model: str = "models:/videollava@champion",
    benchmarks: list[str] = [],  # noqa: B006
) -> dict[str, Any]:
    """Score a version on benchmarks, those of params.yaml where none are named; the scores go to its MLflow run."""
    return score_again(repository(), model, benchmarks)


@flow(name="promote", log_prints=False)
@hide_in_failures
def promote(version: int | str, because: str = "", who: str = "") -> Any:
    """Make a version (its number, or models:/...) champion if the gate allows, or agree to what another asked for.

    because: what the trail is to say of it. Past the gate goes only `videollava promote --force`, by hand.
    """
    return gate_and_move(repository(), str(version), because, who)


@flow(name="sync", log_prints=False)
@hide_in_failures
def sync(
    sources: list[str] = [],  # noqa: B006
    trigger: str = "retrain/team",
    main: str = "main",
    who: str = "",
) -> Any:
    """Look at every source (or those named), put what differs on origin's branch data/<date>, and retrain at it.

    trigger: the deployment that retrains; without one, nothing does. main: the branch that people merge into, which
    says what the sources are. The run fails, once all is done that can be, where a source did not answer.
    """
    return look_at_sources(repository(), sources, trigger, main, who)


@flow(name="stage", log_prints=False)
@hide_in_failures
def stage(order: Order) -> Any:
    """Neighbouring stages of a retraining, done here for the coordinator that orders them.

    The run fails, and its state's name says how, where a stage does; before any work where this worker shares no DVC
    remote or no MLflow server with the coordinator.
    """
    try:
        return do_group(repository(), order)
    except Exception as error:
        return as_state(error)


@flow(name="sweep", log_prints=False)
@hide_in_failures
def sweep() -> list[str]:
    """Close runs that nobody works at any more, cancel what waits for a worker while nobody waits for it, and take back
    commits that were published for work that is over.
    """
    warn = get_run_logger().warning
    swept = sweep_up(warn)
    try:
        swept += sweep_refs(repository(), nobody_works)
    except (InputError, *AWAY) as error:  # the next sweep comes soon
        warn(scrub(f"sweep: {error}"))
    return swept
