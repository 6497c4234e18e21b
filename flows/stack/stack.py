"""A stack as a whole: brought up, mended, told about, brought down."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from flows.places.lock import hold_file
from flows.places.workspace import repository
from flows.servers.ports import is_taken
from flows.stack.database import postgres
from flows.stack.environment import base_environment, client_environment, write_env
from flows.stack.ground import HOST, Ground, lay_ground
from flows.stack.objects import objects
from flows.stack.orchestrator import orchestrator
from flows.stack.origin import have_origin
from flows.stack.part import Part
from flows.stack.programs import check_programs
from flows.stack.tracker import TEAM, tracker
from flows.stack.workers import WORKERS, Deployed, worker
from videollava.errors import InputError

__all__ = ["FOLDER", "Stack", "addresses", "is_stack", "running_stack"]

FOLDER = ".stack"
RECOVER_SECONDS = 30.0  # for a server whose database was away
FREE_SECONDS = 5.0
WAIT_SECONDS = 300.0  # for another `up` or `down` of the same stack
LEAST_BYTES = 2 << 30  # free, before anything is started
PORTS = {"postgres": ("postgres",), "s3": ("s3", "master", "volume", "filer"), "mlflow": ("mlflow",)}
PORTS |= {"prefect": ("prefect",)}
Tell = Callable[[str], None]


class Stack:
    """A stack in a folder. tell: gets a line for each thing that is done. source: the checkout whose commit its origin
    gets (this one's). workers: whether any are started. ranks: of a stage that trains, where machine.yaml is made now.
    """

    def __init__(
        self,
        folder: Path,
        tell: Tell = lambda line: None,
        source: Path | None = None,
        workers: bool = True,
        ranks: int = 1,
    ) -> None:
        self.folder = folder.expanduser().absolute()
        self.source = source or repository()
        self._tell = tell
        self._workers = list(WORKERS) if workers else []
        self._ranks = ranks

    @cached_property
    def ground(self) -> Ground:
        """Its ports and keys."""
        return lay_ground(self.folder)

    @cached_property
    def parts(self) -> dict[str, Part]:
        """By name, in the order in which they start."""
        base = base_environment()
        ground = self.ground
        parts = [postgres(ground), objects(ground), orchestrator(ground, base), tracker(ground, base)]
        base |= client_environment(ground)
        parts += [worker(ground, name, base, self._ranks, self._tell) for name in WORKERS]
        return {part.name: part for part in parts}

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs: addresses and keys."""
        return client_environment(self.ground)

    @property
    def places(self) -> str:
        """Where its pages are and how one gets in, in lines for a person."""
        ground = self.ground
        return (
            f"Prefect  {ground.url('prefect')}  (asks for PREFECT_API_AUTH_STRING)\n"
            f"MLflow   {ground.url('mlflow')}  (user {TEAM}, MLFLOW_TRACKING_PASSWORD)\n"
            f"S3       {ground.url('s3')}\n"
            f"keys     . {shlex.quote(str(self.folder / 'stack.env'))}"
        )

    def up(self) -> float:
        """Start what does not run, mend what hangs, and return when all of it answers; seconds that took.

        InputError where a program is missing, a port taken, the disk full, or a part does not come up.
        """
        began = time.monotonic()
        check_programs()
        with self._alone():
            self._check_room()
            write_env(self.ground)
            have_origin(self.ground, self.source, self._tell)
            self._bring([name for name in self.parts if name not in WORKERS])
            self._bring(self._workers)
        return time.monotonic() - began

    def down(self) -> None:
        """End everything that the stack started, and nothing else; what it keeps stays."""
        with self._alone():
            self._end(list(self.parts))

    def start(self, name: str) -> None:
        """Start one part, and wait until it answers; nothing where it does."""
        self._known(name)
        with self._alone():
            self._check_room()
            self._bring([name])

    def stop(self, name: str) -> None:
        """End one part politely."""
        self._known(name)
        with self._alone():
            self._end([name])

    def restart(self, name: str) -> None:
        """End one part and start it again: the others find it as it was."""
        self._known(name)
        with self._alone():
            self._check_room()
            self._end([name])
            self._bring([name])

    def kill(self, name: str) -> None:
        """kill -9 of one part with all that it started, as when its machine went away."""
        self._known(name).place.kill()

    def processes(self, name: str) -> list[int]:
        """All that runs of one part."""
        return self._known(name).place.processes()

    def status(self) -> dict[str, str]:
        """ "up", "down" or "hangs", by part."""
        return {name: part.state() for name, part in self.parts.items()}

    def _bring(self, names: Sequence[str]) -> None:
        """What can start together does: a server spends most of its start on one core."""
        if any(name in WORKERS for name in names):
            self._deploy()
        started: list[str] = []
        for name in names:
            part = self.parts[name]
            for before in part.after:
                self._need(name, before, started)
            state = self._find_state(part, any(before in started for before in part.after))
            if state == "up":
                continue
            if state == "hangs":
                self._tell(f"{name} hangs: it is ended and started again")
            part.place.stop(part.grace if state == "hangs" else 0.0)
            self._check_ports(name)
            part.launch()
            started.append(name)
        for name in started:
            self._await(name)

    def _need(self, name: str, before: str, started: Sequence[str]) -> None:
        if before in started:
            self._await(before)
        elif before not in self._answering:
            if (state := self.parts[before].state()) != "up":
                raise InputError(f"{name} needs {before}, which is {state}; start it first")
            self._answering.add(before)

    def _find_state(self, part: Part, recovers: bool) -> str:
        """A part's state. recovers: what it needs came back a moment ago, so it may come back by itself."""
        deadline = time.monotonic() + (RECOVER_SECONDS if recovers else 0.0)
        while (state := part.state()) == "hangs" and time.monotonic() < deadline:
            time.sleep(0.2)
        return state

    def _deploy(self) -> None:
        """What the workers' pools are, and what may be asked of them."""
        self._need("workers", "prefect", ())
        first = self.parts["coordinator"]
        if first.state() == "down":
            first.prepare()
        Deployed(self.ground, {**base_environment(), **self.environment}).have(first.cwd, self._tell)

    def _await(self, name: str) -> None:
        if name not in self._answering:
            self.parts[name].wait()
            self._tell(f"{name} is up")
            self._answering.add(name)

    def _end(self, names: Sequence[str]) -> None:
        """Those that need others first; what nobody needs any more ends at once."""
        left = [self.parts[name] for name in names]
        while left:
            needed = {before for part in left for before in part.after}
            last = [part for part in left if part.name not in needed]
            ran = [part.name for part in last if part.place.pid() or part.place.processes()]
            for part in last:
                part.place.tell()
            for part in last:
                part.place.stop(part.grace)
            for name in ran:
                self._tell(f"{name} ended")
            left = [part for part in left if part not in last]

    def _known(self, name: str) -> Part:
        if name not in self.parts:
            raise InputError(f"{name}: no part of the stack; there are {', '.join(self.parts)}")
        return self.parts[name]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        busy = f"{self.folder}: another `up` or `down` is at it"
        lay_ground(self.folder) if not self.folder.is_dir() else None
        with hold_file(self.folder / "lock", busy, WAIT_SECONDS):
            self._answering: set[str] = set()
            yield

    def _check_ports(self, name: str) -> None:
        for port in PORTS.get(name, ()):
            number = self.ground.ports[port]
            # What was killed a moment ago has it until the system has closed its files.
            deadline = time.monotonic() + FREE_SECONDS
            while (taken := is_taken(HOST, number)) and time.monotonic() < deadline:
                time.sleep(0.1)
            if taken:
                raise InputError(
                    f"{name} cannot start: port {number} ({port}) was taken by another program since; end that, or "
                    f'take "{port}" out of {self.folder / "ports.json"}, and another port is chosen'
                )

    def _check_room(self) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < LEAST_BYTES:
            raise InputError(
                f"{self.folder}: {free / (1 << 30):.1f} GiB are free there, and a database that runs full stops in the "
                f"middle: make room for {LEAST_BYTES >> 30} GiB, or name another folder by --folder"
            )


def addresses(folder: Path) -> str:
    """Where the pages of a stack are, and where the keys to them; "" where its servers are not up."""
    if not is_stack(folder):
        return ""
    stack = Stack(folder)
    if any(stack.parts[name].state() != "up" for name in ("prefect", "mlflow")):
        return ""
    return stack.places


def is_stack(folder: Path) -> bool:
    """Whether a stack was made in a folder."""
    return (folder / "keys.json").is_file()


@contextmanager
def running_stack(folder: Path, tell: Tell = lambda line: None, **options: Any) -> Iterator[Stack]:
    """A stack that is up, for as long as the context lasts: what tests use. Its folder stays. options: of `Stack`."""
    stack = Stack(folder, tell, **options)
    try:
        stack.up()
        yield stack
    finally:
        stack.down()
