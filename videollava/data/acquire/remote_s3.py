"""Objects in S3 or a store that speaks its language: opened, measured, listed.

A version is an object's ETag (in quotation marks), or where its bucket keeps versions the version's id.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from videollava.data.acquire.addresses import Address, key_address
from videollava.data.acquire.replies import TRANSIENT, Answer, Seen, Span, TransientError
from videollava.data.acquire.s3_client import Access, Store, as_line, open_store
from videollava.errors import InputError

__all__ = ["list_s3", "open_s3", "see_s3"]

MISSING = ("NoSuchKey", "404", "NotFound")
CHANGED = (412, 416)
T = TypeVar("T")


def open_s3(address: Address, span: Span, version: str, access: Access, origin: str) -> Answer:
    """Open an object's span; see remote.open_url."""
    store = open_store(access, origin)
    kept = bool(version) and not _is_tag(version)
    headers = _headers(span, version)

    def ask(key: str) -> Answer:
        parameters = {"Bucket": address.host, "Key": key} | ({"VersionId": version} if kept else {})
        return _open(store, parameters, headers, version if kept else "")

    from botocore.exceptions import ClientError

    try:
        return _called(lambda: _first(address, ask, ClientError), store, address, origin)
    except _Changed as changed:
        if changed.status == 416 and _size(store, address, version, origin) == span.start:
            return Answer(io.BytesIO(), span.start, span.start, version)
        return open_s3(address, Span(), "", access, origin)


def see_s3(address: Address, access: Access, origin: str) -> Seen:
    """An object's size and version, without its bytes. InputError where it can't be had."""
    from botocore.exceptions import ClientError

    store = open_store(access, origin)

    def ask(key: str) -> Any:
        return store.client.head_object(Bucket=address.host, Key=key)

    found = _called(lambda: _first(address, ask, ClientError), store, address, origin)
    return Seen("", int(found["ContentLength"]), _version_of(found))


def list_s3(address: Address, access: Access, origin: str) -> Iterator[Seen]:
    """Every object below an address that ends in /, in the order of their keys; folders' own marks are none.

    Their names are keys from there on. Raises InputError where they can't be listed.
    """
    store = open_store(access, origin)
    versioned = _keeps_versions(store, address)
    for prefix in address.names:
        found = False
        for entry in _entries(store, address, prefix, versioned, origin):
            key, found = str(entry["Key"]), True
            if entry.get("IsLatest", True) and not key.endswith("/"):
                url = key_address(address.host, key)
                yield Seen(key[len(prefix) :], int(entry["Size"]), _version_of(entry), url=url)
        if found:
            return


def _entries(
    store: Store, address: Address, prefix: str, versioned: bool, origin: str
) -> Iterator[dict[str, Any]]:
    name, field = ("list_object_versions", "Versions") if versioned else ("list_objects_v2", "Contents")
    pages = iter(store.client.get_paginator(name).paginate(Bucket=address.host, Prefix=prefix))
    while page := _called(lambda: next(pages, None), store, address, origin):
        yield from page.get(field, ())


def _keeps_versions(store: Store, address: Address) -> bool:
    """Whether a bucket says that it keeps versions; who may not ask goes by ETags."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return bool(store.client.get_bucket_versioning(Bucket=address.host).get("Status") == "Enabled")
    except (BotoCoreError, ClientError):
        return False


def _version_of(found: dict[str, Any]) -> str:
    identity = str(found.get("VersionId") or "null")  # "null": of an object from before versions were kept
    return identity if identity != "null" else str(found.get("ETag", ""))


def _is_tag(version: str) -> bool:
    return version.startswith('"')


def _headers(span: Span, version: str) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity"}
    if version and _is_tag(version):
        headers["If-Match"] = version
    if not span.is_whole:
        headers["Range"] = span.header
    return headers


class _Changed(Exception):
    """The object is not, or no longer, what was asked for."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _open(store: Store, parameters: dict[str, str], headers: dict[str, str], identity: str) -> Answer:
    reply = store.send(parameters, headers)
    if reply.status in (200, 206):
        start, total = 0, int(reply.headers.get("Content-Length", -1))
        if reply.status == 206:
            span, _, whole = reply.headers["Content-Range"].removeprefix("bytes ").partition("/")
            start, total = int(span.partition("-")[0]), int(whole) if whole.isdigit() else -1
        return Answer(_S3Body(reply), start, total, identity or reply.headers.get("ETag", ""))
    reply.close()
    if reply.status in CHANGED:
        raise _Changed(reply.status)
    # Anything else once more in boto3's own way, which finds a bucket's region and says what is wrong.
    named = {"If-Match": "IfMatch", "Range": "Range"}
    conditions = {named[name]: value for name, value in headers.items() if name in named}
    found = store.client.get_object(**parameters, **conditions)
    whole = found.get("ContentRange", "").partition("/")[2] or str(found["ContentLength"])
    start = int(found["ContentRange"].split()[1].partition("-")[0]) if "ContentRange" in found else 0
    return Answer(_S3Body(found["Body"]), start, int(whole), identity or found["ETag"])


def _size(store: Store, address: Address, version: str, origin: str) -> int:
    from botocore.exceptions import ClientError

    kept = {"VersionId": version} if version and not _is_tag(version) else {}

    def ask(key: str) -> Any:
        return store.client.head_object(Bucket=address.host, Key=key, **kept)

    return int(_called(lambda: _first(address, ask, ClientError), store, address, origin)["ContentLength"])


def _called(call: Callable[[], T], store: Store, address: Address, origin: str) -> T:
    """What a call gives, its errors said in words or worth another attempt."""
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

    try:
        return call()
    except ClientError as error:
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if status in CHANGED:
            raise _Changed(status) from error
        if status in TRANSIENT or error.response.get("Error", {}).get("Code") == "SlowDown":
            raise TransientError(as_line(error)) from error
        asked = "" if store.signed else f" (asked unsigned: {_why_unsigned(store)})"
        raise InputError(
            f"{origin}: {address.shown}: {as_line(error)}{asked}; check bucket, key and credentials "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)"
        ) from error
    except ParamValidationError as error:
        raise InputError(f"{origin}: {address.shown}: {as_line(error)}") from error
    except BotoCoreError as error:
        if "redential" in type(error).__name__ or "Profile" in type(error).__name__:
            raise InputError(
                f"{origin}: {address.shown}: {as_line(error)}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from error
        raise TransientError(as_line(error)) from error


def _why_unsigned(store: Store) -> str:
    return "no credentials were found, or AWS_NO_SIGN_REQUEST or `unsigned` is set"


def _first(address: Address, ask: Callable[[str], T], refusal: type[Exception]) -> T:
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
    """A reply of urllib3 or botocore, whose broken connections are errors worth another attempt."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def readinto(self, buffer: memoryview) -> int:
        from botocore.exceptions import HTTPClientError, IncompleteReadError
        from urllib3.exceptions import HTTPError

        try:
            count: int = self._body.readinto(buffer)
            return count
        except (HTTPClientError, IncompleteReadError, HTTPError) as error:
            raise TransientError(as_line(error)) from error

    def close(self) -> None:
        self._body.close()
