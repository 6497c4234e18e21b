"""Gate a version and make it champion: the work of the flow `promote` (flows/deployed.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.states import Completed, Failed

from flows.evaluate import answer_as_champion
from flows.places.lock import hold
from flows.shown import show_table
from flows.storage import stores
from flows.telling import tell
from flows.triggered import triggered_by
from videollava import registry
from videollava.errors import InputError
from videollava.params import load_params
from videollava.registry import news
from videollava.scrub import scrub

__all__ = ["promote"]


def promote(root: Path, version: str, because: str = "", who: str = "") -> Any:
    """Make `version` (a number or models:/... address) champion if the gate allows; where gate.yaml wants approval, ask
    for it, or agree to what another asked for.

    The champion answers first what it was not asked yet, where this checkout has the version's questions.

    who: the person; by default what the server or this machine tells.

    The run fails, with the gate's reasons, where the gate refuses, and with a sentence where the version or its
    files are gone, or the registry does not answer.
    """
    try:
        params, places = load_params(root / "params.yaml"), stores(root)
        number = registry.find_version(root, params.tracking, version).number
        with hold(root, shared=True) as lock:
            answer_as_champion(root, params, number, lock, places)
        outcome = registry.promote(
            root, params, version, places=places, because=because, who=triggered_by(root, who)
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
