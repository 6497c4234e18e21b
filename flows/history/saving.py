"""`videollava save [--name NAME]`: what `make retrain` does by itself, after a bare `dvc repro`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flows.history.keep import keep, push_refs, tie
from flows.history.save import Saved
from flows.places.lock import hold
from videollava import registry
from videollava.errors import InputError
from videollava.params import Params, load_params

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `videollava save`."""
    parser.add_argument("--name", default="", help="the experiment's name in `dvc exp list`")
    parser.add_argument(
        "--push", metavar="REMOTE", default="", help="push it, and its tag, to this git remote"
    )


def run(options: argparse.Namespace) -> int:
    """Save the retraining that lies here; name it after its version where it is registered."""
    root = Path.cwd()
    params = load_params(root / "params.yaml")
    with hold(root):
        saved = keep(root, root, params, options.name)
        for note in saved.notes:
            print(f"note: {note}", file=sys.stderr)
        print(
            f"{saved.ref.rpartition('/')[2]}: {saved.commit[:12]} {'saved' if saved.new else '(saved before)'}"
        )
        refs = [saved.ref, *_name(root, params, saved)]
    if options.push:
        print("\n".join(f"pushed: {ref}" for ref in push_refs(root, options.push, refs)))
    return 0


def _name(root: Path, params: Params, saved: Saved) -> list[str]:
    """The ref of the registered version, where there is one of what lies here."""
    try:
        version = registry.registered(root, params.tracking)
        if version is None:
            print("no version yet; `make retrain` registers it, without another training")
            return []
        named = tie(root, root, params, version, saved)
    except InputError as error:
        print(f"not named after a version: {error}", file=sys.stderr)
        return []
    if named.note:
        print(f"note: {named.note}", file=sys.stderr)
        return []
    print(f"{version.reference}: {named.ref.removeprefix('refs/tags/')}")
    return [named.ref]
