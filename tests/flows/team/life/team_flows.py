"""A coordinator and a stage, small, as flows on real workers: what runs in tests of who lives and who is dead."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.states import Failed

from flows.shown import hide_in_failures
from flows.stages.again import run_on
from flows.stages.stage import StageFailed
from flows.team.life.ends import as_state, may_help
from flows.team.life.pulse import beating
from flows.team.life.watch import wait_for_run
from videollava.process import OutputLines, run_streamed

# Steps of half a second into the journal; each line of `log` is written by one process at a time, or is not.
STAGE = """
import os, subprocess, sys, time, uuid
from pathlib import Path
from videollava.tracking.journal import Journal

mode, steps, root = sys.argv[1], int(sys.argv[2]), Path.cwd()
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(900)  # " + str(root)], start_new_session=True)
journal = Journal(root / "runs/finetune" / f"{uuid.uuid4().hex[:16]}-001.jsonl", uuid.uuid4().hex)
journal.start("finetune", {}, {})
until = time.monotonic() + (12 if mode == "loads" else 0)
while time.monotonic() < until:
    sum(range(100000))
journal.tags({"steps": str(steps)})
place = root / "place"
start = int(place.read_text()) if place.exists() else 0
for step in range(start + 1, steps + 1):
    time.sleep(0.5)
    journal.metrics(step, {"loss": 1 / step, "step_seconds": 0.5})
    place.write_text(str(step))
    with open(root / "log", "a") as log:
        log.write(f"{os.getpid()} {step}\\n")
    if mode == "hangs" and step == 5:
        while True:
            pass
journal.end()
"""


@flow(name="stage")
@hide_in_failures
def stage(root: str, mode: str = "", steps: int = 30) -> State[None] | int:
    """Works in `root`, which stands for a place that all workers see."""
    log, place = get_run_logger(), Path(root)

    def work() -> None:
        with pulse.over(place, "finetune") as heard:
            lines = OutputLines(heard(log.info))
            command = [sys.executable, "-c", STAGE, mode, str(steps)]
            if status := run_streamed(command, place, os.environ, lines, look=pulse.look):
                raise StageFailed("finetune", status, [])

    with beating(log.info) as pulse:
        try:
            run_on(place, "finetune", work, log.warning)
        except StageFailed as error:
            return as_state(error)
    return os.getpid()


@flow(name="retrain")
@hide_in_failures
def lead(root: str, key: str, mode: str = "", steps: int = 30) -> State[None] | int:
    """Has `stage` work, as often as it may help; the tries it took."""
    log, tries = get_run_logger(), 0
    with beating(log.info):
        while True:
            tries += 1
            with get_client(sync_client=True) as client:
                deployment = client.read_deployment_by_name("stage/stage")
                parameters = {"root": root, "mode": mode, "steps": steps}
                run = client.create_flow_run_from_deployment(
                    deployment.id, parameters=parameters, idempotency_key=f"{key}-{tries}"
                )
            end = wait_for_run(run.id, log.warning)
            if end.is_completed():
                return tries
            if not may_help(end, tries):
                return Failed(name=end.name, message=end.message)
