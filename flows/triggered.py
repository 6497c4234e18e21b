"""Who a flow run is for: a person where the server tells, and otherwise the account that works here."""

from __future__ import annotations

from pathlib import Path

from prefect.context import FlowRunContext

from videollava.who import name_account, name_person

__all__ = ["triggered_by"]


def triggered_by(root: Path, named: str = "") -> str:
    """`named` (the run's parameter `who`), else whoever the server says created the run, else the person at work in
    `root`; a run of a deployment has no such person, and is its worker's.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if named.strip():
        return named.strip()
    if run is not None and run.created_by is not None and run.created_by.display_value:
        return f"{run.created_by.display_value} ({(run.created_by.type or 'user').lower()})"
    return name_account() if run is not None and run.deployment_id else name_person(root)
