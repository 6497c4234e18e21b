"""Scores of a model that this workspace did not train: a released one, a folder, a registered version.

On the benchmark data that are here, beside the paper's tables; nothing is trained, and what the pipeline wrote stays.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from videollava.embedding.zero_shot.sets import choose_sets
from videollava.errors import InputError
from videollava.evaluate.at_hand import look_at
from videollava.evaluate.ranks import Ranks
from videollava.evaluate.stage import WITHOUT, evaluate
from videollava.machine import DEFAULTS, Machine
from videollava.origin import find_model
from videollava.params import Evaluate, Params

__all__ = ["evaluate_other", "folder_of"]

EVALUATIONS = "evaluations"


def evaluate_other(
    params: Params,
    workspace: Path,
    model: str,
    target: Path | None = None,
    machine: Machine = DEFAULTS,
    champion: Path | None = None,
    chosen: bool = False,
    encoders: Path | None = None,
    without: str = WITHOUT,
) -> dict[str, Any]:
    """Evaluate `model` (a folder, a hub id, models:/NAME@champion) into `target`, by default evaluations/MODEL.

    chosen: whether the benchmarks were asked for by name; otherwise those without data here are told and left out.
    encoders: the folder of the model's own, for `evaluate.zero_shot`; without: why there is none. InputError where no
    benchmark has data.
    """
    choices = params.evaluate if chosen else _those_here(params, workspace, encoders, without)
    origin = find_model(model, workspace)
    if not Ranks.of().rank:
        print(f"evaluate: {model} ({origin.revision})", flush=True)
    return evaluate(
        params.replace(evaluate=choices),
        workspace,
        origin.folder,
        target or workspace / folder_of(model),
        machine=machine,
        champion=champion,
        name=model,
        encoders=encoders,
        without=without,
    )


def folder_of(model: str) -> Path:
    """Where the evaluation of a model of that name goes: never the pipeline's own folder."""
    return Path(EVALUATIONS) / (re.sub(r"[^\w.-]+", "-", model).strip("-.") or "model")


def _those_here(params: Params, workspace: Path, encoders: Path | None, without: str) -> Evaluate:
    """The benchmarks of params.yaml, and those of which it names folders, as far as their data are here."""
    choices = params.evaluate
    asked = list(dict.fromkeys([*choices.benchmarks, *choices.folders]))
    places = {place.id: place for place in look_at(params, workspace)}
    splits = workspace / "data/index/splits"
    here = [
        name
        for name in asked
        if (name in places and places[name].here) or (splits / f"test-{name}.arrow").is_file()
    ]
    lacking = [name for name in asked if name not in here]
    alone = choices.zero_shot
    if encoders is not None:
        alone = tuple(name for name in choices.zero_shot if _is_here(name, params, workspace))
        lacking += [name for name in choices.zero_shot if name not in alone]
    if lacking:
        print(f"evaluate: no data here for {', '.join(lacking)}: left out", flush=True)
    if not (here or (alone and encoders)):
        lacks = f"; evaluate.zero_shot: left out: {without}" if alone and not encoders else ""
        raise InputError(
            "no benchmark of params.yaml has data here; `videollava benchmarks` tells what each lacks and how to get "
            f"it{lacks}"
        )
    return choices.replace(benchmarks=tuple(here), zero_shot=alone)


def _is_here(name: str, params: Params, workspace: Path) -> bool:
    try:
        choose_sets("evaluate.zero_shot", (name,), params.evaluate, workspace)
    except InputError:
        return False
    return True
