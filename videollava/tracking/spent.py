"""What a stage took, read from its run's journal: hours over all attempts, and how fast its steps were.

Hours are those of ranks: two GPUs for an hour are two GPU-hours. What a killed attempt did counts up to the last thing
it wrote; steps that were done again count as often as they were done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videollava.tracking.accepted import origin_key
from videollava.tracking.journal import read_events
from videollava.tracking.lineage import Lineage, input_key

__all__ = [
    "INPUT_KEY",
    "NOTES",
    "Made",
    "Spent",
    "find_journal",
    "made_by",
    "read_made",
    "read_notes",
    "read_spent",
]

RATES = ("tokens_per_second", "flops_per_second", "mfu", "mfu_palm")
NOTES = ("finished_early", "went_on_from")  # tags of a run that did not do all of its steps itself
INPUT_KEY = "input_key"  # the tag of the key that a run has in MLflow
HOUR = 3_600_000  # in a journal's milliseconds


@dataclass(frozen=True)
class Spent:
    """hours: of all ranks. on_gpus: whether they held one each. rates: means over time, by their metric's name.
    memory: GiB of rank 0 at most (0: not measured). planned: what was planned of hours, rates and peak_memory_gib when
    the last attempt began.
    """

    hours: float
    on_gpus: bool
    attempts: int
    rates: Mapping[str, float] = field(default_factory=dict)
    memory: float = 0.0
    planned: Mapping[str, float] = field(default_factory=dict)

    @property
    def ratios(self) -> dict[str, float]:
        """What really was, as a multiple of what was planned, by the plan's names."""
        real = {"hours": self.hours, "peak_memory_gib": self.memory, **self.rates}
        return {name: real[name] / plan for name, plan in self.planned.items() if plan and real.get(name)}

    def metrics(self) -> dict[str, float]:
        """As they stand in the journal: gpu_hours or process_hours, mean_mfu and the like, real_to_planned_mfu."""
        hours = {"gpu_hours" if self.on_gpus else "process_hours": self.hours}
        means = {f"mean_{name}": value for name, value in self.rates.items()}
        return hours | means | {f"real_to_planned_{name}": value for name, value in self.ratios.items()}


@dataclass(frozen=True)
class Made:
    """The run that made a stage's outputs. host: of the machine; ended: seconds since 1970; seconds: of the clock, all
    attempts together; commit: of the code, "" where nobody knows.
    """

    journal: str
    host: str
    ended: float
    seconds: float
    commit: str
    notes: Mapping[str, str] = field(default_factory=dict)  # NOTES that hold for it


def read_notes(path: Path) -> dict[str, str]:
    """Those of NOTES that the last attempt of this journal's run told of itself."""
    last = _attempts(_read(path))[-1:]
    told = [event["values"] for attempt in last for event in attempt if event["event"] == "tags"]
    return {name: values[name] for values in told for name in NOTES if name in values}


def read_made(workspace: Path, stage: str) -> Made | None:
    """Who made what dvc.lock says of the stage, and how long it took; None where no journal here tells."""
    path = find_journal(workspace, stage, origin_key(workspace, stage))
    if path is None:
        return None
    attempts = _attempts(_read(path))
    first, last = attempts[0][0], attempts[-1]
    seconds = sum(_end_of(one) - one[0]["time"] for one in attempts) / 1000
    lineage = Lineage.from_tags(last[0]["tags"])
    host = str(last[0].get("host", ""))
    return Made(str(first["id"]), host, _end_of(last) / 1000, seconds, lineage.commit, read_notes(path))


def read_spent(path: Path) -> Spent:
    """What the run in this journal took until now."""
    events = _read(path)
    hours, on_gpus = 0.0, False
    attempts = _attempts(events)
    for attempt in attempts:
        tags = attempt[0]["tags"]
        hours += int(tags.get("ranks", 1)) * (_end_of(attempt) - attempt[0]["time"]) / HOUR
        on_gpus = on_gpus or tags.get("device") == "cuda"
    memory = max(
        (event["values"].get("peak_memory_gib", 0.0) for event in filter(_is_step, events)), default=0.0
    )
    return Spent(hours, on_gpus, len(attempts), _means(events), memory, _planned(events))


def made_by(workspace: Path, stage: str) -> Path | None:
    """The journal of the finished run that made the stage's outputs; None where it is not among `runs/`."""
    keys = (origin_key(workspace, stage), input_key(workspace, stage))
    return next(filter(None, (find_journal(workspace, stage, key) for key in keys)), None)


def find_journal(workspace: Path, stage: str, inputs: str, key: str = "") -> Path | None:
    """The journal of a stage's last finished run with these inputs: the key it began with, or the one it noted at its
    end (a first run writes a lock that is one of its own inputs), or that was noted to have made what `key`
    (`stage_key`) names.
    """
    folder = workspace / "runs" / stage
    for path in sorted(folder.glob(f"{inputs[:16]}-*.jsonl"), reverse=True) if inputs else ():
        if _finished(_read(path)):
            return path
    wanted = {(INPUT_KEY, inputs), ("stage_key", key)} - {(INPUT_KEY, ""), ("stage_key", "")}
    others = sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in others if wanted else ():
        events = _read(path)
        noted = {item for event in events if event["event"] == "tags" for item in event["values"].items()}
        if wanted & noted and _finished(events):
            return path
    return None


def _attempts(events: Sequence[dict[str, Any]]) -> list[Sequence[dict[str, Any]]]:
    """Events of each start and what followed it."""
    starts = [place for place, event in enumerate(events) if event["event"] == "start"]
    return [events[place:after] for place, after in zip(starts, [*starts[1:], len(events)], strict=True)]


def _finished(events: Sequence[Mapping[str, Any]]) -> bool:
    return any(event["event"] == "end" and event["status"] == "FINISHED" for event in events)


def _read(path: Path) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    offset = 0
    while True:
        some, after = read_events(path, offset)
        if after == offset:
            return [event for event in events if "time" in event]
        events += some
        offset = after


def _end_of(attempt: Sequence[Mapping[str, Any]]) -> int:
    """When an attempt ended: what others note afterwards, such as that its process is gone, is none of its time."""
    last = 0
    for event in attempt:
        if event["event"] == "end":
            return int(event["time"]) if "seconds" in event else last
        last = int(event["time"])
    return last


def _means(events: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Each rate's mean over the steps, weighed by their seconds; of a step that was done twice the last counts."""
    steps = {event["step"]: event["values"] for event in events if _is_step(event)}
    seconds = sum(values["step_seconds"] for values in steps.values())
    means = {}
    for name in RATES:
        done = [values[name] * values["step_seconds"] for values in steps.values() if name in values]
        if done:
            means[name] = sum(done) / seconds
    return means


def _planned(events: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What the last attempt began with."""
    found: dict[str, float] = {}
    for event in events:
        if event["event"] == "metric" and "planned_peak_memory_gib" in event["values"]:
            found = {name.removeprefix("planned_"): value for name, value in event["values"].items()}
    return found


def _is_step(event: Mapping[str, Any]) -> bool:
    return event["event"] == "metric" and "step_seconds" in event["values"]
