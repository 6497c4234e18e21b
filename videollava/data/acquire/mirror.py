"""Copies a source into a store of one's own: its files as they are locked, with a list of their sums beside them.

What is there already, with the size and the sum that it should have, is not sent again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videollava.data.acquire.addresses import file_name, is_address, key_address, parse_address
from videollava.data.acquire.located import source_files
from videollava.data.acquire.lock import Lock
from videollava.data.acquire.s3_client import Access, as_line, open_store
from videollava.errors import InputError
from videollava.params import Source

__all__ = ["SUMS", "Mirrored", "mirror"]

SUMS = "SHA256SUMS"  # as sha256sum writes and checks it
DIGEST = "sha256"  # of an object's own notes


@dataclass(frozen=True)
class Mirrored:
    """What was copied, and the entry that reads it from there."""

    sent: int
    kept: int
    entry: dict[str, Any]


def mirror(
    source: Source,
    lock: Lock,
    fetched: Path,
    target: str,
    access: Access,
    advance: Callable[[int], None] = lambda count: None,
) -> Mirrored:
    """Copy the files of a fetched source to `target`, s3://BUCKET/PREFIX/ or a folder.

    Args:
        source, lock: what it is.
        fetched: its folder data/raw/NAME.
        target: where to. access: how a store is reached.
        advance: told of bytes as they are there.

    Raises:
        InputError: the target can't be written to, or a file has another sum than is locked.
    """
    digests = {file.name: file.sha256 for file in lock.files}
    files = [(name, path, digests.get(name, "")) for name, path in source_files(fetched)]
    kept_fields = source.model_dump(mode="json", include={"format", "annotations", "strip", "prefix", "use"})
    if is_address(source.annotations):
        kept_fields["annotations"] = file_name(source.annotations, source.name)
    entry = {name: value for name, value in kept_fields.items() if value not in ("", [], ())}
    if target.lower().startswith("s3://"):
        address = target if target.endswith("/") else f"{target}/"
        sent = _to_store(address, files, access, advance, source.name)
        reached = {"endpoint": access.endpoint, "region": access.region, "profile": access.profile}
        where = {
            "kind": "archive",
            "urls": [address],
            **{key: value for key, value in reached.items() if value},
        }
    elif "://" in target:
        raise InputError(f"{target}: a mirror is s3://BUCKET/PREFIX/ or a folder")
    else:
        sent = _to_folder(Path(target).expanduser(), files, advance)
        where = {"kind": "folder", "path": target}
    return Mirrored(sent, len(files) - sent, {**where, **entry})


def _sums(files: Iterable[tuple[str, Path, str]]) -> str:
    return "".join(f"{digest}  {name}\n" for name, _, digest in files)


def _to_folder(root: Path, files: list[tuple[str, Path, str]], advance: Callable[[int], None]) -> int:
    sent = 0
    for name, path, digest in files:
        goal = root / name
        if not (goal.is_file() and goal.stat().st_size == path.stat().st_size and _digest(goal) == digest):
            goal.parent.mkdir(parents=True, exist_ok=True)
            half = goal.with_name(f".{goal.name}.half")
            shutil.copyfile(path, half)
            _check(half, path, digest)
            os.replace(half, goal)
            sent += 1
        advance(path.stat().st_size)
    # Hidden: it is no file of the source that is read from there.
    (root / f".{SUMS}").write_text(_sums(files))
    return sent


def _to_store(
    address: str,
    files: list[tuple[str, Path, str]],
    access: Access,
    advance: Callable[[int], None],
    name: str,
) -> int:
    from boto3.exceptions import S3UploadFailedError
    from botocore.exceptions import BotoCoreError, ClientError

    place = parse_address(address, f"mirror of {name}")
    client = open_store(access, f"mirror of {name}").client
    prefix, sent = place.names[-1], 0
    try:
        for file, path, digest in files:
            key = f"{prefix}{file}"
            if not _is_there(client, place.host, key, path.stat().st_size, digest):
                _check(path, path, digest)
                notes = {"Metadata": {DIGEST: digest}}
                client.upload_file(str(path), place.host, key, ExtraArgs=notes)
                if not _is_there(client, place.host, key, path.stat().st_size, digest):
                    raise InputError(
                        f"{key_address(place.host, key)}: it is not there as it was sent; mirror again"
                    )
                sent += 1
            advance(path.stat().st_size)
        # Beside the prefix, not below it: it is no file of the source that is read from there.
        sums = f"{prefix.rstrip('/')}.{SUMS}"
        client.put_object(Bucket=place.host, Key=sums, Body=_sums(files).encode())
    except (BotoCoreError, ClientError, S3UploadFailedError) as error:
        raise InputError(
            f"{address}: {as_line(error)}; check bucket, endpoint and credentials (AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE); what was sent stays"
        ) from error
    return sent


def _is_there(client: Any, bucket: str, key: str, size: int, digest: str) -> bool:
    from botocore.exceptions import ClientError

    try:
        found = client.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
            return False
        raise
    return bool(found["ContentLength"] == size and found.get("Metadata", {}).get(DIGEST) == digest)


def _check(copy: Path, path: Path, digest: str) -> None:
    if (found := _digest(copy)) != digest:
        raise InputError(f"{path}: its sha256 is {found}, locked is {digest or 'none'}; fetch it again")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
