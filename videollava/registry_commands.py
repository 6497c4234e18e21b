"""Commands on registered versions: each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from videollava.command import Arguments, Command, folder_to_write

__all__ = ["EXPORT"]


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("version", help="a number, an alias, models:/NAME/3 or models:/NAME@champion")
    parser.add_argument("folder", type=folder_to_write, help="a new or empty folder")


def _run_export(arguments: Arguments) -> None:
    from videollava.params import Tracking, load_params
    from videollava.registry.whole.export import export

    file = Path("params.yaml")
    tracking = load_params(file).tracking if file.is_file() else Tracking()
    for note in export(arguments.version, arguments.folder, Path.cwd(), tracking):
        print(f"note: {note}", file=sys.stderr)
    size = sum(path.stat().st_size for path in arguments.folder.rglob("*") if path.is_file())
    print(f"{arguments.folder}: {size / 2**20:,.1f} MiB; README.md says how to load it")


EXPORT = Command("a version as a folder that needs no registry and no network", _add_export, _run_export)
