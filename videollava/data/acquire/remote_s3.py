"""Opens an object in S3 or a store that speaks its language; without credentials, unsigned: public buckets take it."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from typing import Any

from videollava.data.acquire.addresses import Address
from videollava.data.acquire.remote_http import is_loopback
from videollava.data.acquire.replies import TIMEOUT, TRANSIENT, Answer, TransientError
from videollava.errors import InputError

__all__ = ["open_s3", "s3_size"]

UNSIGNED = "AWS_NO_SIGN_REQUEST"  # credentials that are there are not used
MISSING = ("NoSuchKey", "404", "NotFound")


def open_s3(address: Address, start: int, version: str, origin: str) -> Answer:
    """Open an object from byte `start` on; see remote.open_url."""
    client, signed = _s3(origin)
    condition = {"IfMatch": version, "Range": f"bytes={start}-"} if start and version else {}
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

    try:
        reply = _first(
            address, lambda key: client.get_object(Bucket=address.host, Key=key, **condition), ClientError
        )
    except ClientError as error:
        status = _status(error)
        if condition and status in (412, 416):
            if status == 416 and s3_size(address, origin) == start:
                return Answer(io.BytesIO(), start, start, version)
            return open_s3(address, 0, "", origin)
        if status in TRANSIENT or error.response.get("Error", {}).get("Code") == "SlowDown":
            raise TransientError(str(error)) from error
        asked = (
            "" if signed else " (asked unsigned: no credentials were found, or AWS_NO_SIGN_REQUEST is set)"
        )
        raise InputError(
            f"{origin}: {address.shown}: {error}{asked}; check bucket, key and credentials (AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)"
        ) from error
    except ParamValidationError as error:
        raise InputError(f"{origin}: {address.shown}: {_line(error)}") from error
    except BotoCoreError as error:
        if "redential" in type(error).__name__:
            raise InputError(
                f"{origin}: {address.shown}: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from error
        raise TransientError(str(error)) from error
    first = start if condition else 0
    return Answer(_S3Body(reply["Body"]), first, first + int(reply["ContentLength"]), reply["ETag"])


def s3_size(address: Address, origin: str) -> int:
    """Bytes of an object, -1 where that can't be had."""
    client, _ = _s3(origin)
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        found = _first(address, lambda key: client.head_object(Bucket=address.host, Key=key), ClientError)
        return int(found["ContentLength"])
    except (BotoCoreError, ClientError):
        return -1


def _first(address: Address, ask: Callable[[str], Any], refusal: type[Exception]) -> Any:
    """The first of the keys that may be meant which is there."""
    *others, last = address.names
    for key in others:
        try:
            return ask(key)
        except refusal as error:
            if error.response.get("Error", {}).get("Code") not in MISSING:  # type: ignore[attr-defined]
                raise
    return ask(last)


class _S3Body:
    """A reply of botocore, whose broken connections are errors worth another attempt."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def read(self, size: int = -1) -> bytes:
        from botocore.exceptions import HTTPClientError, IncompleteReadError

        try:
            data: bytes = self._body.read(size)
            return data
        except (HTTPClientError, IncompleteReadError) as error:
            raise TransientError(str(error)) from error

    def close(self) -> None:
        self._body.close()


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


_clients = threading.local()


def _s3(origin: str) -> tuple[Any, bool]:
    """A client of this thread, and whether its requests are signed."""
    settings = sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
    if getattr(_clients, "settings", None) != settings:
        _clients.s3, _clients.settings = _connect(origin), settings
    client: tuple[Any, bool] = _clients.s3
    return client


def _connect(origin: str) -> tuple[Any, bool]:
    try:
        import boto3
        from botocore import UNSIGNED as NO_SIGNATURE
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise InputError(f"{origin}: s3:// needs boto3; run `pip install boto3`") from error
    try:
        # A session of its own: the default one is not thread-safe. Retries are ours: they resume.
        session = boto3.session.Session()
        unsigned = os.environ.get(UNSIGNED, "").lower() not in ("", "0", "no", "false", "off")
        signed = not unsigned and session.get_credentials() is not None
        options: dict[str, Any] = {} if signed else {"signature_version": NO_SIGNATURE}
        if _is_here(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""):
            options["proxies"] = {}
        config = Config(
            retries={"total_max_attempts": 1}, connect_timeout=TIMEOUT, read_timeout=TIMEOUT, **options
        )
        return session.client("s3", config=config), signed
    except (BotoCoreError, ValueError) as error:
        raise InputError(f"{origin}: the settings for s3 cannot be used: {_line(error)}") from error


def _is_here(endpoint: str) -> bool:
    return is_loopback(endpoint.partition("://")[2].partition("/")[0])
