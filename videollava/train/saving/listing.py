"""What stands in the places of machine.yaml, over all runs that keep checkpoints there: listed, and removed by name."""

from __future__ import annotations

import json
import re
import shutil
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from videollava.errors import InputError
from videollava.machine import Machine
from videollava.train.saving.holder import HOLDER
from videollava.train.saving.objects import Away, Found, Objects, Refused
from videollava.train.saving.opening import folder_of, is_s3, objects_of
from videollava.train.saving.places import MANIFEST, in_words

__all__ = ["Run", "describe", "find_runs", "remove_run"]

NAME = re.compile(r"[a-z]+(?:-[a-z]+)?-[0-9a-f]{16}")  # stage, part of it, key
STEP = re.compile(rf"step-(\d{{8}})(?:\.[^/]+)?/{re.escape(MANIFEST)}")


@dataclass(frozen=True)
class Run:
    """One stage's with one key. step: of the newest checkpoint that stands, 0: none does; host: that worked there;
    address: of the place, as machine.yaml has it.
    """

    where: str
    name: str
    step: int
    nbytes: int
    written: datetime
    host: str
    address: str = ""


def find_runs(machine: Machine, workspace: Path) -> list[Run]:
    """By place and name. InputError where a store is away or refuses."""
    found = []
    for address in _addresses(machine):
        where, files = _look(address, workspace)
        runs: dict[str, dict[str, Found]] = {}
        for name, about in files.items():
            run, _, rest = name.partition("/")
            if rest and NAME.fullmatch(run):
                runs.setdefault(run, {})[rest] = about
        for run, below in sorted(runs.items()):
            steps = [int(match[1]) for name in below if (match := STEP.fullmatch(name))]
            size, last = sum(one.size for one in below.values()), max(one.written for one in below.values())
            host = _host(address, workspace, run) if HOLDER in below else ""
            found.append(Run(where, run, max(steps, default=0), size, last, host, address))
    return found


def describe(runs: Iterable[Run]) -> str:
    """One line a run, below its place."""
    lines, where = [], ""
    for run in runs:
        if run.where != where:
            where = run.where
            lines.append(where)
        step = f"step {run.step:,}" if run.step else "none whole"
        when = run.written.astimezone().strftime("%Y-%m-%d %H:%M")
        lines.append(f"  {run.name:34} {step:>12} {in_words(run.nbytes):>12}  {when}  {run.host}".rstrip())
    return "\n".join(lines) or "no checkpoints: no stage was interrupted"


def remove_run(name: str, machine: Machine, workspace: Path) -> str:
    """Remove all of a run's, in the place it stands in; that, in words. InputError where there is none of that name."""
    runs = [run for run in find_runs(machine, workspace) if run.name == name]
    if not runs:
        raise InputError(
            f"{name}: no checkpoints of that name; `videollava checkpoints` lists those that are there"
        )
    for address in _addresses(machine):
        if is_s3(address):
            objects = objects_of(address, workspace, name)
            for one in sorted(_asked(objects), key=lambda one: not one.endswith(MANIFEST)):
                objects.remove(one)
        else:
            shutil.rmtree(folder_of(address, workspace) / name, ignore_errors=True)
    return "\n".join(f"removed {run.where}/{run.name}: {in_words(run.nbytes)}" for run in runs)


def _addresses(machine: Machine) -> list[str]:
    """Of all stages, each once."""
    own = [stage.get("checkpoint_place", machine.checkpoint_place) for stage in machine.stages.values()]
    return list(dict.fromkeys([machine.checkpoint_place, *map(str, own)]))


def _look(address: str, workspace: Path) -> tuple[str, Mapping[str, Found]]:
    """What people call a place, and all its files."""
    if is_s3(address):
        objects = objects_of(address, workspace)
        return objects.url, _asked(objects)
    folder = folder_of(address, workspace)
    files = {}
    for path in folder.glob("*-????????????????/**/*"):
        with suppress(FileNotFoundError):  # a run that is at work drops what is old
            told = path.stat()
            if stat.S_ISREG(told.st_mode):
                written = datetime.fromtimestamp(told.st_mtime, UTC)
                files[str(path.relative_to(folder))] = Found(told.st_size, written)
    return str(folder), files


def _asked(objects: Objects) -> dict[str, Found]:
    try:
        return objects.find()
    except (Away, Refused) as error:
        raise InputError(f"{objects.origin}: {objects.url}: {error}") from error


def _host(address: str, workspace: Path, run: str) -> str:
    try:
        if is_s3(address):
            held = (objects_of(address, workspace, run).read(HOLDER) or b"").decode()
        else:
            held = (folder_of(address, workspace) / run / HOLDER).read_text()
        return str(json.loads(held)["host"])
    except (Away, Refused, OSError, ValueError, KeyError, TypeError):
        return ""
