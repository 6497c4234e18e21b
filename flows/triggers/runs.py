"""Runs of deployments that are asked for once, however often: Prefect's idempotency key says which are the same."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from httpx import HTTPError
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Scheduled

from videollava.errors import InputError
from videollava.scrub import scrub

__all__ = ["Asked", "ask_for_run", "check_deployment"]


@dataclass(frozen=True)
class Asked:
    """A run by its id and name. new: nobody asked for it before. starts: when it is to begin, None: at once."""

    identity: str
    name: str
    new: bool
    starts: datetime | None = None


def check_deployment(deployment: str, parameters: Mapping[str, Any]) -> None:
    """InputError where the server has no such deployment, or it takes no such parameters."""
    with _client() as client:
        _find(client, deployment, parameters)


def ask_for_run(
    deployment: str,
    parameters: Mapping[str, Any],
    key: str,
    at: datetime | None = None,
    label: str = "asked",
) -> Asked:
    """Have a deployment (FLOW/NAME) run once for this key: who asks again is given the first one's run.

    at: not before then. label: what the run's name begins with. InputError where the server refuses or is away.
    """
    with _client() as client:
        identity = _find(client, deployment, parameters)
        name = f"{label}-{uuid.uuid4().hex[:8]}"
        run = client.create_flow_run_from_deployment(
            identity,
            parameters=dict(parameters),
            state=Scheduled(scheduled_time=at) if at else None,
            name=name,
            idempotency_key=key,
        )
    return Asked(str(run.id), run.name, run.name == name, at)


@contextmanager
def _client() -> Iterator[SyncPrefectClient]:
    try:
        with get_client(sync_client=True) as client:
            yield client
    except PrefectHTTPStatusError as error:
        raise InputError(f"Prefect's server refuses: {scrub(_words(error))}") from error
    except HTTPError as error:
        raise InputError(
            f"Prefect's server does not answer: {scrub(str(error)) or type(error).__name__}"
        ) from error


def _find(client: SyncPrefectClient, deployment: str, parameters: Mapping[str, Any]) -> uuid.UUID:
    if deployment.count("/") != 1 or deployment.startswith("/") or deployment.endswith("/"):
        raise InputError(f"{deployment!r} names no deployment: they are written FLOW/NAME, as retrain/team")
    try:
        found = client.read_deployment_by_name(deployment)
    except ObjectNotFound as error:
        raise InputError(
            f"Prefect's server has no deployment {deployment}; `prefect deploy --all` makes those of prefect.yaml"
        ) from error
    taken = (found.parameter_openapi_schema or {}).get("properties", {})
    if lacking := [name for name in parameters if name not in taken]:
        raise InputError(f"the deployment {deployment} has no parameter {lacking[0]!r}; name another one")
    return found.id


def _words(error: PrefectHTTPStatusError) -> str:
    try:
        told = error.response.json().get("detail", error.response.text)
    except ValueError:
        told = error.response.text
    return f"{str(told)[:300]} (HTTP {error.response.status_code})"
