"""What the page of a retraining tells: one value, under way, done or failed; nothing of Prefect in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flows.history.made import MadeStage
from flows.stages.stage import StageResult
from videollava.gate import Decision

__all__ = ["Failure", "Links", "Step", "Told"]


@dataclass(frozen=True)
class Step:
    """One stage. why: reasons for it to run, as they were before anything did. result: None before it ended. made: who
    made its outputs, as far as journals here tell. page: of the flow run that does it elsewhere, step by step.
    """

    stage: str
    why: tuple[str, ...] = ()
    result: StageResult | None = None
    made: MadeStage | None = None
    page: str = ""


@dataclass(frozen=True)
class Failure:
    """What ended it. stage: "" where it was none's. lines: the last ones the stage wrote. again: whether the same may
    end otherwise. kind: the name of the state that a stage's run ended in (flows/team/life/ends.py).
    """

    stage: str
    text: str
    lines: tuple[str, ...] = ()
    again: bool = False
    kind: str = ""


@dataclass(frozen=True)
class Links:
    """Where the rest is: addresses, "" where there is none."""

    run: str = ""
    version: str = ""
    report: str = ""
    comparison: str = ""
    lineage: str = ""
    commit: str = ""


@dataclass(frozen=True)
class Told:
    """A retraining. began, ended: seconds since 1970 (ended 0: under way). changes: parameters that were asked for.
    commit: the one it began from; edits: files that differ from it; saved: the commit it was saved as, in ref. new:
    whether the version is. moved, asked: whether it became champion, or waits for another person. promote: whether it
    was to. tracker: MLflow's address. notes: what a person should know, a line each.
    """

    model: str
    who: str
    began: float
    ended: float = 0.0
    profile: str = ""
    changes: tuple[str, ...] = ()
    commit: str = ""
    subject: str = ""
    edits: tuple[str, ...] = ()
    pool: str = ""
    host: str = ""
    steps: tuple[Step, ...] = ()
    saved: str = ""
    ref: str = ""
    run: str = ""
    version: int = 0
    new: bool = True
    decision: Decision | None = None
    moved: bool = False
    asked: bool = False
    promote: bool = True
    failure: Failure | None = None
    notes: tuple[str, ...] = ()
    links: Links = field(default_factory=Links)
    tracker: str = ""

    @property
    def champion(self) -> int:
        """The version that was compared with, 0: none."""
        live = self.decision.champion if self.decision is not None else 0
        return live if live != self.version else 0

    @property
    def results(self) -> Mapping[str, StageResult]:
        """Of the stages that ended."""
        return {step.stage: step.result for step in self.steps if step.result is not None}
