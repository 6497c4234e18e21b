"""Where the machine file is found, and how it is read.

$VIDEOLLAVA_MACHINE names it; else machine.yaml of the checkout, else the user's (~/.config/videollava), else the
system's (/etc/xdg/videollava). The first that is there counts; they are not merged.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.machine.sections import STAGES, Machine, Work, lay_over
from videollava.params import read_mapping, read_section

__all__ = [
    "VARIABLE",
    "Found",
    "find_machine",
    "load_machine",
    "preset_file",
    "preset_names",
    "preset_text",
    "read_machine",
]

VARIABLE = "VIDEOLLAVA_MACHINE"
NAME = "machine.yaml"
# Keys of earlier versions, and what to write in their place.
OLDER = {
    "checkpoint_steps": "checkpoint_minutes, for they are written by time; in its place `checkpoint_minutes: 15`, or "
    "no line at all (0: after every step)",
}
PRESETS = Path(__file__).parents[2] / "infra/machines"


@dataclass(frozen=True)
class Found:
    """The machine file (None: there is none) and, in words, why it counts."""

    file: Path | None
    why: str


def find_machine(workspace: Path, environment: Mapping[str, str] = os.environ) -> Found:
    """The file that counts for this workspace. InputError where the variable names none."""
    if named := environment.get(VARIABLE):
        file = Path(named).expanduser().absolute()
        if not file.is_file():
            raise InputError(f"{VARIABLE} is {named!r}, and there is no such file: name another, or unset it")
        return Found(file, f"{VARIABLE} names it")
    for folder, whose in _folders(workspace, environment):
        if (folder / NAME).is_file():
            return Found((folder / NAME).absolute(), whose)
    return Found(None, "there is no machine.yaml")


def load_machine(workspace: Path, environment: Mapping[str, str] = os.environ) -> Machine:
    """The machine file of this workspace, checked for every stage; the defaults without one."""
    file = find_machine(workspace, environment).file
    return Machine() if file is None else read_machine(file)


def read_machine(file: Path) -> Machine:
    """A machine file, checked for every stage. InputError where it is mistaken."""
    raw = read_mapping(file)
    _refuse_older(raw, str(file))
    machine = read_section(Machine, raw, str(file))
    for stage in STAGES:
        shared = {name: value for name, value in raw.items() if name in Work.model_fields}
        read_section(Work, lay_over(shared, machine.stages.get(stage, {})), f"{file}: stages.{stage}")
    return machine


def _refuse_older(raw: Mapping[str, Any], origin: str) -> None:
    """A file of an earlier version is told what to write instead."""
    stages = raw.get("stages")
    parts = [raw, *stages.values()] if isinstance(stages, Mapping) else [raw]
    for part in parts:
        for key, now in OLDER.items():
            if isinstance(part, Mapping) and key in part:
                raise InputError(f"{origin}: {key} became {now}")


def preset_names() -> list[str]:
    """Names of the machine files that `videollava machine NAME` can write."""
    return sorted(file.stem for file in PRESETS.glob("*.yaml"))


def preset_file(name: str) -> Path | None:
    """Where one lies; None where there is none of that name."""
    return PRESETS / f"{name}.yaml" if name in preset_names() else None


def preset_text(name: str) -> str:
    """The YAML of one, comments included."""
    file = preset_file(name)
    if file is None:
        raise InputError(f"no machine {name!r}; there are: {', '.join(preset_names())}")
    return file.read_text()


def _folders(workspace: Path, environment: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    yield workspace, "it is the checkout's"
    home = environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME") or Path.home()) / ".config"
    yield Path(home) / "videollava", "it is the user's"
    for folder in (environment.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep):
        yield Path(folder) / "videollava", "it is the system's"
