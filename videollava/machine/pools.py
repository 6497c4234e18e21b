"""pools.yaml: the work pools that a team shares, and what stands behind each. In git, for it is the same for everybody;
machine.yaml says which of them a coordinator sends its stages to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from videollava.errors import InputError
from videollava.machine.reading import preset_file, read_machine
from videollava.machine.sections import Machine
from videollava.params import read_mapping, read_section
from videollava.params.bounds import Count, Name, Section

__all__ = ["FILE", "PRIORITIES", "Pool", "Priority", "load_pool", "load_pools", "machine_of"]

FILE = "pools.yaml"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
Priority = Literal["urgent", "default", "background"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)  # queues of every pool, the first to be served first


class Pool(Section):
    """One work pool."""

    type: Name = Field("process", description="of Prefect's: process, docker, kubernetes")
    slots: Count = Field(1, description="runs at once in the whole pool; of GPUs: how many machines it has")
    worker: Count = Field(1, description="runs at once of one worker (its --limit)")
    queues: Mapping[Priority, Count] = Field(
        {}, description="slots that the runs of a priority may take at most; without one: all"
    )
    template: str = Field(
        "", description='JSON file of the base job template, from this file on; "": the type\'s own'
    )
    machine: str = Field(
        "", description="a preset, or a machine file (from this file on), as its workers have it"
    )
    gpu: str = Field("", description="kind of its GPUs, such as H100 (`videollava plan --gpu`)")


def load_pools(workspace: Path, file: Path | None = None) -> dict[str, Pool]:
    """The pools by name, from pools.yaml of the workspace or `file`. InputError where it is missing or mistaken."""
    file = file or workspace / FILE
    if not file.is_file():
        raise InputError(f"{file}: no such file; it lists the team's work pools (docs/teams.md has one)")
    pools = {}
    for name, raw in read_mapping(file).items():
        _check_name(name, file)
        if not isinstance(raw, Mapping | None):
            raise InputError(f"{file}: {name}: must be a mapping, such as {{slots: 1}}")
        pool = read_section(Pool, raw or {}, f"{file}: {name}")
        if over := [queue for queue, most in pool.queues.items() if most > pool.slots]:
            raise InputError(f"{file}: {name}: queues.{over[0]}: more than the pool's slots ({pool.slots})")
        pools[name] = pool
    return pools


def load_pool(name: str, workspace: Path) -> Pool:
    """One of them. InputError names those there are."""
    pools = load_pools(workspace)
    if name not in pools:
        raise InputError(f"{workspace / FILE}: no pool {name!r}; there are: {', '.join(pools) or 'none'}")
    return pools[name]


def machine_of(name: str, workspace: Path) -> tuple[Machine, str]:
    """The machine file behind a pool, and the kind of its GPUs. InputError where pools.yaml does not say, or the file
    leaves open how many GPUs there are.
    """
    pool = load_pool(name, workspace)
    where = f"{workspace / FILE}: {name}"
    if not pool.machine:
        raise InputError(
            f"{where}: machine says which preset or machine file its workers have; it is not set"
        )
    file = preset_file(pool.machine)
    if file is None:
        file = (workspace / pool.machine).resolve()
        if not file.is_file():
            raise InputError(f"{where}.machine: {pool.machine!r} is neither a preset nor a file")
    machine = read_machine(file)
    if machine.gpus == "all":
        raise InputError(f"{file}: gpus is all, which only the machine itself can count: write their number")
    return machine, pool.gpu


def _check_name(name: Any, file: Path) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InputError(f"{file}: {name!r}: a pool's name is letters, digits, - _ and .")
