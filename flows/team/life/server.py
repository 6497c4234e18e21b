"""Short talks with Prefect's server by one that must not be kept waiting: no retries, whoever asks asks again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

__all__ = ["AWAY", "impatient_client"]

SECONDS = 10.0
# A server that is away, being started, or behind a door that answers for it.
AWAY = (httpx.TransportError, PrefectHTTPStatusError, OSError)


@contextmanager
def impatient_client() -> Iterator[SyncPrefectClient]:
    """A client that gives up after SECONDS. Of this thread alone."""
    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
        get_client(sync_client=True, httpx_settings={"timeout": SECONDS}) as client,
    ):
        yield client
