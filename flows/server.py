"""The Prefect server a flow reports to: the one that is there, else our own for as long as it takes."""

from __future__ import annotations

import json
import os
import socket
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.process import Supervised
from videollava.errors import InputError

__all__ = [
    "configured_url",
    "free_port",
    "prefect_server",
    "server_command",
    "server_environment",
    "wait_until_up",
]

LOCAL = "http://127.0.0.1:4200/api"
START_SECONDS = 120.0
# Nobody schedules, and no worker is late, on a server that lives for one flow.
IDLE_SERVICES = ("SCHEDULER", "LATE_RUNS", "PAUSE_EXPIRATIONS", "CANCELLATION_CLEANUP", "FOREMAN", "TRIGGERS")


def configured_url() -> str:
    """PREFECT_API_URL, from the environment or the active Prefect profile; "" where it is set nowhere."""
    if url := os.environ.get("PREFECT_API_URL"):
        return url
    file = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect") / "profiles.toml"
    if not file.is_file():
        return ""
    try:
        profiles = tomllib.loads(file.read_text())
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{file}: not valid TOML: {error}") from error
    name = os.environ.get("PREFECT_PROFILE") or profiles.get("active", "")
    return str(profiles.get("profiles", {}).get(name, {}).get("PREFECT_API_URL", ""))


@contextmanager
def prefect_server(home: Path) -> Iterator[tuple[str, bool]]:
    """(API address, whether it is our own). This process's Prefect is set up for it: enter before importing
    Prefect.

    A configured server must answer (InputError); one on 127.0.0.1:4200 is used if it does; else one is
    started on a free loopback port with its history in `home`/.prefect, and ended, with all its processes, at
    the end.
    """
    url = configured_url()
    if url and not is_up(url):
        raise InputError(
            f"PREFECT_API_URL is {url}, but no server answers there; start it or unset PREFECT_API_URL"
        )
    url = url or (LOCAL if is_up(LOCAL) else "")
    if url:
        os.environ.update(_client_environment(url))
        yield url, False
        return
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    folder = home / ".prefect"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "server.log").open("ab") as log:
        running = Supervised(server_command(port), home, server_environment(folder, idle=True), log.fileno())
    with running:
        os.environ.update({**_client_environment(url), "PREFECT_HOME": str(folder)})
        yield url, True


def wait_until_up(url: str, seconds: float = START_SECONDS) -> None:
    """Return when the server answers; InputError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not is_up(url):
        if time.monotonic() > deadline:
            raise InputError(
                f"no Prefect server came up at {url} in {seconds:.0f} s; see .prefect/server.log"
            )
        time.sleep(0.1)


def is_up(url: str) -> bool:
    """Whether a Prefect server answers at this API address."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=3) as reply:
            return json.load(reply) is True
    except (urllib.error.URLError, OSError, ValueError):
        return False


def server_command(port: int) -> list[str]:
    """The command of a Prefect server on loopback."""
    import sys

    return [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]


def server_environment(folder: Path, idle: bool = False) -> dict[str, str]:
    """Its environment: history in `folder`, no reports home; `idle`: no services of a standing server."""
    off = {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in IDLE_SERVICES if idle}
    own = {
        "PREFECT_HOME": str(folder.resolve()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    return {**os.environ, **own, **off}


def free_port() -> int:
    """A loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _client_environment(url: str) -> dict[str, str]:
    return {"PREFECT_API_URL": url, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
