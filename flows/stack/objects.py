"""The S3 store of a stack: SeaweedFS, whose four servers are one process, with keys for who may do what."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.stack.ground import HOST, WEED, Ground, write_secret
from flows.stack.part import Part, Place
from flows.stack.programs import find_weed

__all__ = ["BUCKETS", "REGION", "objects", "objects_client", "weed_command"]

REGION = "us-east-1"  # what SeaweedFS takes for its own
# What is kept where: DVC's objects, MLflow's artifacts, sources to fetch (versions of each object), checkpoints.
BUCKETS = {"dvc": "team", "artifacts": "mlflow", "sources": "team", "checkpoints": "team"}
VERSIONED = ("sources",)
ALL = ("Admin", "Read", "Write", "List", "Tagging")
SOME = ("Read", "Write", "List", "Tagging")
VOLUME_MB = 256
VOLUMES = 1000


def objects(ground: Ground) -> Part:
    """The server, with its buckets."""
    folder = ground.folder / "s3"
    ports = {name: (ground.ports[name], ground.ports[f"{name}-grpc"]) for name in WEED}
    config = ground.folder / "s3.json"
    return Part(
        place=Place(ground.folder, ground.identity, "s3"),
        command=tuple(weed_command(str(find_weed()), folder, config, ports, VOLUMES, VOLUME_MB)),
        cwd=ground.folder,
        environment={name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ},
        answers=lambda: _answers(ground),
        prepare=lambda: _prepare(ground, folder, config),
        settle=lambda: _make_buckets(ground),
        grace=5.0,
    )


def weed_command(
    weed: str, folder: Path, config: Path, ports: Mapping[str, tuple[int, int]], volumes: int, megabytes: int
) -> list[str]:
    """SeaweedFS' command line. ports: of s3, master, volume and filer, each with its gRPC port. config: who has which
    key. volumes, megabytes: how many files it lays objects into, and how large one grows.
    """
    numbers = [f"-{name}.port={one}" for name, (one, _) in ports.items()]
    numbers += [f"-{name}.port.grpc={other}" for name, (_, other) in ports.items()]
    return [
        *(weed, "server", f"-dir={folder}", f"-ip={HOST}", f"-ip.bind={HOST}", "-filer", "-s3"),
        *(f"-s3.config={config}", *numbers),
        # Its other servers have fixed ports, which a second one on this machine would find taken.
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false", "-master.telemetry=false"),
        *(f"-volume.max={volumes}", f"-master.volumeSizeLimitMB={megabytes}", "-volume.preStopSeconds=0"),
    ]


def objects_client(url: str, key: str, secret: str) -> Any:
    """boto3's, which asks once, past any proxy."""
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name=REGION,
        config=Config(proxies={}, retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=10),
    )


def _prepare(ground: Ground, folder: Path, config: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    write_secret(
        config, json.dumps({"identities": [_identity(ground, who) for who in ("admin", "mlflow", "team")]})
    )


def _identity(ground: Ground, who: str) -> dict[str, Any]:
    key, secret = ground.access(who)
    own = [f"{action}:{bucket}" for bucket, whose in BUCKETS.items() if whose == who for action in SOME]
    credentials = [{"accessKey": key, "secretKey": secret}]
    return {"name": who, "credentials": credentials, "actions": list(ALL) if who == "admin" else own}


def _client(ground: Ground) -> Any:
    return objects_client(ground.url("s3"), *ground.access("admin"))


def _answers(ground: Ground) -> bool:
    """Both the gateway and what it stores in must be there."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client = _client(ground)
        if "health" not in _names(client.list_buckets()["Buckets"]):
            client.create_bucket(Bucket="health")
        client.put_object(Bucket="health", Key="x", Body=b"x")
        return bool(client.get_object(Bucket="health", Key="x")["Body"].read() == b"x")
    except (BotoCoreError, ClientError):
        return False


def _make_buckets(ground: Ground) -> None:
    client = _client(ground)
    there = _names(client.list_buckets()["Buckets"])
    for bucket in BUCKETS:
        if bucket not in there:
            client.create_bucket(Bucket=bucket)
        if bucket in VERSIONED:
            client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})


def _names(buckets: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(bucket["Name"]) for bucket in buckets]
