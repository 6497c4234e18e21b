"""What the machine file comes to, for people; and presets written into it."""

from __future__ import annotations

from pathlib import Path

from videollava.errors import InputError
from videollava.machine.reading import NAME, find_machine, preset_names, preset_text
from videollava.machine.sections import CLUSTERS, STAGES, Machine, Work

__all__ = ["describe", "write_preset"]

TRAINED = ("tokens_per_pack", "recompute", "compile", "checkpoint_minutes")
# What a stage uses besides ranks and workers.
USED = {
    "bases": ("checkpoint_minutes",),
    "align": ("recompute", "checkpoint_minutes"),
    "pretrain": TRAINED,
    "finetune": TRAINED,
    "evaluate": ("tokens_per_batch",),
}

WORDS = {
    "checkpoint_minutes": "a checkpoint every {:g} min",
    "compile": "layers compiled",
    "recompute": "activations computed again",
    "tokens_per_batch": "{:,} tokens at once",
    "tokens_per_pack": "{:,} tokens at once",
}


def describe(machine: Machine, workspace: Path) -> str:
    """One line for the file and why it counts, one a stage."""
    found = find_machine(workspace)
    file = f"{found.file} ({found.why})" if found.file else f"{found.why}: every GPU of this host, or its CPU"
    return "\n".join([file, "", *(f"{stage:9} {_line(stage, machine.work(stage))}" for stage in STAGES)])


def write_preset(name: str, workspace: Path, force: bool) -> str:
    """Write a preset into the checkout's machine.yaml; what was done, in words. InputError over edits of yours."""
    if name == "list":
        return "\n".join(
            f"{one:10} {preset_text(one).splitlines()[0].lstrip('# ')}" for one in preset_names()
        )
    text, file = preset_text(name), workspace / NAME
    if file.is_file() and file.read_text() not in map(preset_text, preset_names()) and not force:
        raise InputError(f"{file}: holds edits that {name} would overwrite; keep a copy, or give --force")
    file.write_text(text)
    return f"{file}: {name}"


def _line(stage: str, work: Work) -> str:
    parts = [_ranks(work)]
    if work.ranks > 1 or work.strategy != "sharded":
        parts += [work.strategy] if stage in ("pretrain", "finetune") else []
    parts.append(
        f"{work.loaders} worker{'s' if work.loaders != 1 else ''}{' each' if work.ranks > 1 else ''}"
    )
    for name in USED.get(stage, ()):
        value = getattr(work, name)
        if name == "recompute" and value is not True and value:
            parts.append(f"activations of {value} layers computed again")
        elif value is not False and value != 0:
            parts.append(WORDS[name].format(value))
    return ", ".join(parts)


def _ranks(work: Work) -> str:
    kind = "GPU" if work.gpus else "process"
    many = f"{work.per_node} {kind}{('es' if kind == 'process' else 's') if work.per_node > 1 else ''}"
    if work.launcher != "local":
        return (
            f"a job of {CLUSTERS[work.launcher]}, {work.nodes} node{'s' if work.nodes > 1 else ''} of {many}"
        )
    return f"{many} here"
