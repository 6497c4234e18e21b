"""Objects below one prefix of a bucket of S3, or of a store that speaks its language.

What a store says is one of two things: it is away or busy (`Away`: another attempt may bring it), or it refuses
(`Refused`: wrong bucket, wrong key, no right). Both are sentences without keys, signatures or passwords. Bodies carry
S3's own checksums, which boto3 adds: what was changed on the way is refused by the store and sent again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from videollava.data.acquire.addresses import key_address
from videollava.data.acquire.replies import TRANSIENT
from videollava.data.acquire.s3_client import Access, as_line, open_store
from videollava.errors import InputError
from videollava.scrub import scrub

__all__ = ["Away", "Found", "Objects", "Refused"]

PART = 64 << 20  # bytes of a large file's part; s3transfer makes them larger where there would be over 10,000
CONNECTIONS = 4  # of a rank, for one file
ATTEMPTS = 3  # of a request, boto3's own; a whole file's are the place's
QUIET = 60.0  # seconds between two words about requests that are made again
BUSY = ("SlowDown", "BadDigest", "InternalError", "RequestTimeout", "NoSuchUpload", "ServiceUnavailable")
MISSING = ("404", "NoSuchKey", "NotFound")
T = TypeVar("T")


class Away(Exception):
    """The store does not answer, or not now."""


class Refused(Exception):
    """The store answers, and will not."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object as it is listed."""

    size: int
    written: datetime


@dataclass(frozen=True)
class Objects:
    """Names are relative to `prefix`, which is "" or ends in /. origin: what asked for them, for errors."""

    bucket: str
    prefix: str
    access: Access
    origin: str

    @property
    def url(self) -> str:
        """What people are told."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def address(self, name: str) -> str:
        """Of one object."""
        return key_address(self.bucket, f"{self.prefix}{name}")

    def find(self) -> dict[str, Found]:
        """All objects by name."""
        pages = iter(self._client.get_paginator("list_objects_v2").paginate(**self._below))
        found: dict[str, Found] = {}
        while page := self._asked(lambda: next(pages, None)):
            for entry in page.get("Contents", ()):
                name = str(entry["Key"])[len(self.prefix) :]
                found[name] = Found(int(entry["Size"]), entry["LastModified"])
        return found

    def read(self, name: str) -> bytes | None:
        """A small object's bytes; None where there is none."""
        from botocore.exceptions import ClientError

        def ask() -> bytes | None:
            try:
                body: bytes = self._client.get_object(**self._named(name))["Body"].read()
                return body
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in MISSING:
                    return None
                raise

        return self._asked(ask)

    def write(self, name: str, data: bytes) -> None:
        """A small object, in the place of what has that name."""
        self._asked(lambda: self._client.put_object(**self._named(name), Body=data))

    def send(self, name: str, file: Path) -> None:
        """A file of any size, in parts read from the disk as they go: memory stays at a few blocks."""
        from s3transfer.manager import TransferConfig, TransferManager

        config = TransferConfig(
            multipart_threshold=PART, multipart_chunksize=PART, max_request_concurrency=CONNECTIONS
        )

        def ask() -> None:
            with TransferManager(self._client, config) as manager:
                manager.upload(str(file), self.bucket, f"{self.prefix}{name}").result()

        self._asked(ask)

    def remove(self, name: str) -> None:
        """No longer there, whether or not it was."""
        self._asked(lambda: self._client.delete_object(**self._named(name)))

    def unfinished(self) -> Iterator[tuple[str, str]]:
        """Uploads in parts that nobody ended: (name, id)."""
        page = self._asked(lambda: self._client.list_multipart_uploads(**self._below))
        for entry in page.get("Uploads", ()):
            yield str(entry["Key"])[len(self.prefix) :], str(entry["UploadId"])

    def abort(self, name: str, upload: str) -> None:
        """End an upload: the store forgets its parts."""
        self._asked(lambda: self._client.abort_multipart_upload(**self._named(name), UploadId=upload))

    def try_bucket(self) -> None:
        """Whether the bucket is there. Some servers make one by writing to it: of a slip there would be two."""
        self._asked(lambda: self._client.list_objects_v2(**self._below, MaxKeys=1))

    @property
    def _client(self) -> Any:
        client = open_store(self.access, self.origin, ATTEMPTS).client
        client.meta.events.register("needs-retry.s3", _tell, unique_id="videollava-told")
        return client

    @property
    def _below(self) -> dict[str, str]:
        return {"Bucket": self.bucket, "Prefix": self.prefix}

    def _named(self, name: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": f"{self.prefix}{name}"}

    def _asked(self, call: Callable[[], T]) -> T:
        from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError
        from urllib3.exceptions import HTTPError

        try:
            return call()
        except ClientError as error:
            told = error.response.get("Error", {}).get("Code", "")
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            if status in TRANSIENT or told in BUSY:
                raise Away(_line(error)) from error
            raise Refused(_line(error)) from error
        except ParamValidationError as error:
            raise InputError(f"{self.origin}: {self.url}: {_line(error)}") from error
        except BotoCoreError as error:
            kind = type(error).__name__
            lacking = "redential" in kind or "Token" in kind or "Profile" in kind
            raise (Refused if lacking else Away)(_line(error)) from error
        except HTTPError as error:
            raise Away(_line(error)) from error


_told = -QUIET


def _tell(caught_exception: Exception | None = None, **_: Any) -> None:
    """Say that a request got no answer: boto3 makes it again, after up to a minute each time, and says nothing."""
    global _told
    if caught_exception is not None and time.monotonic() - _told > QUIET:
        _told = time.monotonic()
        print(f"checkpoint place: {_line(caught_exception)}; trying again", flush=True)


def _line(error: Exception) -> str:
    return scrub(as_line(error))
