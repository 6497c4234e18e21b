"""Notices as a task of their own: shown among a flow's, tried for seconds, and never what ends it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.shown import hide_in_failures
from videollava.notices import Notice, send
from videollava.params import Tracking
from videollava.registry import news

__all__ = ["tell", "telling_failure"]


def tell(root: Path, tracking: Tracking, notice: Notice) -> None:
    """Send a notice to everybody who is to be told of this model; nothing where nobody is."""
    targets, trouble = news.recipients(root, tracking)
    if trouble:
        get_run_logger().warning(trouble)
    if targets:
        _notify(root, tracking, notice)


@contextmanager
def telling_failure(root: Path, tracking: Tracking, who: str, what: str = "retraining") -> Iterator[None]:
    """Send a notice where what is done within fails."""
    try:
        yield
    except Exception as error:
        tell(root, tracking, news.failed(tracking, error, who, what))
        raise


@task(name="notify", task_run_name="notify", cache_policy=NO_CACHE, persist_result=False)
@hide_in_failures
def _notify(root: Path, tracking: Tracking, notice: Notice) -> None:
    """The addresses are read here again: Prefect keeps a task's parameters."""
    for trouble in send(notice, news.recipients(root, tracking)[0]):
        get_run_logger().warning(trouble)
