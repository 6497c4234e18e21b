"""What is written down about a run: a local journal first, MLflow when it answers."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from videollava.ends import AGAIN, INTERRUPTED, Ended
from videollava.tracking.data_sets import read_data_sets
from videollava.tracking.journal import (
    Journal,
    log_metrics,
    log_tags,
    open_journal,
    write_curve,
    write_curves,
)
from videollava.tracking.lineage import (
    Lineage,
    flatten,
    input_key,
    read_graph,
    read_lineage,
)
from videollava.tracking.packages import package_tags
from videollava.tracking.spent import INPUT_KEY, Spent, made_by, read_spent

if TYPE_CHECKING:
    from videollava.machine import Machine
    from videollava.params import Params, Tracking

__all__ = [
    "Journal",
    "Lineage",
    "Spent",
    "input_key",
    "log_metrics",
    "log_tags",
    "made_by",
    "read_data_sets",
    "read_graph",
    "read_lineage",
    "read_spent",
    "track",
    "write_curve",
    "write_curves",
]

FOLLOWED = "VIDEOLLAVA_FOLLOWED"  # "1": another process forwards this one's journal
PARENT = "VIDEOLLAVA_PARENT"  # identity of the journal of the retraining this stage belongs to
PLACE = {
    "pool": "VIDEOLLAVA_POOL",
    "worker": "VIDEOLLAVA_WORKER",
}  # tags, and who tells: the flow that sent it
FOLLOW_AFTER = 60.0  # seconds: a run that is longer is followed live
REPLAY_AFTER = (
    20.0  # seconds: MLflow takes some 5 s to load, so shorter stages leave their journal to the next
)


@contextmanager
def track(stage: str, params: Params, workspace: Path, machine: Machine | None = None) -> Iterator[Journal]:
    """Run a stage's body with its journal open: params and lineage first, metrics as they come, the end.

    Metrics come by `log_metrics(step, loss=...)` from anywhere in the body. Ranks other than 0 write nothing.
    machine: noted beside the recipe. Under a flow (VIDEOLLAVA_FOLLOWED=1) the flow forwards; else this process
    does, when the run is long or last.
    """
    if int(os.environ.get("RANK", "0")):
        with Journal(None) as silent:
            yield silent
        return
    key = input_key(workspace, stage)
    shown = _shown(stage, params, machine)
    journal = open_journal(workspace / "runs", stage, key, shown)
    tags = read_lineage(workspace).tags() | package_tags(workspace) | _place(stage, machine)
    journal.start(stage, shown, tags, os.environ.get(PARENT, ""), key)
    journal.data_sets(read_data_sets(workspace, stage))
    if (trouble := tags.get("commit_trouble")) and os.environ.get(FOLLOWED) != "1":  # a flow says it once
        print(f"lineage: no commit is recorded: {trouble}", file=sys.stderr)
    with _forwarded(stage, params.tracking, workspace, journal), journal:
        yield journal
        if journal.path is not None:
            journal.metrics(0, read_spent(journal.path).metrics())
            if (
                after := input_key(workspace, stage)
            ) != key:  # it noted in its lock what it saw for the first time
                journal.tags({INPUT_KEY: after})


def _shown(stage: str, params: Params, machine: Machine | None) -> dict[str, str]:
    """The recipe, and beside it how fast it is computed: the machine's values for this stage."""
    base, _, source = stage.partition("@")
    section = getattr(params, base, None)
    own = {base: section} if section is not None else {}
    own.update({"source": params.sources[source]} if source in params.sources else {})
    here = {"machine": machine.work(base)} if machine is not None else {}
    return flatten({"profile": params.profile, "seed": params.seed, **own, "model": params.model, **here})


def _place(stage: str, machine: Machine | None) -> dict[str, str]:
    """How many of what the stage holds while it runs, and the pool and worker that it runs in, if any."""
    base = stage.partition("@")[0]
    held = machine is not None and base not in ("fetch", "shards", "index") and machine.work(base).gpus
    sent = {name: os.environ.get(variable, "") for name, variable in PLACE.items()}
    ranks = {"ranks": os.environ.get("WORLD_SIZE", "1"), "device": "cuda" if held else "cpu"}
    return ranks | {name: value for name, value in sent.items() if value}


@contextmanager
def _forwarded(stage: str, tracking: Tracking, workspace: Path, journal: Journal) -> Iterator[None]:
    if os.environ.get(FOLLOWED) == "1":
        yield
        return
    graph = list(read_graph(workspace))
    if graph[:1] == [stage]:
        _try_out(tracking, workspace, journal)
    began = time.monotonic()
    followers: list[threading.Thread] = []
    timer = threading.Timer(FOLLOW_AFTER, lambda: followers.append(_follow(tracking, workspace)))
    timer.daemon = True
    timer.start()
    stopped = False
    try:
        yield
    except Ended as ended:
        stopped = ended.status in (AGAIN, INTERRUPTED)
        raise
    finally:
        timer.cancel()
        # Who told it to stop waits: what nobody follows yet is told with the next stage.
        left = stopped and not followers
        if not left and (graph[-1:] == [stage] or time.monotonic() - began > REPLAY_AFTER):
            _finish(tracking, workspace, followers)


def _follow(tracking: Tracking, workspace: Path) -> threading.Thread:
    from videollava.tracking.forward import Follower

    follower = Follower(workspace, tracking)
    follower.start()
    return follower


def _finish(tracking: Tracking, workspace: Path, followers: list[threading.Thread]) -> None:
    try:
        from videollava.tracking.forward import Follower, replay
    except ImportError:
        return
    done = None
    for follower in followers:
        if isinstance(follower, Follower):
            done = follower.stop()
    done = done or replay(workspace, tracking)
    if told := done.in_words():
        print(f"tracking: {told}", file=sys.stderr)


def _try_out(tracking: Tracking, workspace: Path, journal: Journal) -> None:
    """Before the first stage: what MLflow refuses is said now, not after hours. Nothing is stopped by it."""
    try:
        from videollava.tracking.forward import try_out
    except ImportError:
        return
    if journal.path and (told := try_out(workspace, tracking, journal.path).in_words()):
        print(f"tracking: {told}; the work goes on", file=sys.stderr)
