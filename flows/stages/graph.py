"""The stages and their order, read from dvc.yaml: nothing else lists them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.params import Params
from videollava.registry.manifest import MODEL
from videollava.tracking.lineage import PARAMS, parameter_names, read_graph

__all__ = ["check_params", "kept_stages", "stage_inputs", "stage_order", "stage_outputs"]


def stage_order(workspace: Path, target: str = "") -> list[str]:
    """Names of all stages (or of `target` and what it needs), each after what it reads from.

    Among stages that could go either way, the order of the file. InputError on an empty or circular graph.
    """
    stages = _stages(workspace)
    if target and target not in stages:
        raise InputError(f"{workspace / 'dvc.yaml'}: no stage {target!r}; there are: {', '.join(stages)}")
    needs = {name: _needed(name, stages) for name in stages}
    wanted = _closure(target, needs) if target else set(stages)
    sorter = TopologicalSorter({name: needs[name] for name in stages if name in wanted})
    try:
        sorter.prepare()
    except CycleError as error:
        raise InputError(
            f"{workspace / 'dvc.yaml'}: stages need each other: {' -> '.join(error.args[1])}"
        ) from error
    order: list[str] = []
    ready: list[str] = []
    position = list(stages).index
    while sorter.is_active():
        ready = sorted([*ready, *sorter.get_ready()], key=position)
        order.append(ready.pop(0))
        sorter.done(order[-1])
    return order


def stage_outputs(workspace: Path, stage: str) -> list[str]:
    """Paths a stage writes: outputs, metrics and plots."""
    return _outs(_stages(workspace)[stage])


def kept_stages(workspace: Path) -> set[str]:
    """Stages whose outputs a version is made of: the trained model, and what no other stage reads (the scores)."""
    stages = _stages(workspace)
    read = {need for name in stages for need in _needed(name, stages)}
    return {name for name, entry in stages.items() if name not in read or MODEL in _outs(entry)}


def stage_inputs(workspace: Path, stage: str) -> list[str]:
    """Paths a stage reads."""
    return list(_stages(workspace)[stage].get("deps") or ())


def check_params(workspace: Path, values: Mapping[str, Any]) -> None:
    """InputError names what stages read and params.yaml (`values`) lacks, and what to write: DVC has no defaults.

    Without this a params.yaml of before a parameter was named would end the run at its stage, hours later.
    """
    stages = _stages(workspace, values).values()
    named = dict.fromkeys(name for entry in stages for name in parameter_names(entry).get(PARAMS, ()))
    defaults = Params().model_dump(mode="json")
    lacking = [name for name in named if _held(values, name) is ... and _held(defaults, name) is not ...]
    if lacking:
        lines = ", ".join(f"`{name}: {json.dumps(_held(defaults, name))}`" for name in lacking)
        raise InputError(
            f"{workspace / 'params.yaml'}: stages read what it lacks; add {lines}, each under its section"
        )


def _held(values: Any, name: str) -> Any:
    """The value of a.b.c in nested mappings; ... where there is none."""
    for key in name.split("."):
        if not isinstance(values, Mapping) or key not in values:
            return ...
        values = values[key]
    return values


def _stages(workspace: Path, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
    stages = read_graph(workspace, values)
    if not stages:
        raise InputError(f"{workspace / 'dvc.yaml'}: no stages; run from the repository root")
    return stages


def _needed(name: str, stages: Mapping[str, Any]) -> set[str]:
    deps = list(stages[name].get("deps") or ())
    return {
        other
        for other, entry in stages.items()
        if other != name and any(_overlap(dep, out) for dep in deps for out in _outs(entry))
    }


def _outs(entry: Mapping[str, Any]) -> list[str]:
    outs = [*(entry.get("outs") or ()), *(entry.get("metrics") or ()), *(entry.get("plots") or ())]
    return [next(iter(out)) if isinstance(out, Mapping) else str(out) for out in outs]


def _overlap(dep: str, out: str) -> bool:
    one, two = dep.rstrip("/") + "/", out.rstrip("/") + "/"
    return one.startswith(two) or two.startswith(one)


def _closure(target: str, needs: Mapping[str, set[str]]) -> set[str]:
    wanted = {target}
    while more := {need for name in wanted for need in needs[name]} - wanted:
        wanted |= more
    return wanted
