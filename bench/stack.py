"""What a team's way costs over the bare commands: a stack comes up, and the whole pipeline runs in it and without it.

    python bench/stack.py [--folder FOLDER] [--ranks 2] [--set KEY=VALUE]...

The recipe is the tiny one, cut to minutes. Bare: the stages' own commands one after the other in a clean clone, with
no DVC, no MLflow, no Prefect and no S3. In the stack: `retrain/team` from another folder, on a warm stack of its own
(fetch to index on the data worker, the rest on the gpu worker, data through S3), registered and through the gate; then
the same once more. What else runs on the machine is part of a wall time, so the load is told with each; the time of CPU
is that of all processes of the stack, workers and stages too.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from flows.places.git import run_git  # noqa: E402
from flows.places.workspace import apply_params  # noqa: E402
from flows.stack.asking import ask  # noqa: E402
from flows.stack.orchestrator import api, login  # noqa: E402
from flows.stack.stack import Stack  # noqa: E402

SMALL = (
    *("sources.toy_clips.train=40", "sources.toy_clips.test=20", "index.sources.easy_vqa.most=120"),
    *("bases.epochs=1", "align.text_epochs=1", "align.image_epochs=1", "align.video_epochs=1"),
    *("align.text_batch_size=64", "align.least_learned=0", "pretrain.epochs=1", "evaluate.limit=30"),
)
OVER = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
WHO = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")


def lay_out(folder: Path, changes: list[str]) -> Path:
    """A clean clone of this checkout's commit with the small recipe, and a gate that any version passes."""
    source = folder / "source"
    run_git(ROOT, "clone", "--quiet", str(ROOT), str(source))
    apply_params(source, "", changes)
    # Else the first fetch notes what the source is, and the second retraining finds another lock in git.
    subprocess.run([sys.executable, "-m", "videollava", "data", "lock", "toy_clips"], cwd=source, check=True)
    gate = "videollava: {minimum_over_blind: -100.0, minimum_gain: 0.0, allowed_regression: 100.0}\n"
    (source / "gate.yaml").write_text(gate)
    run_git(source, *WHO, "commit", "--quiet", "--all", "-m", "A small recipe")
    return source


def run_bare(source: Path, root: Path, ranks: int) -> dict[str, float]:
    """Seconds of each stage's own command."""
    from dvc.repo import Repo

    run_git(source, "clone", "--quiet", str(source), str(root))
    (root / "machine.yaml").write_text(f"processes: {ranks}\n")
    with Repo(str(root)) as repo:
        commands = {stage.name: stage.cmd for stage in repo.index.stages}
    from flows.stages.graph import stage_order

    beside = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": f"{beside}{os.pathsep}{os.environ['PATH']}",
        "VIDEOLLAVA_FOLLOWED": "1",
    }
    environment.pop("PYTHONPATH", None)
    seconds = {}
    for name in stage_order(root):
        began = time.monotonic()
        with open(root / "bare.log", "ab") as log:
            done = subprocess.run(
                commands[name], shell=True, cwd=root, env=environment, stdout=log, stderr=log
            )
        if done.returncode:
            raise SystemExit(f"{name} failed: {root / 'bare.log'}")
        seconds[name] = time.monotonic() - began
    return seconds


def trigger(stack: Stack) -> None:
    """Ask for a run of retrain/team, and wait until it has ended well."""
    base, who = api(stack.ground), login(stack.ground)
    deployment = ask(f"{base}/deployments/name/retrain/team", who)["id"]
    run = ask(f"{base}/deployments/{deployment}/create_flow_run", who, {"parameters": {}})
    while run["state_type"] not in OVER:
        time.sleep(0.5)
        with suppress(OSError):
            run = ask(f"{base}/flow_runs/{run['id']}", who)
    if run["state_type"] != "COMPLETED":
        raise SystemExit(f"retrain/team: {run['state_name']}: {run['state'].get('message')}")


def spent(stack: Stack) -> float:
    """Seconds of CPU of this program's children that ended, and of all that the stack runs and ran since it is up."""
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = own.ru_utime + own.ru_stime
    for name in stack.parts:
        for pid in stack.processes(name):
            with suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


def measure(what: str, stack: Stack, work: Callable[[], Any], cpu: bool = True) -> tuple[Any, float, float]:
    """What `work` returns, its seconds and those of CPU; told as a row, with the machine's load."""
    load, used, began = os.getloadavg()[0], spent(stack) if cpu else 0.0, time.monotonic()
    found = work()
    seconds, used = time.monotonic() - began, spent(stack) - used if cpu else 0.0
    told = f"{used:.0f} s" if cpu else ""
    print(f"| {what} | {seconds:.0f} s | {told} | {load:.0f}, {os.getloadavg()[0]:.0f} |", flush=True)
    return found, seconds, used


def compare(folder: Path, ranks: int, changes: list[str]) -> None:
    """Print the table, row by row as it is found."""
    source = lay_out(folder, changes)
    stack = Stack(folder / "stack", source=source, ranks=ranks)
    print("| what | wall time | CPU | load before, after |\n|---|---|---|---|", flush=True)
    try:
        measure("`make up`, the first time", stack, stack.up)
        measure("`make down`", stack, stack.down, cpu=False)
        measure("`make up` again", stack, stack.up)
        bare = measure("bare: the stages' commands", stack, lambda: run_bare(source, folder / "bare", ranks))
        whole = measure("`retrain/team`: all of it, registered and promoted", stack, lambda: trigger(stack))
        measure("`retrain/team` again: nothing to do", stack, lambda: trigger(stack))
    finally:
        stack.down()
    print(f"\nover the bare commands: {whole[1] - bare[1]:.0f} s, {whole[2] - bare[2]:.0f} s of CPU")
    stages = {name: round(seconds, 1) for name, seconds in bare[0].items()}
    print(yaml.safe_dump(stages, default_flow_style=True, sort_keys=False))


def main() -> None:
    """Parse the options, and measure in a folder that is removed afterwards unless it was named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="an empty one, which stays")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    changes = [*SMALL, *options.set]
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
        return compare(options.folder.absolute(), options.ranks, changes)
    with tempfile.TemporaryDirectory(prefix="stack-") as folder:
        return compare(Path(folder), options.ranks, changes)


if __name__ == "__main__":
    main()
