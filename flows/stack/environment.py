"""What a client of the stack needs to know, for a program's environment and as stack.env for a shell."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from flows.stack.ground import Ground, write_secret
from flows.stack.objects import REGION
from flows.stack.orchestrator import api, login
from flows.stack.tracker import TEAM
from videollava.environment import LOOPBACK, ask_loopback_directly

__all__ = ["base_environment", "client_environment", "write_env"]

# Another stack's, a team's, or of a run that this process is part of.
THEIRS = ("AWS_", "DVC_", "MLFLOW_", "PG", "PREFECT_", "VIDEOLLAVA_")


def base_environment() -> dict[str, str]:
    """This process's, without what would lead a part to other servers."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(THEIRS)}
    environment.pop("PYTHONPATH", None)  # a part's code is its own checkout's
    environment |= {"DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONUNBUFFERED": "1"}
    beside = str(Path(sys.executable).parent)  # dvc.yaml's `python`, and dvc, prefect and videollava
    environment["PATH"] = os.pathsep.join([beside, environment.get("PATH", os.defpath)])
    ask_loopback_directly(environment)
    return environment


def client_environment(ground: Ground) -> dict[str, str]:
    """Addresses and the team's keys."""
    key, secret = ground.access("team")
    hosts = ",".join(LOOPBACK)
    known = {
        "PREFECT_API_URL": api(ground),
        "PREFECT_API_AUTH_STRING": login(ground),
        "MLFLOW_TRACKING_URI": ground.url("mlflow"),
        "MLFLOW_TRACKING_USERNAME": TEAM,
        "MLFLOW_TRACKING_PASSWORD": ground.keys["mlflow-team"],
        "AWS_ENDPOINT_URL": ground.url("s3"),
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "DO_NOT_TRACK": "1",
    }
    proxied = any(name.lower().endswith("_proxy") and value for name, value in os.environ.items())
    return {**known, **({"NO_PROXY": hosts, "no_proxy": hosts} if proxied else {})}


def write_env(ground: Ground) -> Path:
    """stack.env, to be sourced in a shell: for its owner alone, since it holds keys."""
    file = ground.folder / "stack.env"
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in client_environment(ground).items()]
    write_secret(file, "# Addresses and keys of the stack; `. FILE` in a shell.\n" + "".join(lines))
    return file
