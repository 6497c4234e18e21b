"""Once the servers answer: buckets, the team's account at MLflow, work pools and deployments. Again and again the same.

    python infra/images/settle.py

All addresses and keys are in the environment: AWS_ENDPOINT_URL, S3_ADMIN_KEY and S3_ADMIN_SECRET (none: the buckets are
there already); MLFLOW_TRACKING_URI, MLFLOW_ADMIN_PASSWORD, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD;
PREFECT_API_URL and PREFECT_API_AUTH_STRING.
"""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
from collections.abc import Mapping

from flows.stack.asking import ask
from flows.stack.objects import BUCKETS, VERSIONED, objects_client


def make_buckets(environment: Mapping[str, str]) -> None:
    """Those of the store that have not been made."""
    if "S3_ADMIN_KEY" not in environment:
        return
    client = objects_client(
        environment["AWS_ENDPOINT_URL"], environment["S3_ADMIN_KEY"], environment["S3_ADMIN_SECRET"]
    )
    there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    for bucket in BUCKETS:
        if bucket not in there:
            client.create_bucket(Bucket=bucket)
        if bucket in VERSIONED:
            client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})


def make_account(environment: Mapping[str, str]) -> None:
    """The team's, by the administrator's password."""
    account = {
        "username": environment["MLFLOW_TRACKING_USERNAME"],
        "password": environment["MLFLOW_TRACKING_PASSWORD"],
    }
    url = f"{environment['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/users/create"
    try:
        ask(url, f"admin:{environment['MLFLOW_ADMIN_PASSWORD']}", account)
    except urllib.error.HTTPError as error:
        if "RESOURCE_ALREADY_EXISTS" not in error.read().decode(errors="replace"):
            raise


def deploy() -> None:
    """The pools of pools.yaml and the deployments of prefect.yaml."""
    environment = {name: value for name, value in os.environ.items() if name != "VIDEOLLAVA_HOME"}
    for words in (("-m", "flows.pools"), ("-m", "prefect", "--no-prompt", "deploy", "--all")):
        subprocess.run([sys.executable, *words], check=True, env=environment)


if __name__ == "__main__":
    make_buckets(os.environ)
    make_account(os.environ)
    deploy()
