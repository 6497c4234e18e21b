"""Score any registered version again: the work of the flow `evaluate` (flows/deployed.py)."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.history.keep import is_kept
from flows.places.lock import hold
from flows.places.scm import settle_scm
from flows.places.workspace import occupy
from flows.shown import hide_in_failures, show_table
from flows.stages.graph import stage_order
from flows.stages.reading import Reading
from flows.stages.remote import why_unreached
from flows.stages.stage import NOISE, StageFailed, stage_environment
from flows.storage import bring, bring_encoders, has_remote
from videollava import registry
from videollava.embedding.zero_shot.sets import set_of
from videollava.errors import InputError
from videollava.gate import primary
from videollava.params import Params, load_params
from videollava.process import OutputLines, run_streamed
from videollava.tracking.store import tracking_uri

__all__ = ["answer", "answer_as_champion", "evaluate", "find_unanswered"]

DATA = "data/index"


def evaluate(root: Path, model: str, benchmarks: Sequence[str] = ()) -> dict[str, Any]:
    """Run the benchmarks (those of params.yaml without a list) on a version; its scores go to its MLflow run.

    The scores that the version was registered with, which the gate compares, stay as they are. Any number of
    evaluations run beside each other, none beside a retraining in the same folder: it would change the questions.
    """
    with hold(root, shared=True) as lock:
        if lacking := settle_scm(root):
            get_run_logger().warning(lacking)
        tracking = load_params(root / "params.yaml").tracking
        version = registry.find_version(root, tracking, model)
        _bring(root, version.reference, benchmarks)
        name = f"version-{version.number}-{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:4]}"
        out = root / "runs" / "evaluate" / name
        with _find_place(root, version, lock) as (place, held):
            scores = score_version(place, version.reference, out, benchmarks, held)
        log_scores(root, version, scores, out)
    return scores


@contextmanager
def _find_place(root: Path, version: registry.Version, lock: int) -> Iterator[tuple[Path, int]]:
    """(folder, lock) whose questions are asked: `root`, or where that never held any (its retrainings are done in
    clones, by workers) a clone of it at the commit that was saved with the version.
    """
    if (root / DATA).is_dir() or (root / "dvc.lock").is_file() or not is_kept(root, version.saved):
        yield root, lock
        return
    get_run_logger().info("%s: its own questions, of %s, are asked", version.reference, version.saved[:12])
    os.environ.setdefault(
        "MLFLOW_TRACKING_URI", tracking_uri(root, load_params(root / "params.yaml").tracking)
    )
    with occupy(root, commit=version.saved) as (clone, held):
        yield clone, held


@task(name="score", task_run_name="score", cache_policy=NO_CACHE, persist_result=False)
@hide_in_failures
def score_version(root: Path, model: str, out: Path, benchmarks: Sequence[str], lock: int) -> dict[str, Any]:
    """`videollava evaluate` on a version, by its own code where that is another; its metrics.json.

    lock: held by its processes too.
    """
    log = get_run_logger()
    environment = stage_environment(root)
    have_questions(root, log.info)
    program = shutil.which("videollava", path=environment["PATH"]) or "videollava"
    command = [program, "evaluate", "--model", model, "--out", str(out)]
    if benchmarks:
        command += ["--benchmarks", ",".join(benchmarks)]
    reading = Reading("evaluate", log.info)
    status = run_streamed(command, root, environment, OutputLines(reading.take, noise=NOISE), [lock])
    if status:
        raise StageFailed("evaluate", status, reading.tail)
    return dict(json.loads((out / "metrics.json").read_text()))


def answer_as_champion(
    root: Path, params: Params, number: int, lock: int, places: Sequence[registry.Store]
) -> None:
    """Let the champion answer, here, those questions of version `number` that it was never asked, before the gate
    compares; the answers stay with it.

    What goes wrong is a warning: the gate then refuses, and says for want of what.
    """
    live, asked = find_unanswered(root, params, number, places)
    if not asked:
        return
    log = get_run_logger()
    log.info("%s: answers %s first, for a fair gate", live, ", ".join(asked))
    try:
        answer(root, params, live, asked, lock)
    except (InputError, StageFailed) as error:
        log.warning("%s could not answer %s: %s", live, ", ".join(asked), error)


def answer(root: Path, params: Params, model: str, benchmarks: Sequence[str], lock: int) -> None:
    """Let a version (models:/...) answer this folder's questions; its scores and answers stay with it."""
    version = registry.find_version(root, params.tracking, model)
    out = root / "runs" / "evaluate" / f"version-{version.number}-asked-{uuid.uuid4().hex[:8]}"
    asked = _bring(root, version.reference, benchmarks)
    log_scores(root, version, score_version(root, version.reference, out, asked, lock), out)


def _bring(root: Path, reference: str, benchmarks: Sequence[str]) -> Sequence[str]:
    """Have here what is asked of a version, also from remotes that DVC alone reads; of `benchmarks` those that can be.

    InputError where none of them can.
    """
    bring(root, reference)
    alone = [name for name in benchmarks if set_of(name)]
    if not (alone if benchmarks else load_params(root / "params.yaml").evaluate.zero_shot):
        return benchmarks
    try:
        bring_encoders(root, reference)
    except InputError as error:
        if benchmarks and len(alone) == len(benchmarks):
            raise
        get_run_logger().warning("%s", error)
        return [name for name in benchmarks if name not in alone]
    return benchmarks


def find_unanswered(
    root: Path, params: Params, number: int, places: Sequence[registry.Store]
) -> tuple[str, list[str]]:
    """(the champion, benchmarks whose questions of version `number` it was never asked). None of them where this
    folder's questions are not the version's.
    """
    version = registry.find_version(root, params.tracking, str(number))
    live = registry.champion(root, params.tracking)
    if live is None or live.number == number or not (root / "metrics.json").is_file():
        return "", []
    here = registry.read_metrics(root)
    asked = [
        name
        for name in registry.examine(version, live, params, root, places).unanswered
        if (told := version.metrics[name].get("questions"))
        and told == (here.get(name) or {}).get("questions")
    ]
    return live.reference, asked


def have_questions(root: Path, say: Callable[[str], None]) -> None:
    """Have what `index` made here, from DVC's cache or remote where need be; InputError where those have it not."""
    if (root / DATA).is_dir():
        return
    reason = lacking = why_unreached(root) if has_remote(root) else "no default remote is set"
    if not lacking or (root / "dvc.lock").is_file():
        reading = Reading("index", say)
        words = ["pull", DATA] if not lacking else ["checkout", DATA, *_shards(root)]
        line = [sys.executable, "-m", "dvc", *words]
        status = run_streamed(line, root, stage_environment(root), OutputLines(reading.take, noise=NOISE))
        if not status or (root / DATA).is_dir():
            return
        reason = lacking or reading.error
    raise InputError(
        f"{root / DATA}: the questions are not here, and DVC cannot bring them ({reason}); "
        "`dvc repro index` makes them"
    )


def _shards(root: Path) -> list[str]:
    """The stages whose outputs the questions' media lie in; a remote has them read from there."""
    return [name for name in stage_order(root) if name.startswith("shards@")]


@task(name="log", task_run_name="log", retries=2, retry_delay_seconds=10, cache_policy=NO_CACHE)
@hide_in_failures
def log_scores(root: Path, version: registry.Version, scores: dict[str, Any], out: Path) -> None:
    """Scores and report to the version's MLflow run, the scores also to the version; a Prefect table.

    What MLflow refuses (the run was deleted, its store takes nothing) is a warning: the scores are in `out`.
    """
    tracking = load_params(root / "params.yaml").tracking
    for trouble in registry.note_evaluation(root, tracking, version, scores, out):
        get_run_logger().warning("%s; the scores are in %s", trouble, out)
    rows = [
        {"benchmark": name, "score": primary(values), "registered with": primary(version.metrics.get(name))}
        for name, values in scores.items()
    ]
    show_table(rows, "evaluation", version.reference)
