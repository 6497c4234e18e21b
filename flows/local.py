"""`python -m flows.retrain`: a retraining in this checkout, with its own Prefect server if need be."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from videollava.ends import AGAIN, INTERRUPTED
from videollava.errors import InputError
from videollava.scrub import scrub

__all__ = ["main"]

CANCEL_SECONDS = 5.0  # between two looks for a cancellation


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and retrain; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m flows.retrain", description=__doc__)
    parser.add_argument("--profile", default="", help="write this profile to params.yaml first")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--no-promote", dest="promote", action="store_false", help="register only")
    parser.add_argument(
        "--no-push", dest="push", action="store_false", help="keep results here, whatever remote is set"
    )
    parser.add_argument(
        "--workspace", type=Path, default=Path("."), help="the checkout to work in (default: here)"
    )
    parser.add_argument(
        "--go-on-from",
        metavar="CHECKPOINT",
        default="",
        help="the folder of a checkpoint that its stage begins from, where it has none of its own",
    )
    options = parser.parse_args(arguments)
    began = time.monotonic()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        status = _retrain(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt as told:
        print("\nstopped; `make retrain` goes on from the last checkpoint", file=sys.stderr)
        status = AGAIN if isinstance(told, _Terminated) else INTERRUPTED
    print(f"total: {time.monotonic() - began:.1f} s")
    return status


class _Terminated(KeyboardInterrupt):
    """By SIGTERM: whoever sent it may start it again."""


def _terminate(*_: object) -> None:
    """As Ctrl-C: end the stage with a last checkpoint, tell Prefect, exit; a second one does not wait for that."""
    raise _Terminated


def _retrain(options: argparse.Namespace) -> int:
    _require("dvc", "prefect", "mlflow")
    from flows.places.by_hand import await_dvc
    from flows.places.lock import hold
    from flows.places.scm import settle_scm
    from flows.places.workspace import apply_params, checkout

    root = checkout(options.workspace)
    if options.go_on_from:
        from videollava.train.going_on import settle_other

        settle_other(options.go_on_from)
    with hold(root) as lock:
        await_dvc(root)
        if lacking := settle_scm(root):
            print(lacking, file=sys.stderr)
        for change in apply_params(root, options.profile, options.overrides):
            print(f"params.yaml: {scrub(change)} (git shows it; `git checkout params.yaml` takes it back)")
        if _nothing_to_do(root, options.promote):
            return 0
        return _run_flow(root, lock, options)


def _require(*packages: str) -> None:
    from importlib.util import find_spec

    if missing := [name for name in packages if find_spec(name) is None]:
        raise InputError(
            f"{sys.executable}: {' and '.join(missing)} not installed; a retraining needs the pipeline's packages: "
            "`make install`, then `make retrain`"
        )


def _nothing_to_do(root: Path, promote: bool) -> bool:
    """Say so where all stages are up to date, their outputs registered, and promotion is settled."""
    from flows.stages.stage import is_current
    from flows.storage import stores

    if not is_current(root):
        return False
    from videollava import registry
    from videollava.params import load_params

    params = load_params(root / "params.yaml")
    store = registry.open_store(root, params.tracking)
    version = registry.registered(root, params.tracking, store)
    if version is None:
        return False
    live = registry.champion(root, params.tracking, store)
    decision = registry.examine(version, live, params, root, stores(root))
    story = registry.tell(root, params.tracking, store)
    been_champion = any(version.number == move.to for move in story.moves)
    asked = story.asked(version.number)
    if promote and decision.passed and not been_champion and not asked:
        return False
    print("nothing to retrain: data, code and parameters are as they were\n")
    _make_up(root, params, version)
    print(decision.table())
    for reason in (*decision.reasons, *decision.notes) if promote else ():
        print(f"gate: {reason}")
    print(f"\nmodel {version.reference}{_at(version.aliases)}{_live(live, version.number)}")
    if asked:
        print(registry.sentence(asked))
    return True


def _make_up(root: Path, params: Any, version: Any) -> None:
    """Save in git what an earlier retraining could not, or made before there was such a thing."""
    from flows.history.keep import make_up

    try:
        told = make_up(root, params, version)
    except InputError as error:
        told = [f"version {version.number} is not saved in git: {error}"]
    if told:
        print("\n".join(told) + "\n")


def _run_flow(root: Path, lock: int, options: argparse.Namespace) -> int:
    from flows.servers.server import prefect_server

    with prefect_server(root) as server:
        own = server.running is not None
        print(
            scrub(f"Prefect: {server.url.removesuffix('/api')}{' (for this run)' if own else ''}"), flush=True
        )
        # Prefect's log goes to its server; this terminal shows the stages' own output.
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        from prefect.exceptions import TerminationSignal

        import flows.retrain as module  # seconds, while the server starts

        server.wait()
        if own:
            _close_lost_runs()
        module.echo = _echo
        module.held = root, lock
        watch = _Watch()
        run = module.retrain.with_options(on_running=[watch.begin])
        try:
            outcome = run(str(root), options.promote, options.push, return_state=True)
        except (KeyboardInterrupt, TerminationSignal) as told:
            watch.settle()
            by_signal = isinstance(told, _Terminated | TerminationSignal) and not watch.cancelled
            raise (_Terminated if by_signal else KeyboardInterrupt) from None
        finally:
            watch.over.set()
            _drain()
        return _report(root, outcome)


def _close_lost_runs() -> None:
    """On our own server nothing else runs: what it still holds as running was killed."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    running = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING]))
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=running)):
            client.set_flow_run_state(run.id, Crashed(message="its process went away"), force=True)


class _Watch:
    """Ends this process's flow when somebody cancels it on the Prefect page: no worker is there to do it."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.cancelled = False
        self._run: Any = None

    def begin(self, flow: Any, flow_run: Any, state: Any) -> None:
        """Called by Prefect when the flow runs."""
        self._run = flow_run.id
        threading.Thread(target=self._look, name="cancellation", daemon=True).start()

    def settle(self) -> None:
        """Tell the server that the flow was stopped on purpose."""
        from prefect.client.orchestration import get_client
        from prefect.states import Cancelled

        if self._run is not None:
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(self._run, Cancelled(message="stopped by a person"), force=True)

    def _look(self) -> None:
        from httpx import HTTPError
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            while not self.over.wait(CANCEL_SECONDS):
                with suppress(HTTPError):  # a server that is away for a while
                    state = client.read_flow_run(self._run).state
                    if state is not None and (state.is_cancelling() or state.is_cancelled()):
                        self.cancelled = True
                        os.kill(os.getpid(), signal.SIGTERM)
                        return


def _report(root: Path, state: Any) -> int:
    from flows.stages.stage import StageFailed
    from videollava import registry
    from videollava.params import load_params

    if not state.is_completed():
        error = state.result(raise_on_failure=False)
        if isinstance(error, BaseException) and not isinstance(error, InputError | StageFailed):
            print(scrub("".join(traceback.format_exception(error))), file=sys.stderr)
        print(f"\nretraining failed: {scrub(str(error)).partition(chr(10))[0]}", file=sys.stderr)
        return getattr(error, "status", 0) or 1
    result = state.result()
    wide = max(10, *(len(stage["stage"]) for stage in result["stages"])) + 2
    print(f"\n{'stage':<{wide}}outcome     seconds")
    for stage in result["stages"]:
        print(f"{stage['stage']:<{wide}}{stage['outcome']:<12}{stage['seconds']:7.1f}")
    if unpushed := [stage["stage"] for stage in result["stages"] if stage["unpushed"]]:
        print(f"\nnot on the DVC remote: {', '.join(unpushed)}; `dvc push --run-cache` sends them")
    print(f"\n{result['table']}")
    for reason in (*result["reasons"], *result["notes"]):
        print(f"gate: {reason}")
    tracking = load_params(root / "params.yaml").tracking
    version = registry.find_version(root, tracking, str(result["version"]["number"]))
    live = registry.champion(root, tracking)
    state_words = "new" if result["version"]["new"] else "registered before"
    print(f"\nmodel {version.reference} ({state_words}){_at(version.aliases)}{_live(live, version.number)}")
    if asked := registry.tell(root, tracking).asked(version.number):
        print(registry.sentence(asked))
    return 0


def _at(aliases: Sequence[str]) -> str:
    return "".join(f" @{alias}" for alias in aliases)


def _live(live: Any, number: int) -> str:
    if live is None:
        return "; there is no champion"
    return "" if live.number == number else f"; the champion is version {live.number}"


def _echo(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _drain() -> None:
    """Let Prefect send what it still holds before its server goes."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler

    EventsWorker.drain_all()
    APILogHandler().flush()
