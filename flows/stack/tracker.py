"""MLflow's server for a stack: accounts, runs and versions in PostgreSQL, artifacts served out of S3."""

from __future__ import annotations

import sys
import urllib.error
from collections.abc import Mapping

from flows.stack.asking import answers, ask
from flows.stack.database import database_uri
from flows.stack.ground import HOST, Ground, write_secret
from flows.stack.objects import REGION
from flows.stack.part import Part, Place

__all__ = ["TEAM", "tracker"]

ADMIN, TEAM = "admin", "team"
WORKERS = 2
EXISTS = "RESOURCE_ALREADY_EXISTS"


def tracker(ground: Ground, base: Mapping[str, str]) -> Part:
    """The server. base: the environment that it adds its own to."""
    key, secret = ground.access("mlflow")
    own = {
        "MLFLOW_AUTH_CONFIG_PATH": str(ground.folder / "mlflow.ini"),
        "MLFLOW_BACKEND_STORE_URI": database_uri(ground, "mlflow", "psycopg2"),
        "MLFLOW_ARTIFACTS_DESTINATION": "s3://artifacts",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": ground.keys["mlflow-pages"],
        # Large files go in parts, from the client to the store; the server signs the addresses.
        "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "true",
        "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven more processes, for what nobody here asks of it
        "MLFLOW_S3_ENDPOINT_URL": ground.url("s3"),
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": REGION,
    }
    where = ["--host", HOST, "--port", str(ground.ports["mlflow"]), "--workers", str(WORKERS)]
    return Part(
        place=Place(ground.folder, ground.identity, "mlflow"),
        command=(sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", *where),
        cwd=ground.folder,
        environment={**base, **own},
        answers=lambda: answers(f"{ground.url('mlflow')}/health"),
        prepare=lambda: _prepare(ground),
        settle=lambda: _make_account(ground),
        after=("postgres", "s3"),
    )


def _prepare(ground: Ground) -> None:
    """The file in which MLflow reads who may do what: all of the team may change what is there."""
    lines = (
        "[mlflow]",
        "default_permission = EDIT",
        f"database_uri = {database_uri(ground, 'mlflow_auth', 'psycopg2').replace('%', '%%')}",
        f"admin_username = {ADMIN}",
        f"admin_password = {ground.keys['mlflow-admin']}",
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth",
        # Else each request costs the hash of a password: a tenth of a second of a core.
        "auth_cache_ttl_seconds = 60",
    )
    write_secret(ground.folder / "mlflow.ini", "\n".join((*lines, "")))


def _make_account(ground: Ground) -> None:
    admin = f"{ADMIN}:{ground.keys['mlflow-admin']}"
    account = {"username": TEAM, "password": ground.keys["mlflow-team"]}
    try:
        ask(f"{ground.url('mlflow')}/api/2.0/mlflow/users/create", admin, account)
    except urllib.error.HTTPError as error:
        if EXISTS not in error.read().decode(errors="replace"):
            raise
