"""What a team's way costs over the bare commands: a stack comes up, and the whole pipeline runs in it and without it.

    python bench/stack.py [--folder FOLDER] [--ranks 2] [--set KEY=VALUE]...

The recipe is the tiny one, cut to minutes. Bare: the stages' own commands one after the other in a clean clone, with
no DVC, no MLflow, no Prefect and no S3. In the stack: `retrain/team` from another folder, on a warm stack of its own
(fetch to index on the data worker, the rest on the gpu worker, data through S3), registered and through the gate; then
the same once more. Before and after each, the load of the machine: what else runs there is part of a figure.
"""

from __future__ import annotations

import argparse
import os
import shlex
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
                shlex.split(commands[name]), cwd=root, env=environment, stdout=log, stderr=log
            )
        if done.returncode:
            raise SystemExit(f"{name} failed: {root / 'bare.log'}")
        seconds[name] = time.monotonic() - began
    return seconds


def trigger(stack: Stack) -> tuple[float, dict[str, Any]]:
    """Seconds from the asking to the end of a run of retrain/team, and the run."""
    base, who = api(stack.ground), login(stack.ground)
    began = time.monotonic()
    deployment = ask(f"{base}/deployments/name/retrain/team", who)["id"]
    run = ask(f"{base}/deployments/{deployment}/create_flow_run", who, {"parameters": {}})
    while run["state_type"] not in OVER:
        time.sleep(0.5)
        with suppress(OSError):
            run = ask(f"{base}/flow_runs/{run['id']}", who)
    seconds = time.monotonic() - began
    if run["state_type"] != "COMPLETED":
        raise SystemExit(f"retrain/team: {run['state_name']}: {run['state'].get('message')}")
    return seconds, run


def measure(what: str, work: Callable[[], Any]) -> Any:
    """What `work` returns, with its time and the machine's load told."""
    before, began = os.getloadavg()[0], time.monotonic()
    found = work()
    print(
        f"| {what} | {time.monotonic() - began:.0f} s | {before:.1f}, {os.getloadavg()[0]:.1f} |", flush=True
    )
    return found


def compare(folder: Path, ranks: int, changes: list[str]) -> None:
    """Print the table, row by row as it is found."""
    source = lay_out(folder, changes)
    stack = Stack(folder / "stack", source=source, ranks=ranks)
    print("| what | wall time | load before, after |\n|---|---|---|", flush=True)
    try:
        measure("`make up`, the first time", stack.up)
        measure("`make down`", stack.down)
        measure("`make up` again", stack.up)
        bare = measure("bare: the stages' commands", lambda: run_bare(source, folder / "bare", ranks))
        whole, _ = measure("`retrain/team`: all of it, registered and promoted", lambda: trigger(stack))
        measure("`retrain/team` again: nothing to do", lambda: trigger(stack))
    finally:
        stack.down()
    print(f"\nover the bare commands: {whole - sum(bare.values()):.0f} s")
    print(
        yaml.safe_dump({name: round(seconds, 1) for name, seconds in bare.items()}, default_flow_style=True)
    )


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
