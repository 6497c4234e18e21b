"""Which pool and worker this flow run is at: told to the stages' processes, whose journals keep it."""

from __future__ import annotations

import os

from prefect.context import FlowRunContext

from videollava.tracking import PLACE

__all__ = ["note_place"]


def note_place() -> None:
    """Have this process and those it starts know where they are; nothing where no worker started the run."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    os.environ[PLACE["pool"]] = (run.work_pool_name or "") if run else ""
    os.environ[PLACE["worker"]] = os.environ.get("PREFECT__WORKER_NAME", "")
