"""What a command of the command line is made of, and a parser that drops nothing of what is typed."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["Arguments", "Command", "Parser", "add_params", "file_to_write", "folder_to_write", "with_model"]

Arguments = argparse.Namespace


@dataclass(frozen=True)
class Command:
    """`add` declares the arguments, `run` does it; its result is the exit status (None: 0)."""

    about: str
    add: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Arguments], int | None]


class Parser(argparse.ArgumentParser):
    """Refuses what argparse takes in silence: an option of one value given twice (the last would win), a part of an
    option's name, an empty argument (a shell's variable that is not set; "" as a path would be this folder).
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **options})
        for name in (None, "store"):
            self.register("action", name, _Once)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse, once no argument is empty."""
        import sys

        given = list(sys.argv[1:] if args is None else args)
        self._refuse_empty(given)
        return super().parse_args(given, namespace)

    def _refuse_empty(self, given: Sequence[str]) -> None:
        for place, argument in enumerate(given):
            name, _, value = argument.partition("=")
            after = given[place - 1] if place else ""
            if not argument.strip():
                self._refuse(f"an argument is empty{f', the one after {after}' if after else ''}")
            if argument.startswith("--") and "=" in argument and not value.strip():
                self._refuse(f"{name} is empty")

    def _refuse(self, problem: str) -> NoReturn:
        self.error(f"{problem}: give a value (is a variable of the shell not set?), or leave it out")


class _Once(argparse.Action):
    """Stores a value, once."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        given: frozenset[str] = getattr(namespace, "given", frozenset())
        if option_string and self.dest in given:
            raise argparse.ArgumentError(self, "given twice; it takes one value")
        if option_string:
            namespace.given = given | {self.dest}
        setattr(namespace, self.dest, values)


def folder_to_write(text: str) -> Path:
    """The folder of an argument. ArgumentTypeError where it could not be made or written to, before any work."""
    path = Path(text)
    there = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    if not there.is_dir():
        raise argparse.ArgumentTypeError(f"{there}: no folder; name one, or a new one")
    if not os.access(there, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"{there}: not writable; name another folder")
    return path


def file_to_write(text: str) -> Path:
    """The file of an argument, likewise."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: a folder; name a file")
    folder_to_write(str(path.parent))
    return path


def add_params(parser: argparse.ArgumentParser) -> None:
    """--params FILE and --set KEY=VALUE."""
    parser.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="parameters (default: params.yaml)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one, such as finetune.epochs=2",
    )


def with_model(arguments: Arguments, model: str, *more: str) -> list[str]:
    """The command's words with another `--model`, and `more`; whatever else said which model it is is left out."""
    words = list(arguments.words)
    for name in ("--model", "--checkpoint"):
        words = [word for word in words if not word.startswith(f"{name}=")]
        if name in words:
            place = words.index(name)
            del words[place : place + 2]
    return [*words, f"--model={model}", *more]
