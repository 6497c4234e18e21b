"""Where DVC shares data and models: set in one command, once it is known that it can be written to.

The address goes into .dvc/config, which is in git; keys never do: boto3 finds them in the environment, in a profile or
in the machine's role, and DVC's own in .dvc/config.local, which git ignores.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from videollava.data.versions.dvc import run_dvc
from videollava.errors import InputError
from videollava.scrub import has_password, is_secret_name, scrub

__all__ = ["KEYS", "Remote", "read_remote", "set_remote"]

NAME = "store"  # of the remote, where none is the default yet
KEYS = (
    "keys belong to your machine, never into git: AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the "
    "environment, ~/.aws/credentials, or `dvc remote modify --local {name} access_key_id ...` (.dvc/config.local)"
)
FIELDS = {"endpointurl": "endpoint", "profile": "profile", "region": "region"}  # DVC's name: ours


@dataclass(frozen=True)
class Remote:
    """url: s3://bucket/prefix or an absolute folder. endpoint: of servers other than AWS. name: DVC's for it."""

    url: str
    endpoint: str = ""
    profile: str = ""
    region: str = ""
    name: str = NAME

    def describe(self) -> str:
        """Name, address and settings in one line."""
        told = [f"{name} {value}" for name in FIELDS.values() if (value := getattr(self, name))]
        return "  ".join([self.name, self.url, *told])


def read_remote(workspace: Path) -> Remote | None:
    """DVC's default remote as DVC's settings have it, None without one."""
    pairs = (line.partition("=") for line in run_dvc(workspace, "config", "--list").splitlines())
    settings = {key.strip(): value.strip() for key, _, value in pairs}
    name = settings.get("core.remote", "")
    if not name:
        return None
    own = {ours: settings.get(f"remote.{name}.{theirs}", "") for theirs, ours in FIELDS.items()}
    # DVC tells a folder relative to where the settings are.
    url = settings.get(f"remote.{name}.url", "")
    if "://" not in url and url:
        url = os.path.normpath(workspace / ".dvc" / url)
    own = {key: "(hidden)" if is_secret_name(key) else scrub(value) for key, value in own.items()}
    return Remote(scrub(url), name=name, **own)


def set_remote(workspace: Path, url: str, endpoint: str = "", profile: str = "", region: str = "") -> Remote:
    """Make `url` (s3://bucket/prefix, or a folder) DVC's default remote: written to .dvc/config, to be committed.

    Raises:
        InputError: another kind of address, a password in it, no .dvc folder, or nothing can be written there; the
            settings then stay as they were.
    """
    remote = _parse(url, endpoint, profile, region)
    if remote.url.startswith("s3://"):
        _try_bucket(remote)
    else:
        _try_folder(Path(remote.url))
    before = read_remote(workspace)
    remote = replace(remote, name=before.name) if before else remote
    run_dvc(workspace, "remote", "add", "--default", "--force", remote.name, remote.url)
    for theirs, ours in FIELDS.items():
        if value := getattr(remote, ours):
            run_dvc(workspace, "remote", "modify", remote.name, theirs, value)
    return remote


def _parse(url: str, endpoint: str, profile: str, region: str) -> Remote:
    for address in (url, endpoint):
        if has_password(address):
            raise InputError(f"{scrub(address)}: holds a password or a key; {KEYS.format(name=NAME)}")
    scheme = urlsplit(url).scheme if "://" in url else ""
    if scheme == "s3":
        if not urlsplit(url).netloc:
            raise InputError(f"{url}: no bucket in it; write s3://bucket/prefix")
        if endpoint and urlsplit(endpoint).scheme not in ("http", "https"):
            raise InputError(f"--endpoint {endpoint}: write its whole address, such as https://host:9000")
        return Remote(url.rstrip("/"), endpoint, profile, region)
    if scheme not in ("", "file"):
        raise InputError(
            f"{url}: {scheme} is no kind that this sets: s3://bucket/prefix or a folder; DVC's own kinds: "
            f"`dvc remote add -d {NAME} URL`"
        )
    if endpoint or profile or region:
        raise InputError(f"{url}: a folder has no endpoint, profile or region; leave them out")
    folder = urlsplit(url).path if scheme == "file" else url
    return Remote(str(Path(folder).expanduser().absolute()))


def _try_folder(folder: Path) -> None:
    probe = folder / f".write-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise InputError(f"{folder}: nothing can be written there: {error.strerror}; name another") from error


def _try_bucket(remote: Remote) -> None:
    """Write a small object and delete it."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        raise InputError(
            "s3:// needs boto3 and dvc-s3: `pip install 'videollava[pipeline]'`, or set a folder"
        ) from error
    place = urlsplit(remote.url, allow_fragments=False)
    prefix = place.path.strip("/")
    key = f"{prefix}/.write-{uuid.uuid4().hex}".lstrip("/")
    try:
        session = boto3.Session(profile_name=remote.profile or None, region_name=remote.region or None)
        limits = Config(connect_timeout=10, read_timeout=20, retries={"max_attempts": 2})
        client = session.client("s3", endpoint_url=remote.endpoint or None, config=limits)
        _find_bucket(client, place.netloc)
        client.put_object(Bucket=place.netloc, Key=key, Body=b"")
        client.delete_object(Bucket=place.netloc, Key=key)
    except (BotoCoreError, ClientError, ValueError) as error:
        raise InputError(
            f"{remote.url}: nothing can be written there: {scrub(str(error))}; {_remedy(error, remote)}"
        ) from error


def _find_bucket(client: Any, bucket: str) -> None:
    """Some servers make a bucket by writing to it: of a slip of its name there would be two."""
    from botocore.exceptions import ClientError

    try:
        client.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("404", "NoSuchBucket"):
            raise
        # One may write without the right to list: the writing tells.


def _remedy(error: Exception, remote: Remote) -> str:
    code = getattr(error, "response", {}).get("Error", {}).get("Code", "")
    if code in ("404", "NoSuchBucket"):
        return "create the bucket, or mend its name"
    if "EndpointConnection" in type(error).__name__ or "Timeout" in type(error).__name__:
        return "is --endpoint right, and does the server run?"
    return KEYS.format(name=remote.name)
