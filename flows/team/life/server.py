"""Short talks with Prefect's server by one that must not be kept waiting: no retries, whoever asks asks again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from videollava.scrub import scrub

__all__ = ["AWAY", "Away", "impatient_client"]

SECONDS = 10.0
SAID_AFTER = 15.0  # seconds: one answer that does not come is nothing to speak of
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


class Away:
    """Says once that the server is away, and once that it is back."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._since: float | None = None
        self._said = False

    def failed(self, error: Exception) -> None:
        """It did not answer."""
        now = self._clock()
        self._since = self._since or now
        if not self._said and now - self._since >= SAID_AFTER:
            self._said = True
            self._say(scrub(f"Prefect's server does not answer ({_first_line(error)}): it is waited for"))

    def answered(self) -> None:
        """It did."""
        if self._said:
            self._say("Prefect's server answers again")
        self._since, self._said = None, False


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
