"""made.json, at the root of a saved retraining's commit: what came out, where, in what time, from which runs.

It is a contract: `videollava lineage`, `diff` and `reproduce` read it. What is not known is left out, not made up.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from flows.places.git import ask_git
from videollava.errors import InputError
from videollava.scrub import scrub_all

__all__ = ["FILE", "Accepted", "Made", "MadeStage", "read_made", "to_text"]

FILE = "made.json"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a later release may say more


class Accepted(_Part):
    """A change of code that a person said changes no result (`videollava accept`)."""

    stage: str
    because: str
    who: str = ""
    when: str = ""
    files: tuple[str, ...] = ()


class MadeStage(_Part):
    """Who made a stage's outputs. key: hash of what it read and wrote. journal: identity of the run's journal.

    hours: of all ranks, over all attempts. host, device, ranks, pool, worker: where. price: of such an hour (None: not
    known), in currency. packages: versions that decide a result.
    finished_early: the step that somebody wished to be its last; went_on_from: the checkpoint of another run.
    came_from: the commit whose made.json said this, where the stage was restored and its journal is not here.
    """

    key: str
    hours: float | None = None
    run: str = ""
    journal: str = ""
    host: str = ""
    device: str = ""
    ranks: int | None = None
    pool: str = ""
    worker: str = ""
    price: float | None = None
    currency: str = ""
    packages: Mapping[str, str] = {}
    came_from: str = ""
    finished_early: str = ""
    went_on_from: str = ""

    @property
    def cost(self) -> float | None:
        """Of all its hours; None where hours or price are not known."""
        return None if self.price is None or self.hours is None else self.hours * self.price


class Made(_Part):
    """A retraining. scores: metrics.json as it was. machine: where it was saved. hours, runs (MLflow's ids): by stage.

    retraining_run: the MLflow run of the whole, "" where MLflow did not answer. packages: installed versions that
    differ from the lock ("" where one is not installed). who: the person or account that ran it.
    """

    format: Literal[1] = 1
    model: str
    scores: Mapping[str, Mapping[str, Any]] = {}
    machine: Mapping[str, str] = {}
    hours: Mapping[str, float] = {}
    runs: Mapping[str, str] = {}
    retraining_run: str = ""
    who: str = ""
    python: str = ""
    packages: Mapping[str, str] = {}
    accepted: tuple[Accepted, ...] = ()
    stages: Mapping[str, MadeStage] = {}


def to_text(made: Made) -> str:
    """As it is written: no credentials, the same text for the same content."""
    import json

    return json.dumps(scrub_all(made.model_dump(mode="json")), indent=2, sort_keys=True) + "\n"


def read_made(repository: Path, commit: str) -> Made:
    """made.json of a saved retraining (a commit, tag or ref). InputError where it has none, or not one that this
    release reads.
    """
    text = ask_git(repository, "cat-file", "blob", f"{commit}:{FILE}")
    if text is None:
        raise InputError(
            f"{commit}: no saved retraining in {repository} (no {FILE} in it, or no such commit)"
        )
    try:
        return Made.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "content"
        raise InputError(f"{commit}:{FILE}: {where}: {first['msg']}; a newer release reads it") from error
