"""Where claims are tried: clones of this checkout at its commit, below .prefect/claims, and what came of each run.

The checkout itself, its params.yaml and dvc.lock, are left alone; its DVC cache is shared. An outcome is kept by what
could change it, code and settings: a commit that touches neither asks for no new run.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows.claims.arms import Arm, params_of
from flows.places.clones import LEFTOVER
from flows.places.git import ask_git, owns, run_git
from flows.storage import share
from videollava.errors import InputError
from videollava.evaluate.results import Results, read_results
from videollava.params import Params
from videollava.tracking.accepted import origin_key
from videollava.tracking.journal import read_events
from videollava.tracking.lineage import digest, read_graph
from videollava.tracking.spent import find_journal

__all__ = ["Ground", "Outcome", "code_key", "outcome_key", "stage_seconds"]

FOLDER = ".prefect/claims"
LOCKS = "locks"
CODE = ("dvc.yaml", "compute.lock")
TIMED = ("bases", "align", "pretrain", "finetune", "evaluate")


@dataclass(frozen=True)
class Outcome:
    """A run that ended. seconds: of the whole retraining; stages: CPU seconds of those that this run computed itself,
    and of those that it took from another of these runs what they took there.
    """

    key: str
    arm: str
    seed: int
    commit: str
    seconds: float
    stages: Mapping[str, float]


@dataclass(frozen=True)
class Ground:
    """`home` is the checkout, `commit` what of it is tried."""

    home: Path
    commit: str

    @property
    def folder(self) -> Path:
        return self.home / FOLDER

    def lane(self, number: int) -> Path:
        """A clone at the commit, with the files of earlier runs in it; one retraining at a time works there."""
        root = self.clone(f"lane-{number}")
        share(self.home, root)
        return root

    def clone(self, name: str) -> Path:
        """A clone of this name at the commit."""
        root = self.folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        if not owns(root):
            if root.exists():
                raise InputError(f"{root}: is no clone that git can use; remove it")
            aside = self.folder / f"{LEFTOVER[0]}{uuid.uuid4().hex[:8]}"
            run_git(
                self.folder,
                "clone",
                "--quiet",
                "--shared",
                "--no-checkout",
                str(self.home),
                aside.name,
                above=True,
            )
            aside.rename(root)
        settle(root, self.commit)
        return root

    def find(self, key: str) -> Outcome | None:
        """What came of a run; None where it did not end yet."""
        file = self.folder / "outcomes" / key / "outcome.json"
        return Outcome(**json.loads(file.read_text())) if file.is_file() else None

    def results(self, outcome: Outcome) -> dict[str, Results]:
        """Its answers by benchmark."""
        return read_results(self.folder / "outcomes" / outcome.key)

    def keep(self, lane: Path, outcome: Outcome) -> None:
        """Note that a run ended, with its answers: all of it or nothing."""
        place = self.folder / "outcomes"
        place.mkdir(parents=True, exist_ok=True)
        aside = place / f"{outcome.key}.{uuid.uuid4().hex[:8]}.tmp"
        shutil.copytree(lane / "evaluation/predictions", aside / "predictions")
        shutil.copy(lane / "metrics.json", aside)
        (aside / "outcome.json").write_text(json.dumps(asdict(outcome), indent=2) + "\n")
        shutil.rmtree(place / outcome.key, ignore_errors=True)
        aside.rename(place / outcome.key)


def settle(root: Path, commit: str) -> None:
    """Have a lane's tracked files be those of the commit; outputs, journals and checkpoints stay.

    So do the locks that the profile's own sources wrote, unless the commit has others than the one before: without them
    the data would be fetched again for every run.
    """
    (root / ".git" / "index.lock").unlink(missing_ok=True)  # of a git that was killed: nobody else is here
    if ask_git(root, "cat-file", "-e", f"{commit}^{{tree}}") is None:
        run_git(root, "fetch", "--quiet", "origin", commit)
    there = (
        _read_files(root / LOCKS)
        if ask_git(root, "diff", "--quiet", "HEAD", commit, "--", LOCKS) == ""
        else {}
    )
    run_git(root, "checkout", "--quiet", "--force", "--detach", commit)
    for file, content in there.items():
        file.write_bytes(content)


def _read_files(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*.json")}


def code_key(root: Path, commit: str = "HEAD") -> str:
    """Hash of the code that decides results: what stages of dvc.yaml name and a commit has."""
    named = {dep for entry in read_graph(root).values() for dep in entry.get("deps") or ()}
    hashes = {
        path: ask_git(root, "rev-parse", "--verify", "--quiet", f"{commit}:{path}")
        for path in sorted({*named, *CODE})
    }
    return digest({path: name for path, name in hashes.items() if name})


def outcome_key(code: str, params: Params) -> str:
    """What a run's outcome is kept by: code and every parameter."""
    return digest({"code": code, "params": params.model_dump(mode="json")})[:24]


def run_key(root: Path, code: str, arm: Arm, seed: int, more: tuple[str, ...] = ()) -> str:
    return outcome_key(code, params_of(root, arm, seed, more))


def stage_seconds(root: Path) -> dict[str, float]:
    """CPU seconds of each stage that lies in a lane, as its journal tells; of one that was interrupted, only its last
    part, so it is left out.
    """
    found = {}
    for stage in TIMED:
        path = find_journal(root, stage, origin_key(root, stage))
        events: list[dict[str, Any]] = read_events(path)[0] if path else []
        ends = [event for event in events if event["event"] == "end"]
        starts = sum(event["event"] == "start" for event in events)
        if len(ends) == starts == 1 and "cpu_seconds" in ends[0]:
            found[stage] = float(ends[0]["cpu_seconds"])
    return found
