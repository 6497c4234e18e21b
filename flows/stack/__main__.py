"""`python -m flows.stack up|down|status|restart PART|join CHECKOUT`: a team's servers and workers on this machine
(docs/stack.md).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from flows.stack.origin import join
from flows.stack.stack import FOLDER, Stack, is_stack
from videollava.errors import InputError

__all__ = ["main"]


def main(words: Sequence[str] | None = None) -> int:
    """The command line; its exit status."""
    options = _parser().parse_args(words)
    folder = Path(options.folder)
    try:
        if options.verb != "up" and not is_stack(folder):
            raise InputError(f"{folder.absolute()}: no stack was made there; `make up` makes one")
        stack = Stack(
            folder,
            lambda line: print(line, flush=True),
            workers=not getattr(options, "servers_only", False),
            ranks=getattr(options, "ranks", 1),
        )
        return _do(stack, options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "\ninterrupted: what was started stays, `make up` goes on and `make down` ends it",
            file=sys.stderr,
        )
        return 130


def _do(stack: Stack, options: argparse.Namespace) -> int:
    if options.verb == "up":
        seconds = stack.up()
        print(f"the stack is up after {seconds:.0f} s\n{stack.places}")
    elif options.verb == "down":
        stack.down()
        print("the stack is down; what it keeps is in " + str(stack.folder))
    elif options.verb == "restart":
        stack.restart(options.part)
    elif options.verb == "join":
        join(stack.ground, Path(options.checkout).expanduser().absolute())
        print(f"{options.checkout}: DVC's remote is the stack's; keys: . {stack.folder / 'stack.env'}")
    else:
        return _tell_status(stack, options.json)
    return 0


def _tell_status(stack: Stack, as_json: bool) -> int:
    states = stack.status()
    print(
        json.dumps(states) if as_json else "\n".join(f"{name:<14}{state}" for name, state in states.items())
    )
    if not as_json:
        print(stack.places)
    return 0 if set(states.values()) == {"up"} else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flows.stack", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, words in {
        "up": "start what does not run, and wait until all of it answers",
        "down": "end all of it; what it keeps stays",
        "status": "what runs; exit status 1 where something does not",
        "restart": "end one part and start it again",
        "join": "clone the stack's origin into a folder, or give the checkout there the stack's DVC remote",
    }.items():
        verb = verbs.add_parser(name, help=words, description=words)
        verb.add_argument("--folder", default=FOLDER, help=f"of the stack; default {FOLDER}")
        if name == "up":
            verb.add_argument("--servers-only", action="store_true", help="start no worker")
            verb.add_argument("--ranks", type=int, default=1, help="of the gpu worker's stages; default 1")
        if name == "restart":
            verb.add_argument("part", help="postgres, s3, mlflow, prefect, or a worker")
        if name == "join":
            verb.add_argument("checkout", help="the folder")
        if name == "status":
            verb.add_argument("--json", action="store_true", help="for programs")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
