"""A stage as Prefect's tasks, on whichever machine: its work, then its data on their way to the DVC remote."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import State

from flows.shown import hide_in_failures
from flows.stages.again import run_on
from flows.stages.graph import kept_stages
from flows.stages.stage import StageFailed, StageResult, push_stages, run_stage
from videollava import registry
from videollava.errors import InputError
from videollava.process import Supervised
from videollava.tracking.troubles import explain, is_from_store

__all__ = ["may_pass_later", "push_task", "stage_task"]

# Downloads fail for reasons that pass; a training that failed would fail again.
RETRIES = {"fetch": (3, 20)}


def stage_task(name: str) -> Callable[..., StageResult]:
    """The task of a stage: (workspace, stage, what its processes are told and hold, ...) -> what became of it."""
    tries, delay = RETRIES.get(name.partition("@")[0], (0, 0))

    @task(
        name=name,
        task_run_name=name,
        retries=tries,
        retry_delay_seconds=delay,
        retry_condition_fn=may_pass_later,
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    @hide_in_failures
    def run(
        root: Path,
        stage: str,
        environment: Mapping[str, str],
        keep: Iterable[int],
        warn: Callable[[str], None],
        echo: Callable[[str], None] | None = None,
        look: Callable[[Supervised], object] | None = None,
        heard: Callable[[Callable[[str], None]], Callable[[str], None]] = lambda say: say,
        recalled: bool = False,
    ) -> StageResult:
        log = get_run_logger()
        whole = stage in kept_stages(root) and not recalled
        say = heard(log.info)
        once = partial(
            run_stage, root, stage, say, environment, keep, echo, whole, look=look, recalled=recalled
        )
        result = run_on(root, stage, once, warn)
        log.info("%s: %s in %.1f s", stage, result.outcome, result.seconds)
        return result

    return run


def push_task(stages: Sequence[str]) -> Callable[..., str]:
    """The task that sends stages' outputs: (workspace, stages, whether it must, ...) -> why it could not be, or ""."""
    title = f"send {stages[0]}" + (f" to {stages[-1]}" if len(stages) > 1 else "")

    @task(
        name=title,
        task_run_name=title,
        retries=2,
        retry_delay_seconds=[5, 60],
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    @hide_in_failures
    def push(root: Path, names: Sequence[str], must: bool, echo: Callable[[str], None] | None = None) -> str:
        reason = push_stages(root, names, get_run_logger().info, echo)
        if reason and must:
            told = ", ".join(names)
            raise InputError(
                f"{told}: their outputs are not on the DVC remote, where others look for them: {reason}"
            )
        return reason

    return push


def may_pass_later(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Whether another try may end otherwise: a user's mistake, a full disk, a refusal for good stay what they are."""
    error = state.result(raise_on_failure=False)
    if isinstance(error, StageFailed):
        return not error.lasting
    while isinstance(error, BaseException):
        if isinstance(error, registry.PromotionConflict) or (is_from_store(error) and explain(error).passing):
            return True
        error = error.__cause__
    return False
