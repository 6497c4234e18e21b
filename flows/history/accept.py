"""`videollava accept STAGE --because "..."`: a code change that changes no result, so that nothing is run for it.

dvc.lock then names the code as it is now for the outputs that are there, as if it had made them; accepted.jsonl says
so, with the reason and the person, and a saved retraining has it. Parameters, packages, data and outputs must be as
dvc.lock has them: what else changed has to run.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.history.reasons import open_repo, own_reasons, pipeline
from flows.places.lock import hold
from flows.stages.graph import stage_order
from videollava.errors import InputError
from videollava.tracking.accepted import ACCEPTED, Accepted, note
from videollava.tracking.lineage import entry_keys, outs_of
from videollava.who import name_person

if TYPE_CHECKING:
    from dvc.stage import PipelineStage

__all__ = ["accept", "add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `videollava accept`."""
    parser.add_argument("stage", help="whose code changed, such as finetune or shards@NAME")
    parser.add_argument("--because", required=True, metavar="REASON", help="why no result changes")


def run(options: argparse.Namespace) -> int:
    """Accept it."""
    done = accept(Path.cwd(), options.stage, options.because)
    print(f"{done.stage}: accepted {', '.join(done.files)}")
    print(f"dvc.lock and {ACCEPTED} say so; commit them, or let the next retraining keep them")
    return 0


def accept(root: Path, stage: str, because: str) -> Accepted:
    """Let dvc.lock name the stage's code as it is now.

    InputError where anything but code differs, where nothing does, without a reason, or beside a retraining.
    """
    because = " ".join(because.split())
    if not because:
        raise InputError(
            "--because: say why no result changes; whoever asks what a model is made of will read it"
        )
    stage_order(root, stage)
    with hold(root, wait=0.0), open_repo(root) as repo:
        stages = pipeline(repo)
        one = stages[stage]
        files = _changed_code(one, {out.def_path: out for other in stages.values() for out in other.outs})
        before = _entry(one)
        one.save_deps()
        after = _entry(one)
        who = name_person(root)
        when = datetime.now(UTC).isoformat(timespec="seconds")
        keys = entry_keys(stage, before)[0], entry_keys(stage, after)[0]
        accepted = Accepted(stage, because, who, when, files, *keys, outs_of(after))
        note(root, accepted)  # first: dvc.lock never says what nobody answers for
        with repo.lock:
            one.dvcfile.dump(one, update_pipeline=False)
            repo.stage_cache.save(one)
    return accepted


def _changed_code(stage: PipelineStage, made: dict[str, Any]) -> tuple[str, ...]:
    """The code that differs. InputError where there is none, or something else does."""
    reasons = own_reasons(stage, made)
    if not reasons:
        raise InputError(f"{stage.name}: is as dvc.lock has it; there is nothing to accept")
    if other := [reason.text for reason in reasons if reason.kind != "code"]:
        more = f", and {len(other) - 3} more" if len(other) > 3 else ""
        raise InputError(
            f"{stage.name}: only code can be accepted, and {'; '.join(other[:3])}{more}: let it run"
        )
    return tuple(reason.what for reason in reasons)


def _entry(stage: PipelineStage) -> dict[str, Any]:
    """What dvc.lock has, or would have, of the stage."""
    from dvc.stage.serialize import to_lockfile

    return dict(to_lockfile(stage)[stage.name])
