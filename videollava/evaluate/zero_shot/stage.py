"""models/encoders by themselves, as a part of the `evaluate` stage (`evaluate.zero_shot` in params.yaml)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videollava.embedding.encoders import load_encoders
from videollava.errors import InputError
from videollava.evaluate.questions import unpacked_folder
from videollava.evaluate.zero_shot.run import evaluate_zero_shot
from videollava.evaluate.zero_shot.sets import APART, SETS, Chosen, find_sets
from videollava.params import Params

__all__ = ["ask_encoders", "choose_sets"]

TARGET = "zero_shot"  # below the evaluation's folder
LEFT_OUT = (
    "task",
    "modality",
    "intervals",
    "directions",
    "lacking",
)  # of figures, what metrics.json leaves out


def choose_sets(params: Params, workspace: Path) -> list[Chosen]:
    """What evaluate.zero_shot names, before anything is loaded. InputError where its files are not there."""
    names = params.evaluate.zero_shot
    folders = params.evaluate.folders
    if wrong := [name for name in names if "=" in name]:
        raise InputError(f"evaluate.zero_shot: {wrong[0]}: give names, and folders in evaluate.folders")
    named = {name: folders.get(f"{name}{APART}", folders.get(name, "")) for name in names if name in SETS}
    found = {name: unpacked_folder(folder, workspace) for name, folder in named.items() if folder}
    return find_sets(names, workspace, found)


def ask_encoders(
    params: Params, workspace: Path, folder: Path, target: Path, device: str
) -> dict[str, dict[str, Any]]:
    """Figures by benchmark for metrics.json, of the encoders in `folder`. In `target`: zero_shot/ (all figures, table),
    and predictions/NAME.jsonl, a row a query, with those of other benchmarks.
    """
    chosen = choose_sets(params, workspace)
    encoders = load_encoders(folder, device=device)
    aside = target / TARGET
    table = evaluate_zero_shot(encoders, chosen, aside)
    print(table, flush=True)
    if (aside / "predictions").is_dir():
        for file in sorted((aside / "predictions").glob("*.jsonl")):
            (target / "predictions").mkdir(exist_ok=True)
            file.replace(target / "predictions" / f"{_apart(file.stem)}.jsonl")
        (aside / "predictions").rmdir()
    found: Mapping[str, Mapping[str, Any]] = json.loads((aside / "metrics.json").read_text())["benchmarks"]
    return {
        _apart(name): {key: value for key, value in figures.items() if key not in LEFT_OUT}
        | {"asked": "encoders"}
        for name, figures in found.items()
    }


def _apart(name: str) -> str:
    """A set's name beside benchmarks of questions, some of which are called the same."""
    return f"{name}{APART}" if name in SETS else name
