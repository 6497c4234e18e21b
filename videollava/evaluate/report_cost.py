"""What making the model took, for the report: hours and speed of every stage, from the journals of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from videollava.evaluate.page import Markup, join, table, tag
from videollava.tracking import Spent, made_by, read_graph, read_spent
from videollava.tracking.spent import read_notes

__all__ = ["cost_part"]

STAGES = ("fetch", "shards", "index", "bases", "align", "pretrain", "finetune")
KINDS = ("GPU", "process")
SCALES = ((1e15, "P"), (1e12, "T"), (1e9, "G"))
NOTE = (
    "Hours of all ranks, loading and saving included, over every attempt of the run. MFU: operations that are computed "
    "(attention halved, a head at labels alone, no embeddings) as a share of the device's peak; beside it the same by "
    "PaLM's formula, 6N + 12LHQT a token, which most publish. Rates are means over the steps, by time."
)
PLANNED = {"hours": "hours", "tokens_per_second": "tokens/s", "mfu": "MFU", "peak_memory_gib": "peak memory"}
PLANNED_NOTE = (
    "Planned by `videollava plan`'s model when the stage last began, for the devices it ran on; hours and rates only "
    "for GPUs whose peak is known. Memory is rank 0's: of its GPU, or of the whole process on a CPU. A ratio is real / "
    "planned."
)


def cost_part(workspace: Path) -> Markup:
    """A table, and what it lacks: a stage whose outputs were restored from a cache took its time elsewhere."""
    stages = [name for name in read_graph(workspace) if name.partition("@")[0] in STAGES]
    journals = {stage: made_by(workspace, stage) for stage in stages}
    spent = {stage: read_spent(path) for stage, path in journals.items() if path is not None}
    missing = [stage for stage in stages if stage not in spent]
    if not spent:
        return tag("p", "What training took is not recorded here.", class_="note")
    heads = ["stage", "hours", "attempts", "tokens/s", "FLOP/s", "MFU", "MFU, PaLM's"]
    rows = [[stage, *_cells(took)] for stage, took in spent.items()]
    sums = {kind: sum(took.hours for took in spent.values() if _kind(took) == kind) for kind in KINDS}
    total = " and ".join(f"{hours:.2f} {kind}-hours" for kind, hours in sums.items() if hours)
    gone = f" Not recorded here: {', '.join(missing)}." if missing else ""
    said = "".join(_remarks(stage, path) for stage, path in journals.items() if path is not None)
    note = tag("p", f"{total} in all.{gone}{said} {NOTE}", class_="note")
    return join([tag("h3", "What it took"), table(heads, rows), note, *_beside_the_plan(spent)])


def _remarks(stage: str, path: Path) -> str:
    """What a stage did not do itself."""
    return "".join(f" {stage} {name.replace('_', ' ')} {text}." for name, text in read_notes(path).items())


def _beside_the_plan(spent: Mapping[str, Spent]) -> Sequence[Markup]:
    """A table of what was planned and what was, nothing where no stage was planned."""
    rows = [
        [
            stage,
            PLANNED[name],
            _planned_cell(name, took.planned[name], took),
            _planned_cell(name, real, took),
            f"{ratio:.2f}",
        ]
        for stage, took in spent.items()
        for name, ratio in took.ratios.items()
        if name in PLANNED
        for real in [ratio * took.planned[name]]
    ]
    if not rows:
        return []
    heads = ["stage", "", "planned", "real", "ratio"]
    return [tag("h3", "Planned and real"), table(heads, rows), tag("p", PLANNED_NOTE, class_="note")]


def _planned_cell(name: str, value: float, took: Spent) -> str:
    shown = {
        "hours": f"{value:.3g} {_kind(took)}-hours",
        "mfu": f"{value:.1%}",
        "peak_memory_gib": f"{value:.2f} GiB",
    }
    return shown.get(name, f"{value:,.0f}")


def _cells(took: Spent) -> Sequence[str]:
    rates = took.rates
    return (
        f"{took.hours:.3g} {_kind(took)}-hours",
        str(took.attempts),
        f"{rates['tokens_per_second']:,.0f}" if "tokens_per_second" in rates else "",
        _scaled(rates["flops_per_second"]) if "flops_per_second" in rates else "",
        *(f"{rates[name]:.1%}" if name in rates else "" for name in ("mfu", "mfu_palm")),
    )


def _kind(took: Spent) -> str:
    return KINDS[0] if took.on_gpus else KINDS[1]


def _scaled(value: float) -> str:
    size, letter = next(((size, letter) for size, letter in SCALES if value >= size), (1e6, "M"))
    return f"{value / size:.3g} {letter}"
