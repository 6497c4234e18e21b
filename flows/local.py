"""`python -m flows.retrain`: a retraining in this checkout, with a Prefect server of its own where there is none."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from videollava.errors import InputError

__all__ = ["main"]


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
    options = parser.parse_args(arguments)
    began = time.monotonic()
    try:
        status = _retrain(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("\nstopped; `make retrain` goes on from the last checkpoint", file=sys.stderr)
        status = 130
    print(f"total: {time.monotonic() - began:.1f} s")
    return status


def _retrain(options: argparse.Namespace) -> int:
    from flows.workspace import apply_params, hold

    root = options.workspace.resolve()
    with hold(root):
        for change in apply_params(root, options.profile, options.overrides):
            print(f"params.yaml: {change} (git shows it; `git checkout params.yaml` takes it back)")
        if _nothing_to_do(root, options.promote):
            return 0
    return _run_flow(root, options)


def _nothing_to_do(root: Path, promote: bool) -> bool:
    """Say so where every stage is up to date, these outputs are registered, and promotion has been settled."""
    from flows.stage import is_current

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
    decision = registry.examine(version, live, params)
    been_champion = any(version.number == move.to for move in registry.trail(root, params.tracking, store))
    if promote and decision.passed and not been_champion:
        return False
    print("nothing to retrain: data, code and parameters are as they were\n")
    print(decision.table())
    for reason in decision.reasons if promote else ():
        print(f"gate: {reason}")
    print(f"\nmodel {version.reference}{_at(version.aliases)}{_live(live, version.number)}")
    return True


def _run_flow(root: Path, options: argparse.Namespace) -> int:
    from flows.server import prefect_server, wait_until_up

    with prefect_server(root) as (url, own):
        print(f"Prefect: {url.removesuffix('/api')}{' (for this run)' if own else ''}")
        # Prefect's log goes to its server; this terminal shows the stages' own output, and errors.
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "ERROR")
        import flows.retrain as module  # seconds, while the server starts

        wait_until_up(url)
        module.echo = _echo
        outcome = module.retrain(
            promote=options.promote, workspace=str(root), push=options.push, return_state=True
        )
        _drain()
        return _report(root, outcome)


def _report(root: Path, state: Any) -> int:
    if not state.is_completed():
        error = state.result(raise_on_failure=False)
        print(f"\nretraining failed: {error}", file=sys.stderr)
        return getattr(error, "status", 0) or 1
    result = state.result()
    from videollava import registry
    from videollava.params import load_params

    print("\nstage       outcome     seconds")
    for stage in result["stages"]:
        print(f"{stage['stage']:<12}{stage['outcome']:<12}{stage['seconds']:7.1f}")
    print(f"\n{result['table']}")
    for reason in result["reasons"]:
        print(f"gate: {reason}")
    tracking = load_params(root / "params.yaml").tracking
    version = registry.find_version(root, tracking, str(result["version"]["number"]))
    live = registry.champion(root, tracking)
    state_words = "new" if result["version"]["new"] else "registered before"
    print(f"\nmodel {version.reference} ({state_words}){_at(version.aliases)}{_live(live, version.number)}")
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
