"""models/encoders by themselves, as a part of the `evaluate` stage (`evaluate.zero_shot` in params.yaml)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from videollava.embedding.encoders import kinds_in, load_encoders
from videollava.embedding.zero_shot.sets import Chosen, choose_sets, name_apart
from videollava.errors import InputError
from videollava.evaluate.zero_shot.run import evaluate_zero_shot
from videollava.params import Params

__all__ = ["ask_encoders", "check_encoders"]

TARGET = "zero_shot"  # below the evaluation's folder
LEFT_OUT = (
    "task",
    "modality",
    "intervals",
    "directions",
    "lacking",
)  # of figures, what metrics.json leaves out


def check_encoders(folder: Path, chosen: Sequence[Chosen]) -> None:
    """InputError where the folder holds no encoder, or none of a modality that is asked; nothing is loaded."""
    there = kinds_in(folder)
    for one in chosen:
        if there and one.set.kind and one.set.kind not in there:
            raise InputError(
                f"{folder}: evaluate.zero_shot: {one.set.name} asks an encoder of {one.set.kind}, and there are "
                f"{', '.join(there)}: take it off the list, or name a folder that has one"
            )


def ask_encoders(
    params: Params, workspace: Path, folder: Path, target: Path, device: str
) -> dict[str, dict[str, Any]]:
    """Figures by benchmark for metrics.json, of the encoders in `folder`. In `target`: zero_shot/ (all figures, table),
    and predictions/NAME.jsonl, a row a query, with those of other benchmarks.
    """
    choices = params.evaluate
    chosen = choose_sets("evaluate.zero_shot", choices.zero_shot, choices, workspace)
    encoders = load_encoders(folder, device=device)
    aside = target / TARGET
    table = evaluate_zero_shot(encoders, chosen, aside)
    print(table, flush=True)
    if (aside / "predictions").is_dir():
        for file in sorted((aside / "predictions").glob("*.jsonl")):
            (target / "predictions").mkdir(exist_ok=True)
            file.replace(target / "predictions" / f"{name_apart(file.stem)}.jsonl")
        (aside / "predictions").rmdir()
    found: Mapping[str, Mapping[str, Any]] = json.loads((aside / "metrics.json").read_text())["benchmarks"]
    return {
        name_apart(name): {key: value for key, value in figures.items() if key not in LEFT_OUT}
        | {"asked": "encoders"}
        for name, figures in found.items()
    }
