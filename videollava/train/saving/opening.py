"""The place that machine.yaml's checkpoint_place means: the checkout's own folder, another folder, or S3."""

from __future__ import annotations

import os
from pathlib import Path

from videollava.data.acquire.s3_client import Access
from videollava.data.load.places import read_remote
from videollava.train.launch.meeting import Together
from videollava.train.saving.holder import attempt_name
from videollava.train.saving.objects import Objects
from videollava.train.saving.places import FolderPlace, Place
from videollava.train.saving.s3 import S3Place

__all__ = ["folder_of", "is_s3", "objects_of", "open_place"]

S3 = "s3://"


def open_place(folder: Path, address: str = "", together: Together | None = None) -> Place:
    """Where the checkpoints of one stage's key stand.

    Args:
        folder: checkpoints/<stage>-<key> of a checkout.
        address: checkpoint_place; "": that folder.
        together: all ranks, which open it at the same point; without it, rank 0 that clears it, or one who looks.
    """
    attempt, workspace = attempt_name(together), folder.parent.parent
    if not is_s3(address):
        return FolderPlace(folder_of(address, workspace) / folder.name, attempt)
    here, ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), int(os.environ.get("WORLD_SIZE", "1"))
    objects = objects_of(address, workspace, folder.name)
    return S3Place(objects, folder, attempt, here / ranks, os.environ.get("LOCAL_RANK", "0") == "0")


def is_s3(address: str) -> bool:
    """Whether a place is one in S3."""
    return address.lower().startswith(S3)


def folder_of(address: str, workspace: Path) -> Path:
    """Of an address that is none in S3: relative ones are in the checkout."""
    return Path(workspace, Path(address).expanduser()) if address else workspace / "checkpoints"


def objects_of(address: str, workspace: Path, name: str = "") -> Objects:
    """What lies below an address in S3, or of one run of that name there."""
    bucket, _, prefix = address[len(S3) :].partition("/")
    below = "".join(f"{part}/" for part in (prefix.strip("/"), name) if part)
    return Objects(bucket, below, access_of(workspace, bucket), "machine.yaml: checkpoint_place")


def access_of(workspace: Path, bucket: str) -> Access:
    """How a bucket is reached: as DVC's remote, if that is this bucket or no endpoint is in the environment."""
    remote = read_remote(workspace)
    if remote is None or not remote.url.lower().startswith(S3):
        return Access()
    named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    same = remote.url[len(S3) :].partition("/")[0] == bucket
    return remote.access if same or not named else Access()
