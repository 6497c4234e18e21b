"""Opens an object at s3://, https://, http:// or file:// from a byte on, if it is still the same object."""

from __future__ import annotations

import http.client
import io
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from videollava.errors import InputError

__all__ = ["Answer", "TransientError", "open_url", "remote_size"]

TIMEOUT = 60.0  # seconds without a byte

# Answers that another attempt may change; others are the user's to mend.
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


class Body(Protocol):
    """What replies have in common."""

    def read(self, size: int = -1, /) -> bytes: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Answer:
    """An open reply: its bytes start at `start` of an object of `total` bytes (-1: not said).

    `version` identifies the object's content (an ETag, or a date), "" where the server doesn't.
    """

    body: Body
    start: int
    total: int
    version: str


class TransientError(Exception):
    """Worth another attempt, after `pause` seconds where the server said so."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


@contextmanager
def open_url(url: str, start: int, version: str, origin: str) -> Iterator[Answer]:
    """Open `url` from byte `start` on, if it is still `version`; else, or where that can't be, from byte 0.

    `origin` names the parameter in errors.

    Raises:
        InputError: a wrong address, or a refusal that another attempt won't change.
        TransientError, OSError, http.client.HTTPException: worth another attempt.
    """
    openers = {"http": _open_http, "https": _open_http, "s3": _open_s3, "file": _open_local}
    scheme = urlsplit(url).scheme
    if scheme not in openers:
        raise InputError(f"{origin}: {url!r}: addresses start with s3://, https://, http:// or file:///")
    answer = openers[scheme](url, start, version, origin)
    with closing(answer.body):
        yield answer


def remote_size(url: str, origin: str) -> int:
    """Bytes of an object, -1 where that can't be had: whatever is wrong then shows when it's fetched."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        path = Path(unquote(parts.path))
        return path.stat().st_size if path.is_file() else -1
    if parts.scheme == "s3":
        return _s3_size(url, origin)
    try:
        request = urllib.request.Request(url, headers=HEADERS, method="HEAD")
        with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:
            return int(reply.headers.get("Content-Length", -1))
    except (OSError, ValueError, http.client.HTTPException):
        return -1


HEADERS = {"User-Agent": "videollava", "Accept-Encoding": "identity"}


def _open_local(url: str, start: int, version: str, origin: str) -> Answer:
    parts = urlsplit(url)
    path = Path(unquote(parts.path))
    if parts.netloc not in ("", "localhost"):
        raise InputError(f"{origin}: {url!r}: a local file is written file:///absolute/path")
    if not path.is_file():
        raise InputError(f"{origin}: {url!r}: there is no such file")
    state = path.stat()
    found = f"{state.st_size}-{state.st_mtime_ns}"
    start = start if version == found else 0
    file = path.open("rb")
    file.seek(start)
    return Answer(file, start, state.st_size, found)


def _open_http(url: str, start: int, version: str, origin: str) -> Answer:
    headers = dict(HEADERS)
    if start:
        headers["Range"] = f"bytes={start}-"
        if version:
            headers["If-Range"] = version
    try:
        reply = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            return _refused(error, url, start, version, origin)
    except ValueError as error:
        raise InputError(f"{origin}: {url!r}: not an address: {error}") from error
    if reply.status == 206:
        first, total = _range_of(reply.headers.get("Content-Range", ""))
    else:
        first, total = 0, int(reply.headers.get("Content-Length", -1))
    # If-Range takes strong tags and dates only; a weak tag identifies no bytes.
    tag = reply.headers.get("ETag", "")
    found = tag if tag and not tag.startswith("W/") else reply.headers.get("Last-Modified", "")
    return Answer(reply, first, total, found)


def _range_of(header: str) -> tuple[int, int]:
    """Start and total of a Content-Range such as "bytes 5-9/10"."""
    span, _, total = header.removeprefix("bytes ").partition("/")
    start = span.partition("-")[0]
    if not start.isdigit():
        raise TransientError(f"an odd Content-Range: {header!r}")
    return int(start), int(total) if total.isdigit() else -1


def _refused(error: urllib.error.HTTPError, url: str, start: int, version: str, origin: str) -> Answer:
    if error.code == 416 and start:  # nothing is left to send, or the object has shrunk: then all of it again
        if error.headers.get("Content-Range", "") == f"bytes */{start}":
            return Answer(io.BytesIO(), start, start, version)
        return _open_http(url, 0, "", origin)
    if error.code in TRANSIENT:
        after = error.headers.get("Retry-After", "")
        raise TransientError(f"HTTP {error.code} {error.reason}", float(after) if after.isdigit() else 0.0)
    raise InputError(
        f"{origin}: {url}: HTTP {error.code} {error.reason}; check the address and who may read it"
    )


def _open_s3(url: str, start: int, version: str, origin: str) -> Answer:
    client = _s3(origin)
    from botocore.exceptions import BotoCoreError, ClientError

    parts = urlsplit(url)
    place = {"Bucket": parts.netloc, "Key": unquote(parts.path).lstrip("/")}
    condition = {"IfMatch": version, "Range": f"bytes={start}-"} if start and version else {}
    try:
        reply = client.get_object(**place, **condition)
    except ClientError as error:
        status = _status(error)
        if condition and status in (412, 416):
            if status == 416 and _s3_size(url, origin) == start:
                return Answer(io.BytesIO(), start, start, version)
            return _open_s3(url, 0, "", origin)
        if status in TRANSIENT or error.response.get("Error", {}).get("Code") == "SlowDown":
            raise TransientError(str(error)) from error
        raise InputError(f"{origin}: {url}: {error}; check bucket, key and credentials") from error
    except BotoCoreError as error:
        if "redential" in type(error).__name__:
            raise InputError(
                f"{origin}: {url}: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from error
        raise TransientError(str(error)) from error
    first = start if condition else 0
    return Answer(_S3Body(reply["Body"]), first, first + int(reply["ContentLength"]), reply["ETag"])


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


def _s3_size(url: str, origin: str) -> int:
    client = _s3(origin)
    from botocore.exceptions import BotoCoreError, ClientError

    parts = urlsplit(url)
    try:
        return int(
            client.head_object(Bucket=parts.netloc, Key=unquote(parts.path).lstrip("/"))["ContentLength"]
        )
    except (BotoCoreError, ClientError):
        return -1


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


_clients = threading.local()


def _s3(origin: str) -> Any:
    if not hasattr(_clients, "s3"):
        try:
            import boto3
            from botocore.config import Config
        except ImportError as error:
            raise InputError(f"{origin}: s3:// needs boto3; run `pip install boto3`") from error
        # Retries are ours: they resume. A session of its own: the default one is not thread-safe.
        config = Config(retries={"total_max_attempts": 1}, connect_timeout=TIMEOUT, read_timeout=TIMEOUT)
        _clients.s3 = boto3.session.Session().client("s3", config=config)
    return _clients.s3
