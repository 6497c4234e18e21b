"""Clients of S3 and of stores that speak its language, one for each way to reach one; shared by all threads."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Any

from videollava.data.acquire.remote_http import is_loopback
from videollava.data.acquire.replies import TIMEOUT
from videollava.errors import InputError
from videollava.params import Source

__all__ = ["Access", "Store", "access_of", "as_line", "open_store"]

UNSIGNED = "AWS_NO_SIGN_REQUEST"  # credentials that are there are not used
CONNECTIONS = 32  # kept open to one store
SIGNED_FOR = 3600  # seconds


@dataclass(frozen=True, slots=True)
class Access:
    """How a source's store is reached; what is empty comes from the environment and boto3's files."""

    endpoint: str = ""
    region: str = ""
    profile: str = ""
    unsigned: bool = False


def access_of(source: Source) -> Access:
    """How the store of its addresses is reached."""
    return Access(source.endpoint, source.region, source.profile, source.unsigned)


@dataclass(frozen=True)
class Store:
    """A client of boto3, and the connections that objects come over."""

    client: Any
    signed: bool
    connections: Any

    def send(self, parameters: dict[str, str], headers: dict[str, str]) -> Any:
        """A reply to GET of an object, whatever its status, as urllib3 has it.

        boto3 signs and this sends: a third of the work of its get_object, which counts for small objects.
        """
        from botocore.awsrequest import AWSPreparedRequest

        url = self.client.generate_presigned_url("get_object", Params=parameters, ExpiresIn=SIGNED_FOR)
        return self.connections.send(AWSPreparedRequest("GET", url, headers, None, True)).raw


_stores: dict[tuple[Any, ...], Store] = {}
_opening = threading.Lock()


def open_store(access: Access, origin: str, attempts: int = 1) -> Store:
    """The store that is reached so; InputError where settings cannot be used.

    attempts: boto3's own at a request. Downloads have theirs elsewhere: they resume.
    """
    settings = sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
    key = (access, attempts, tuple(settings))
    with _opening:
        if key not in _stores:
            _stores[key] = _connect(access, origin, attempts)
        return _stores[key]


def as_line(error: Exception) -> str:
    """An error's words in one line, without the query of a signed address."""
    return " ".join(word.partition("?X-Amz-")[0] for word in str(error).split())


def _connect(access: Access, origin: str, attempts: int) -> Store:
    try:
        import boto3
        from botocore import UNSIGNED as NO_SIGNATURE
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
        from botocore.httpsession import URLLib3Session
    except ImportError as error:
        raise InputError(f"{origin}: s3:// needs boto3; run `pip install boto3`") from error
    try:
        # A session of its own: the default one is not thread-safe.
        session = boto3.session.Session(profile_name=access.profile or None)
        unsigned = access.unsigned or os.environ.get(UNSIGNED, "").lower() not in (
            *("", "0", "no", "false", "off"),
        )
        signed = not unsigned and session.get_credentials() is not None
        options: dict[str, Any] = {"signature_version": "s3v4" if signed else NO_SIGNATURE}
        if _is_here(access.endpoint or _endpoint_of_environment()):
            options["proxies"] = {}
        config = Config(
            retries={"total_max_attempts": attempts, "mode": "standard"},
            connect_timeout=TIMEOUT,
            read_timeout=TIMEOUT,
            max_pool_connections=CONNECTIONS,
            **options,
        )
        client = session.client(
            "s3",
            config=config,
            endpoint_url=access.endpoint or None,
            # A store of one's own mostly has no regions, and boto3 signs for one.
            region_name=access.region
            or session.region_name
            or ("us-east-1" if access.endpoint or _endpoint_of_environment() else None),
        )
        connections = URLLib3Session(
            verify=os.environ.get("AWS_CA_BUNDLE") or True,
            proxies=options.get("proxies", _proxies()),
            timeout=TIMEOUT,
            max_pool_connections=CONNECTIONS,
        )
        return Store(client, signed, connections)
    except (BotoCoreError, ValueError) as error:
        raise InputError(f"{origin}: the settings for s3 cannot be used: {as_line(error)}") from error


def _proxies() -> dict[str, str]:
    import urllib.request

    return urllib.request.getproxies()


def _endpoint_of_environment() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def _is_here(endpoint: str) -> bool:
    return is_loopback(endpoint.partition("://")[2].partition("/")[0])
