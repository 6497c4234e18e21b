"""The stack's workers: each in a checkout of its own, as on a machine of its own; and what Prefect knows of them."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.places.git import run_git
from flows.stack.asking import ask
from flows.stack.ground import Ground
from flows.stack.orchestrator import api, login
from flows.stack.origin import follow, have_clone
from flows.stack.part import Part, Place
from videollava.errors import InputError
from videollava.scrub import scrub

__all__ = ["WORKERS", "Deployed", "list_workers", "worker"]

# Pools by worker; a machine with GPUs trains and evaluates.
WORKERS = {"coordinator": "team", "data": "data", "gpu": "gpu"}
POOLS = {"data": "data", "gpu": "gpu", "eval": "gpu"}
Tell = Callable[[str], None]


def worker(ground: Ground, name: str, base: Mapping[str, str], ranks: int, tell: Tell) -> Part:
    """A worker. base: its environment, with the addresses and keys. ranks: of the one that trains."""
    home = ground.folder / name
    heard = Heard(ground, name)

    def prepare() -> None:
        have_clone(ground, home, _machine(name, ranks))
        follow(home, tell)
        heard.before = heard.ask()

    return Part(
        place=Place(ground.folder, ground.identity, name),
        command=(sys.executable, "-m", "flows.worker", WORKERS[name], "--name", name),
        cwd=home,
        environment={**base, "PREFECT_HOME": str(home / ".prefect")},
        answers=heard.anew,
        prepare=prepare,
        after=("postgres", "s3", "prefect", "mlflow"),
        serves=False,
        grace=40.0,  # a stage that trains makes a last checkpoint
    )


@dataclass
class Heard:
    """When the Prefect server heard of a worker last."""

    ground: Ground
    name: str
    before: str = field(default="", compare=False)

    def ask(self) -> str:
        """The moment, "" where it never did."""
        found = {one["name"]: one for one in list_workers(self.ground, WORKERS[self.name])}
        return str(found.get(self.name, {}).get("last_heartbeat_time", ""))

    def anew(self) -> bool:
        """Whether it did since `before`."""
        return self.ask() not in ("", self.before)


def list_workers(ground: Ground, pool: str) -> list[dict[str, Any]]:
    """Workers of a pool, as the server tells of them."""
    try:
        return list(ask(f"{api(ground)}/work_pools/{pool}/workers/filter", login(ground), {}))
    except (urllib.error.URLError, OSError):
        return []


def _machine(name: str, ranks: int) -> dict[str, Any]:
    if name == "coordinator":
        return {"pools": POOLS, "push_to": "origin"}
    return {"processes": ranks} if name == "gpu" and ranks > 1 else {}


@dataclass(frozen=True)
class Deployed:
    """The pools and deployments of a commit, on the server. environment: what reaches it."""

    ground: Ground
    environment: Mapping[str, str]

    @property
    def file(self) -> Path:
        """What was made last."""
        return self.ground.folder / "deployed.json"

    def have(self, home: Path, tell: Tell) -> None:
        """Make them as the checkout `home` says, where that is not done. InputError where Prefect refuses."""
        wanted: dict[str, Any] = {"commit": run_git(home, "rev-parse", "HEAD"), "count": self._count()}
        if wanted == self._made() and wanted["count"]:
            return
        self._run(home, "-m", "flows.pools")
        self._run(home, "-m", "prefect", "--no-prompt", "deploy", "--all")
        self.file.write_text(json.dumps({**wanted, "count": self._count()}))
        tell(f"deployments are those of {wanted['commit'][:12]}")

    def _made(self) -> Any:
        try:
            return json.loads(self.file.read_text())
        except (OSError, ValueError):
            return None

    def _count(self) -> int:
        return int(ask(f"{api(self.ground)}/deployments/count", login(self.ground), {}))

    def _run(self, home: Path, *words: str) -> None:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=home,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            raise InputError(f"{home}: {' '.join(words[1:])}: {scrub(said[-1] if said else 'it failed')}")
