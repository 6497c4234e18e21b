"""`python -m flows.worker POOL`: a Prefect worker in this checkout, which does what the pool is sent.

A run's code is this checkout's; what it works on comes by git, DVC's remote and MLflow, wherever this folder lies.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path
from typing import NoReturn

from flows.places.git import run_git
from flows.places.workspace import checkout
from flows.servers.server import find_configured
from flows.stages.remote import why_unreached
from flows.storage import has_remote
from flows.team.life.patience import be_patient
from videollava.errors import InputError
from videollava.machine.pools import FILE, load_pool
from videollava.params import load_params
from videollava.tracking.store import tracking_uri

__all__ = ["main", "worker_environment"]

HOME = "VIDEOLLAVA_HOME"  # the checkout that a worker's runs work for: prefect.yaml's `pull` goes there
HEALTH = "PREFECT_WORKER_WEBSERVER_PORT"  # where it is set the worker answers /health there
ASK_SECONDS = "2"  # between two questions for work: a team has tens of workers, not thousands


def main(arguments: list[str] | None = None) -> NoReturn:
    """Parse the command line, check what a worker needs, become the worker; status 2 where something is lacking."""
    parser = argparse.ArgumentParser(prog="python -m flows.worker", description=__doc__)
    parser.add_argument("pool", help="the work pool, as pools.yaml names it")
    parser.add_argument("--limit", type=int, help=f"runs at once (default: the pool's `worker` in {FILE})")
    own = f"{socket.gethostname()}-{os.getpid()}"
    parser.add_argument(
        "--name", default=own, help="the worker's name on the page (default: host and process)"
    )
    options = parser.parse_args(arguments)
    try:
        root = checkout(".")
        check(root)
        pool = load_pool(options.pool, root)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", options.pool]
    command += ["--type", pool.type, "--limit", str(options.limit or pool.worker)]
    command += ["--name", options.name]
    command += ["--with-healthcheck"] if os.environ.get(HEALTH) else []
    os.chdir(root)
    os.execve(sys.executable, command, worker_environment(root))


def worker_environment(root: Path) -> dict[str, str]:
    """What a worker in `root` and its runs are told: where it is, this checkout's code first, how patient to be."""
    code = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    own = {"PATH": path, HOME: str(root), "PYTHONPATH": code, "DO_NOT_TRACK": "1"}
    environment = {"PREFECT_WORKER_QUERY_SECONDS": ASK_SECONDS, **os.environ, **own}
    be_patient(environment)
    return environment


def check(root: Path) -> None:
    """InputError names what this checkout lacks to work for others: servers of Prefect and MLflow, origin, a remote."""
    if not find_configured():
        raise InputError("PREFECT_API_URL is not set: it names the team's Prefect server")
    if "origin" not in run_git(root, "remote").split():
        raise InputError(f"{root}: git has no remote origin; work comes from there")
    if not has_remote(root):
        raise InputError(f"{root}: DVC has no default remote (`dvc remote add --default`); results go there")
    if reason := why_unreached(root):
        raise InputError(f"{root}: the DVC remote does not answer: {reason}")
    uri = tracking_uri(root, load_params(root / "params.yaml").tracking)
    if not uri.startswith(("http://", "https://")):
        raise InputError(
            f"MLflow's store is {uri}, this checkout's own; MLFLOW_TRACKING_URI names the team's server"
        )


if __name__ == "__main__":
    main()
