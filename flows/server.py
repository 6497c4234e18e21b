"""The Prefect server a flow reports to: the one that is there, else our own for as long as it takes."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows.process import GRACE_SECONDS, Supervised
from videollava.errors import InputError

__all__ = ["Server", "configured_url", "free_port", "is_up", "prefect_server", "start_server"]

LOCAL = "http://127.0.0.1:4200/api"
START_SECONDS = 240.0
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


@dataclass(frozen=True)
class Server:
    """A Prefect server by its API address; `running` where it is our own."""

    url: str
    running: Supervised | None = None

    def wait(self, seconds: float = START_SECONDS) -> None:
        """Return when it answers; InputError when it ended instead, or after `seconds`."""
        deadline = time.monotonic() + seconds
        while not is_up(self.url):
            ended = self.running is not None and self.running.process.poll() is not None
            if ended or time.monotonic() > deadline:
                what = (
                    "the Prefect server ended" if ended else f"no Prefect server came up in {seconds:.0f} s"
                )
                raise InputError(f"{what} at {self.url}; its log is .prefect/server.log")
            time.sleep(0.1)


@contextmanager
def prefect_server(home: Path) -> Iterator[Server]:
    """The server to report to; this process's Prefect is set up for it, so enter before importing Prefect.

    A configured server must answer (InputError); one on 127.0.0.1:4200 is used if it does; else one is started on
    a free loopback port with its history in `home`/.prefect, and ended, with all its processes, at the end.
    """
    url = configured_url()
    if url and not is_up(url):
        raise InputError(
            f"PREFECT_API_URL is {url}, but no server answers there; start it or unset PREFECT_API_URL"
        )
    url = url or (LOCAL if is_up(LOCAL) else "")
    if url:
        os.environ.update(_client_environment(url))
        yield Server(url)
        return
    with start_server(home, free_port(), idle=True) as server:
        os.environ.update({**_client_environment(server.url), "PREFECT_HOME": str(home / ".prefect")})
        yield server


@contextmanager
def start_server(home: Path, port: int, idle: bool = False, grace: float = GRACE_SECONDS) -> Iterator[Server]:
    """A server of our own on loopback; its history and log are in `home`/.prefect.

    idle: without the services of a standing one (schedules, late runs, triggers).
    """
    folder = home.resolve() / ".prefect"
    folder.mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{port}/api"
    off = {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in IDLE_SERVICES if idle}
    own = {"PREFECT_HOME": str(folder), "PREFECT_UI_API_URL": url}
    environment = {**os.environ, **_client_environment(url), **own, **off}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "server.log").open("ab") as log:
        running = Supervised(command, home, environment, log.fileno(), grace)
    with running:
        yield Server(url, running)


def is_up(url: str) -> bool:
    """Whether a Prefect server answers at this API address."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=3) as reply:
            return json.load(reply) is True
    except (urllib.error.URLError, OSError, ValueError):
        return False


def free_port() -> int:
    """A loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _client_environment(url: str) -> dict[str, str]:
    return {"PREFECT_API_URL": url, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
