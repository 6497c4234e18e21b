"""What a command of the command line is made of."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Arguments", "Command", "add_params"]

Arguments = argparse.Namespace


@dataclass(frozen=True)
class Command:
    """`add` declares the arguments, `run` does it; its result is the exit status (None: 0)."""

    about: str
    add: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Arguments], int | None]


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
