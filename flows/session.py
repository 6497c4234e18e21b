"""One retraining as it is written down: its journal and its stages', forwarded to MLflow live."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.stages.graph import stage_order
from flows.stages.stage import StageResult
from videollava import registry
from videollava.errors import InputError
from videollava.params import Params
from videollava.tracking import FOLLOWED, PARENT
from videollava.tracking.accepted import origin_key
from videollava.tracking.data_sets import read_data_sets
from videollava.tracking.forward import Follower, replay, try_out
from videollava.tracking.journal import Journal, close_abandoned
from videollava.tracking.lineage import (
    flatten,
    locked_input_key,
    read_lineage,
    stage_key,
)
from videollava.tracking.packages import package_tags
from videollava.tracking.spent import find_journal
from videollava.tracking.store import connect, find_run, tracking_uri
from videollava.tracking.tidy import tidy
from videollava.tracking.troubles import is_from_store

__all__ = ["Session", "open_session"]


@dataclass
class Session:
    """A retraining under way in `root`. `journal` is the parent of every stage's. results: of the stages that ended;
    sent: by stage, the flow run that does it elsewhere. on_note: called when there is news of either.
    """

    root: Path
    params: Params
    journal: Journal
    results: list[StageResult] = field(default_factory=list)
    sent: dict[str, str] = field(default_factory=dict)
    on_note: Callable[[], None] = lambda: None

    @property
    def environment(self) -> dict[str, str]:
        """What the stages' processes need to know."""
        uri = tracking_uri(self.root, self.params.tracking)
        return {FOLLOWED: "1", PARENT: self.journal.identity, "MLFLOW_TRACKING_URI": uri}

    def note(self, result: StageResult) -> None:
        """Tie a stage's outcome to a run: key the one that made it, or link the one it came from."""
        runs, ran = self.root / "runs", result.outcome == "ran"
        inputs = (locked_input_key if ran else origin_key)(self.root, result.stage)
        key = stage_key(self.root, result.stage, inputs)
        close_abandoned(runs, result.stage)
        made = find_journal(self.root, result.stage, inputs) if ran else None
        if made is not None:
            Journal(made).tags({"stage_key": key})
        else:
            self.journal.link(result.stage, key, inputs)
        self.journal.metrics(0, {f"seconds.{result.stage}": result.seconds})
        self.journal.tags({f"outcome.{result.stage}": result.outcome})
        self.results.append(result)
        self.on_note()

    def send(self, stages: Sequence[str], run: str) -> None:
        """Stages are at another flow run now."""
        self.sent.update(dict.fromkeys(stages, run))
        self.on_note()

    def keep(self, scores: dict[str, Any]) -> None:
        """The scores, and the small files a person wants beside the run."""
        numbers = {k: float(v) for k, v in flatten(scores).items() if _number(v)}
        self.journal.metrics(0, numbers)
        self.journal.tags(read_lineage(self.root).tags())
        self.journal.data_sets(read_data_sets(self.root))
        for name in (
            "params.yaml",
            "dvc.yaml",
            "dvc.lock",
            "metrics.json",
            "evaluation/report.html",
            "evaluation/card.json",
            "evaluation/contamination.json",
        ):
            if (self.root / name).is_file():
                self.journal.artifact(self.root / name)

    def check_tracking(self) -> str:
        """Have MLflow take this retraining's first entries and an artifact, before anything is trained; what did not
        arrive and may by itself, in words.

        InputError where it refuses for good (credentials, a deleted experiment, a store that cannot be written): the
        version would be refused as well, after hours.
        """
        self.journal.artifact(self.root / "params.yaml", "start")
        assert self.journal.path is not None
        tried = try_out(self.root, self.params.tracking, self.journal.path)
        if (tried.error and not tried.passing) or tried.owed:
            where = tracking_uri(self.root, self.params.tracking)
            what = "takes no artifacts" if tried.owed and not tried.error else "refuses"
            raise InputError(f"{tried.error or tried.refusal}; nothing was trained: MLflow at {where} {what}")
        if not tried.error:
            registry.prepare(self.root, self.params.tracking)
        return tried.in_words()

    def run_id(self) -> str:
        """Id of this retraining's MLflow run, "" where MLflow does not tell."""
        try:
            store = connect(self.root, self.params.tracking)
            replay(self.root, self.params.tracking, store)
            return find_run(store, journal=self.journal.identity)
        except Exception as error:  # whoever needs it says so
            if not isinstance(error, InputError) and not is_from_store(error):
                raise
            return ""


@contextmanager
def open_session(root: Path, params: Params, who: str = "") -> Iterator[Session]:
    """Start the retraining's journal (who: the person it is for) and follow all journals to MLflow until the end."""
    runs = root / "runs"
    for name in ("retrain", *stage_order(root)):
        close_abandoned(runs, name)
    identity = uuid.uuid4().hex
    journal = Journal(runs / "retrain" / f"{identity[:16]}-001.jsonl", identity)
    tags = {**read_lineage(root).tags(), **package_tags(root), "profile": params.profile}
    if flow_run := os.environ.get("PREFECT__FLOW_RUN_ID"):
        tags["prefect_flow_run"] = flow_run
    if who:
        tags["who"] = who
    journal.start("retrain", flatten(params), tags)
    follower = Follower(root, params.tracking)
    follower.start()
    patience = 5.0  # who was interrupted is not kept waiting for MLflow: the journals stay
    try:
        with journal:
            yield Session(root, params, journal)
        patience = 60.0
    finally:
        for name in stage_order(root):
            close_abandoned(runs, name)  # stages that were ended with this process
        follower.stop(patience)
        tidy(runs)


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
