"""The Prefect server a flow reports to: the one that is there, else our own for as long as it takes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows.servers.ports import own_address, reserve
from flows.servers.probe import is_up, why_not
from flows.servers.proxies import check_certificates, set_proxies_aside
from videollava.environment import ask_loopback_directly, is_loopback
from videollava.errors import InputError
from videollava.process import GRACE_SECONDS, Supervised
from videollava.scrub import scrub

__all__ = [
    "LOCAL",
    "START_SECONDS",
    "Server",
    "configured_url",
    "find_configured",
    "find_standing",
    "prefect_server",
    "start_server",
]

LOCAL = "http://127.0.0.1:4200/api"
START_SECONDS = 240.0
# Nobody schedules, and no worker is late, on a server that lives for one flow.
IDLE_SERVICES = ("SCHEDULER", "LATE_RUNS", "PAUSE_EXPIRATIONS", "CANCELLATION_CLEANUP", "FOREMAN", "TRIGGERS")
# Settings of a team's server and of its clients: in ours they would mean its database, or a key nobody gives.
THEIRS = (
    "PREFECT_API_DATABASE_",
    "PREFECT_API_SSL_CERT_FILE",
    "PREFECT_PROFILE",
    "PREFECT_SERVER_API_",
    "PREFECT_SERVER_DATABASE_",
)


def configured_url() -> str:
    """PREFECT_API_URL, from wherever Prefect reads it; "" where it is set nowhere."""
    if url := os.environ.get("PREFECT_API_URL"):
        return url
    if any(Path(name).is_file() for name in ("prefect.toml", ".env")):
        return _ask_prefect()
    file = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect") / "profiles.toml"
    if not file.is_file():
        return ""
    try:
        profiles = tomllib.loads(file.read_text())
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{file}: not valid TOML: {error}") from error
    name = os.environ.get("PREFECT_PROFILE") or profiles.get("active", "")
    return str(profiles.get("profiles", {}).get(name, {}).get("PREFECT_API_URL", ""))


def _ask_prefect() -> str:
    """The same from Prefect itself, in a process of its own: it reads its settings once, and ours come later."""
    body = "from prefect.settings import get_current_settings as get; print(get().api.url or '')"
    environment = {name: value for name, value in os.environ.items() if value or name != "PREFECT_API_URL"}
    done = subprocess.run(
        [sys.executable, "-c", body], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InputError(f"Prefect cannot read its settings: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


@dataclass(frozen=True)
class Server:
    """A Prefect server by its API address; `running` where it is our own."""

    url: str
    running: Supervised | None = None
    log: Path | None = None

    def wait(self, seconds: float = START_SECONDS) -> None:
        """Return when it answers; InputError when it ended instead, or after `seconds`."""
        if self.running is None:
            return  # whoever found it has asked it
        deadline = time.monotonic() + seconds
        while True:
            ended = self.running.poll() is not None
            if not ended and is_up(self.url):
                return
            if ended or time.monotonic() > deadline:
                what = (
                    "the Prefect server ended" if ended else f"no Prefect server came up in {seconds:.0f} s"
                )
                raise InputError(f"{what} at {self.url}{_last_words(self.log)}")
            time.sleep(0.1)


@contextmanager
def prefect_server(home: Path) -> Iterator[Server]:
    """The server to report to; this process's Prefect is set up for it, so enter before importing Prefect.

    A configured server must answer (InputError); one of this user's on 127.0.0.1:4200 is used if it does; else one
    is started on a free loopback port with its history in `home`/.prefect, and ended, with all its processes, at
    the end.
    """
    if url := find_configured():
        os.environ.update(_client_environment(url))
        yield Server(url)
        return
    if is_up(LOCAL):
        os.environ.update(_client_environment(LOCAL))
        yield Server(LOCAL)
        return
    with start_server(home, idle=True) as server:
        for name in [name for name in os.environ if name.startswith(THEIRS)]:
            del os.environ[name]
        os.environ.update({**_client_environment(server.url), "PREFECT_HOME": str(home / ".prefect")})
        yield server


def find_configured() -> str:
    """The configured server's address, "" where none is; InputError, within seconds, where none answers there."""
    check_certificates()
    ask_loopback_directly()
    url = configured_url()
    if not url or is_loopback(url):
        set_proxies_aside()
    if url and not url.lower().startswith(("http://", "https://")):
        raise InputError(f"PREFECT_API_URL is {url}: it begins with neither http:// nor https://")
    if url and (reason := why_not(url)):
        raise InputError(
            f"PREFECT_API_URL is {url}, but no server answers there: {reason}; correct it, or unset PREFECT_API_URL"
        )
    return url


def find_standing() -> str:
    """The address of a server that is there, and Prefect's client of this process set up for it: enter before importing
    Prefect. The configured one, else this user's own on loopback; InputError where there is none.
    """
    url = find_configured() or (LOCAL if is_up(LOCAL) else "")
    if not url:
        raise InputError(
            "no Prefect server is known: set PREFECT_API_URL, and PREFECT_API_AUTH_STRING or PREFECT_API_KEY where it "
            f"asks for them (one on {LOCAL} is found by itself)"
        )
    os.environ.update(_client_environment(url))
    return url


@contextmanager
def start_server(
    home: Path, port: int = 0, idle: bool = False, grace: float = GRACE_SECONDS
) -> Iterator[Server]:
    """A server of our own on loopback, on `port` if it is free; its history and log are in `home`/.prefect.

    idle: without the services of a standing one (schedules, late runs, triggers).
    """
    folder = home.resolve() / ".prefect"
    folder.mkdir(parents=True, exist_ok=True)
    off = {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in IDLE_SERVICES if idle}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(THEIRS)}
    log = folder / "server.log"
    with reserve(port) as (host, number):
        url = f"{own_address(host, number)}/api"
        own = {"PREFECT_HOME": str(folder), "PREFECT_UI_API_URL": url}
        environment = {**inherited, **_client_environment(url), **own, **off}
        ask_loopback_directly(environment)
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(number)]
        with log.open("ab") as stream:
            running = Supervised(command, home, environment, stream.fileno(), grace)
        with running:
            yield Server(url, running, log)


def _last_words(log: Path | None) -> str:
    """What a server said last, and where the rest is."""
    lines = log.read_text(errors="replace").split("\n") if log and log.is_file() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    where = f"; its log is {log}" if log else ""
    return scrub(f" ({last[:300]}){where}") if last else where


def _client_environment(url: str) -> dict[str, str]:
    return {"PREFECT_API_URL": url, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
