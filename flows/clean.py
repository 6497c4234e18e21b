"""`python -m flows.clean`: remove what only work in progress needs; with --all, all that retraining made.

Standard library only, so that it cleans a checkout whose environment is gone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from flows.places.clones import CLONES, drop_old_clones, drop_sync
from flows.places.lock import hold
from videollava.errors import InputError

__all__ = ["clean", "purge"]

CACHES = (".ruff_cache", ".mypy_cache", ".pytest_cache")
CODE = ("bench", "flows", "tests", "videollava")
DVC_TMP = ".dvc/tmp"
DVC_OWN = ("exps", "lock", "rwlock", "rwlock.lock")  # queued experiments, and locks that a DVC may hold
# Outputs of the stages by name: what else lies in data/ and models/ is a person's own.
STAGED = (
    "data/raw",
    "data/shards",
    "data/index",
    "models/bases",
    "models/encoders",
    "models/given",
    "models/projector",
    "models/videollava",
    "evaluation",
    "plots",
    "metrics.json",
)
RECORDS = ("runs", ".mlflow", ".prefect", ".dvc/cache")
STALE_SECONDS = 86400.0
KEPT = """kept: outputs of the stages, models and champion (.mlflow, DVC's cache), journals, history (runs, .prefect);
`make purge CONFIRM=yes` removes those too"""


def clean(root: Path) -> None:
    """Remove checkpoints, clones nobody works in, temporary files and the caches of tools; say what stays.

    A training that was interrupted begins again. Nothing that exists once goes: versions stay loadable, stages stay
    up to date. InputError while a retraining is at work.
    """
    with hold(root, wait=0.0):
        drop_old_clones(root, keep=0)
        drop_sync(root)
        freed = sum(_remove(root, path) for path in _working(root))
    print(f"removed {_size(freed)}: checkpoints, clones, temporary files, caches of tools\n{KEPT}")
    for place in _places(root):
        print(
            f"kept: checkpoints in {place}, which other checkouts may share; `videollava checkpoints` lists them"
        )


def purge(root: Path, confirmed: bool) -> bool:
    """Remove all that retraining made in this checkout, models and champion too; whether it was.

    Without confirmation it says what would go. What lies outside (a DVC cache or remote elsewhere, targets of links,
    servers) stays.
    """
    names = [*STAGED, *RECORDS, "checkpoints", DVC_TMP]
    found = [root / name for name in names if os.path.lexists(root / name)]
    if not confirmed:
        for path in found:
            print(f"{_size(_weigh(path)):>10}  {path.relative_to(root)}")
        print(
            "\nnothing was removed. These hold the only copy of models, champion and history, unless they were"
        )
        print("pushed: `make purge CONFIRM=yes` removes them; `make clean` removes working files alone")
        return False
    with hold(root, wait=0.0):
        freed = sum(_remove(root, path) for path in [*_working(root), *found])
        for folder in {path.parent for path in found} - {root}:
            with suppress(OSError):  # something of a person's is in there
                folder.rmdir()
    print(f"removed {_size(freed)}; the environment stays (rm -rf .venv removes that too)")
    return True


def _working(root: Path) -> Iterator[Path]:
    yield root / "checkpoints"
    for path in [root / name for name in CACHES]:
        yield path
    for folder in [root / name for name in CODE if not (root / name).is_symlink()]:
        yield from sorted(folder.rglob("__pycache__"))
    yield from sorted(root.glob("*.tmp"))
    if (root / DVC_TMP).is_dir():
        yield from sorted(path for path in (root / DVC_TMP).iterdir() if path.name not in DVC_OWN)
    for path in [*(root / ".mlflow").glob("*/unfolding-*"), *(root / CLONES).glob("removing-*")]:
        if time.time() - path.lstat().st_mtime > STALE_SECONDS:
            yield path


def _places(root: Path) -> list[str]:
    """Where checkpoints stand outside this checkout, as its machine file says; none where its environment is gone."""
    try:
        from videollava.machine import load_machine

        machine = load_machine(root)
    except (ImportError, InputError):
        return []
    own = [stage.get("checkpoint_place", "") for stage in machine.stages.values()]
    places = dict.fromkeys([machine.checkpoint_place, *map(str, own)])
    own_folder = (root / "checkpoints").resolve()
    return [
        place
        for place in places
        if place
        and ("://" in place or not Path(root, Path(place).expanduser()).resolve().is_relative_to(own_folder))
    ]


def _remove(root: Path, path: Path) -> int:
    """Remove a file or folder of the checkout; how many bytes it had. Neither a link nor what it leads to."""
    if not os.path.lexists(path):
        return 0
    if path.is_symlink() or not path.parent.resolve().is_relative_to(root.resolve()):
        print(f"{path}: lies behind a link to {path.resolve()}; left as it is", file=sys.stderr)
        return 0
    weight = _weigh(path)
    try:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    except OSError as error:
        print(f"{error.filename or path}: not removed ({error.strerror})", file=sys.stderr)
        return weight - _weigh(path)
    return weight


def _weigh(path: Path) -> int:
    """Bytes of a file or of all files in a folder, hard links once, links not followed."""
    files = [path] if path.is_symlink() or not path.is_dir() else path.rglob("*")
    states = {
        (state.st_dev, state.st_ino): state.st_size for state in map(os.lstat, filter(os.path.lexists, files))
    }
    return sum(states.values())


def _size(number: int) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number} {unit}"
        number //= 1000
    return f"{number} GB"


def _main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.clean", description=__doc__)
    parser.add_argument(
        "--all", action="store_true", help="all that retraining made, not the working files alone"
    )
    parser.add_argument("--confirm", default="", metavar="yes", help="needed with --all")
    options = parser.parse_args(arguments)
    root = Path.cwd()
    try:
        if not (root / "dvc.yaml").is_file():
            raise InputError(f"{root}: no dvc.yaml; run from the repository root")
        if options.all:
            return 0 if purge(root, options.confirm == "yes") else 2
        clean(root)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(_main())
