"""The machine file: how fast things are computed here (`sections`), where it is found and how it is read (`reading`).

params.yaml says what is learned; nothing in here changes a result beyond docs/equality.md, and no stage's key holds it.
"""

from __future__ import annotations

from videollava.machine.reading import VARIABLE, find_machine, load_machine, preset_names, preset_text
from videollava.machine.sections import DEFAULTS, Cost, Kubernetes, Machine, Pools, Slurm, Strategy, Work

__all__ = [
    "DEFAULTS",
    "VARIABLE",
    "Cost",
    "Kubernetes",
    "Machine",
    "Pools",
    "Slurm",
    "Strategy",
    "Work",
    "find_machine",
    "load_machine",
    "preset_names",
    "preset_text",
]
