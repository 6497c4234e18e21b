"""Runs as MLflow has them, by name: the retrainings, and what each of their stages took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from videollava.tracking.store import Store

__all__ = ["Run", "children_of", "list_runs"]

PAGE = 200  # runs that are asked for at once


@dataclass(frozen=True)
class Run:
    """One. began, ended: seconds since 1970, ended 0 while it runs. parent: id of the run it belongs to, or ""."""

    id: str
    name: str
    began: float
    ended: float
    status: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]

    @property
    def parent(self) -> str:
        return self.tags.get("mlflow.parentRunId", "")


def list_runs(store: Store, name: str, model: str, most: int) -> list[Run]:
    """The newest runs of a name that were for a model, at most so many. Whatever MLflow raises comes through."""
    words = f"attributes.run_name = '{name}' and params.`tracking.model` = '{model}'"
    return list(_search(store, words, most))


def children_of(store: Store, runs: Sequence[str]) -> dict[str, list[Run]]:
    """The runs that belong to each of these. Whatever MLflow raises comes through."""
    found: dict[str, list[Run]] = {run: [] for run in runs}
    for run in runs:
        found[run] = list(_search(store, f"tags.`mlflow.parentRunId` = '{run}'", PAGE))
    return found


def _search(store: Store, words: str, most: int) -> Iterator[Run]:
    token = None
    while most > 0:
        page = store.client.search_runs(
            [store.experiment],
            words,
            order_by=["attributes.start_time DESC"],
            max_results=min(most, PAGE),
            page_token=token,
        )
        yield from map(_read, page)
        most, token = most - len(page), page.token
        if not token:
            return


def _read(run: object) -> Run:
    info, data = run.info, run.data  # type: ignore[attr-defined]
    return Run(
        id=info.run_id,
        name=info.run_name or "",
        began=(info.start_time or 0) / 1000,
        ended=(info.end_time or 0) / 1000,
        status=info.status,
        params=dict(data.params),
        metrics=dict(data.metrics),
        tags=dict(data.tags),
    )
