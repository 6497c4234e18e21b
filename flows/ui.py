"""`python -m flows.ui`: the Prefect and MLflow pages over this checkout's history, until Ctrl-C; where its stack is up
(`make up`), the addresses of the stack's.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import urllib.error
from contextlib import ExitStack
from pathlib import Path

from flows.servers.ports import own_address, reserve
from flows.servers.probe import is_up, open_address
from flows.servers.server import LOCAL, START_SECONDS, Server, find_configured, start_server
from flows.stack.stack import FOLDER, addresses
from videollava.errors import InputError
from videollava.params import load_params
from videollava.process import Supervised
from videollava.scrub import scrub
from videollava.tracking.forward import replay
from videollava.tracking.store import connect, tracking_uri

__all__ = ["serve"]

PREFECT_PORT = 4200
MLFLOW_PORT = 5000
GRACE_SECONDS = 3.0


def serve(root: Path) -> None:
    """Start what is not there yet, print the addresses, and wait; both are ended on the way out.

    A stack that is up has both already: its addresses are printed.
    """
    if there := addresses(root / FOLDER):
        print(there, flush=True)
        return
    print("starting the pages (some 20 s)", flush=True)
    with ExitStack() as stack:
        server = _prefect(root, stack)
        mlflow, pages = _mlflow(root, stack)
        server.wait()
        if server.running:
            _make_pools(root, server.url)
        if pages:
            _wait_for_page(mlflow, pages)
        places = scrub(f"Prefect  {server.url.removesuffix('/api')}\nMLflow   {mlflow}")
        print(f"{places}\nCtrl-C ends both", flush=True)
        while True:
            time.sleep(3600)


def _prefect(root: Path, stack: ExitStack) -> Server:
    url = find_configured() or (LOCAL if is_up(LOCAL) else "")
    return Server(url) if url else stack.enter_context(start_server(root, PREFECT_PORT, grace=GRACE_SECONDS))


def _make_pools(root: Path, api: str) -> None:
    """Those of pools.yaml: `prefect deploy --all` wants them there."""
    from prefect.client.orchestration import SyncPrefectClient

    from flows.pools import settle
    from videollava.machine.pools import load_pools

    with SyncPrefectClient(api) as client:
        settle(client, load_pools(root), root)


def _mlflow(root: Path, stack: ExitStack) -> tuple[str, Supervised | None]:
    tracking = load_params(root / "params.yaml").tracking
    uri = tracking_uri(root, tracking)
    replay(root, tracking, connect(root, tracking))
    if uri.startswith("http"):
        return uri, None
    host, port = stack.enter_context(reserve(MLFLOW_PORT))
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port)]
    command += ["--backend-store-uri", uri, "--workers", "1"]
    # Pages only: none of the seven processes with which it would run jobs.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = stack.enter_context((root / ".mlflow" / "server.log").open("ab"))
    running = stack.enter_context(Supervised(command, root, environment, log.fileno(), GRACE_SECONDS))
    return own_address(host, port), running


def _wait_for_page(url: str, running: Supervised) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with open_address(f"{url}/health"):
                return
        except (urllib.error.URLError, OSError) as error:
            if running.poll() is not None or time.monotonic() > deadline:
                raise InputError(f"no MLflow server came up at {url}; see .mlflow/server.log") from error
            time.sleep(0.2)


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m flows.ui", description=__doc__).parse_args()
    try:
        serve(Path.cwd())
    except KeyboardInterrupt:
        print()
    except InputError as problem:
        raise SystemExit(f"error: {problem}") from problem
