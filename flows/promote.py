"""Gate a version and make it champion: the Prefect flow `promote`, deployment `promote/promote`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.states import Completed, Failed

from flows.workspace import repository
from videollava import registry
from videollava.params import load_params

__all__ = ["promote"]


@flow(name="promote", log_prints=False)
def promote(version: int | str, force: bool = False, workspace: str = "") -> Any:
    """Make `version` (a number or models:/... address) champion if the gate allows, or whatever it says
    (`force`).

    The run fails, with the gate's reasons, where the gate refuses.
    """
    root = Path(workspace).resolve() if workspace else repository()
    decision, move = registry.promote(root, load_params(root / "params.yaml"), str(version), force)
    create_table_artifact(
        decision.cells(), key="scores", description=f"version {version} against the champion"
    )
    for reason in decision.reasons:
        get_run_logger().warning("gate: %s", reason)
    for note in decision.notes:
        get_run_logger().info("gate: %s", note)
    if move is None and not decision.passed:
        return Failed(message="refused by the gate: " + "; ".join(decision.reasons))
    return Completed(
        message=f"champion is version {move.to}" if move else f"version {version} is champion already"
    )
