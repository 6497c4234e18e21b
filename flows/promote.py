"""Gate a version and make it champion: the Prefect flow `promote`, deployment `promote/promote`."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger
from prefect.states import Completed, Failed

from flows.places.workspace import checkout
from flows.shown import hide_in_failures, show_table
from flows.storage import stores
from flows.telling import tell
from flows.triggered import triggered_by
from videollava import registry
from videollava.errors import InputError
from videollava.params import load_params
from videollava.registry import news
from videollava.scrub import scrub

__all__ = ["promote"]


@flow(name="promote", log_prints=False)
@hide_in_failures
def promote(
    version: int | str, force: bool = False, because: str = "", who: str = "", workspace: str = ""
) -> Any:
    """Make `version` (a number or models:/... address) champion if the gate allows, or whatever it says
    (`force`, `because` of something); where gate.yaml wants approval, ask for it, or agree to what another asked for.

    who: the person; by default what the server or this machine tells.

    The run fails, with the gate's reasons, where the gate refuses, and with a sentence where the version or its
    files are gone, or the registry does not answer.
    """
    try:
        root = checkout(workspace)
        params = load_params(root / "params.yaml")
        person = triggered_by(root, who)
        outcome = registry.promote(
            root, params, str(version), force, stores(root), because=because, who=person
        )
    except InputError as error:
        return Failed(message=str(error))
    decision, move, request, _ = outcome
    show_table(decision.cells(), "scores", f"version {version} against the champion")
    for reason in decision.reasons:
        get_run_logger().warning("gate: %s", reason)
    for note in decision.notes:
        get_run_logger().info("gate: %s", note)
    if move is None and request is None and not decision.passed:
        return Failed(message=scrub("refused by the gate: " + "; ".join(decision.reasons)))
    if made := move or request:
        tell(root, params.tracking, news.moved(root, params.tracking, made, decision))
    told = registry.result_of(outcome) if move or request else f"version {version} is champion already"
    return Completed(message=scrub(told))
