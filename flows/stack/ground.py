"""What a stack is made on: its folder, the ports and the keys that it has for good."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.servers.ports import is_taken
from videollava.errors import InputError

__all__ = ["HOST", "PORTS", "Ground", "lay_ground", "write_secret"]

HOST = "127.0.0.1"
# SeaweedFS is four servers in one process, and each has a second port for gRPC.
WEED = ("s3", "master", "volume", "filer")
PORTS = ("postgres", "mlflow", "prefect", *WEED, *(f"{name}-grpc" for name in WEED))
# Below what the system gives to whoever connects somewhere: a port that is free for a moment stays ours.
FIRST, LAST = 20000, 32000
KEYS = (
    *("postgres", "postgres-mlflow", "postgres-prefect", "prefect"),
    *("mlflow-admin", "mlflow-team", "mlflow-pages", "s3-admin", "s3-mlflow", "s3-team"),
)


@dataclass(frozen=True)
class Ground:
    """folder: the stack's, absolute. identity: told from all other stacks by this. ports, keys: by name."""

    folder: Path
    identity: str
    ports: Mapping[str, int]
    keys: Mapping[str, str]

    def url(self, name: str) -> str:
        """http://127.0.0.1:PORT of a server."""
        return f"http://{HOST}:{self.ports[name]}"

    def access(self, who: str) -> tuple[str, str]:
        """(access key, secret) for the S3 store: of the team, of MLflow's server, of the administrator."""
        return f"stack-{who}", self.keys[f"s3-{who}"]


def lay_ground(folder: Path) -> Ground:
    """The ground in `folder`, made where there is none; for its owner alone.

    InputError where the folder cannot be made, or a file in it cannot be read as what it is.
    """
    folder = folder.expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        (folder / "logs").mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: no folder for a stack ({error.strerror}); name another by --folder"
        ) from error
    made = _complete(folder / "keys.json", ("identity", *KEYS), _make_key)
    taken: set[int] = set()
    ports = _complete(folder / "ports.json", PORTS, lambda _: str(_choose_port(folder, taken)), taken)
    keys = {name: made[name] for name in KEYS}
    return Ground(folder, made["identity"], {name: int(ports[name]) for name in PORTS}, keys)


def write_secret(file: Path, text: str) -> None:
    """Write a file that its owner alone can read, whole or not at all."""
    aside = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        os.fchmod(stream.fileno(), stat.S_IRUSR | stat.S_IWUSR)
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(file)


def _complete(
    file: Path, names: tuple[str, ...], make: Callable[[str], str], taken: set[int] | None = None
) -> dict[str, str]:
    """A file of names and values, with what it lacks added."""
    known = _read(file)
    if taken is not None:
        taken.update(int(value) for value in known.values() if str(value).isdecimal())
    lacking = [name for name in names if name not in known]
    if lacking:
        known |= {name: make(name) for name in lacking}
        write_secret(file, json.dumps(known, indent=1) + "\n")
    return {name: str(value) for name, value in known.items()}


def _read(file: Path) -> dict[str, str]:
    if not file.is_file():
        return {}
    try:
        known = json.loads(file.read_text())
        if not isinstance(known, dict) or (file.name == "ports.json" and not _are_ports(known)):
            raise ValueError("no list of names and values")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file}: cannot be read ({error}); put back what was in it, or remove the stack's folder and begin anew"
        ) from error
    return known


def _are_ports(known: Mapping[str, object]) -> bool:
    return all(str(value).isdecimal() and 0 < int(str(value)) < 65536 for value in known.values())


def _make_key(name: str) -> str:
    return uuid.uuid4().hex if name == "identity" else secrets.token_hex(20)


def _choose_port(folder: Path, taken: set[int]) -> int:
    """A free one, the same for the same folder where nothing else has it."""
    start = int.from_bytes(hashlib.sha256(os.fsencode(folder)).digest()[:4], "big") % (LAST - FIRST)
    for step in range(LAST - FIRST):
        port = FIRST + (start + step) % (LAST - FIRST)
        if port not in taken and not is_taken(HOST, port):
            taken.add(port)
            return port
    raise InputError(f"no port between {FIRST} and {LAST} is free on {HOST}")
