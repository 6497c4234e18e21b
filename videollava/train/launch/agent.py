"""On each host: the ranks of a stage under torch.distributed.run.

    python -m videollava.train.launch.agent LAUNCH RANKS GPUS NODES -- COMMAND...

LAUNCH: the launch's name; RANKS: of this host; GPUS: whether each needs one; $VIDEOLLAVA_ENDING: seconds that ranks
have for a last checkpoint, where this process is told to end. The ranks run `videollava COMMAND...`.
Of several hosts (tasks of a Slurm job, pods of Kubernetes) the first takes the attempt, and says in the shared folder
where they meet.
Exit status: the first failing rank's, 0 where all ended well.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from videollava.ends import AGAIN, Ended
from videollava.environment import RANKS, SUPERVISED, end_with_supervisor
from videollava.machine.devices import count_cores
from videollava.train.launch.failures import (
    Failure,
    causes,
    first_failure,
    read_ended,
    write_ended,
    write_failure,
)
from videollava.train.launch.fence import ATTEMPT, Superseded, attempt_of, take

__all__ = ["ADDRESS", "NODE", "NUMBER", "SECONDS", "UNKEPT", "UNSHARED", "main"]

MEETING = 600.0  # seconds that a host waits for the first, and for all others
ENDING = "5"  # seconds that ranks have after SIGTERM where another one failed
TRIES = 3  # attempts in a row that a job may end early without a step
LOOK = 0.2
SECONDS = "VIDEOLLAVA_ENDING"
# In a pod of Kubernetes: which of the launch it is, in which attempt, and the name by which the others find it.
NODE, NUMBER, ADDRESS = "VIDEOLLAVA_NODE", "VIDEOLLAVA_NUMBER", "VIDEOLLAVA_ADDRESS"
LOST = 60.0  # seconds that the hosts' accounts of a failure may be apart
PYTHON = (sys.executable, "-P", "-m", "videollava")
CALLER_GONE = 143
UNKEPT = "ended without a last checkpoint; run it again to go on"
UNSHARED = 3  # exit status of a host that cannot begin: the folder, its GPUs or the other hosts are not there


@dataclass(frozen=True)
class Place:
    """Which host of the launch this is, by Slurm's account or Kubernetes', where there is one."""

    node: int
    nodes: int
    number: int  # of the attempt

    @classmethod
    def of(cls, nodes: int) -> Place:
        names = (NODE, NUMBER) if NODE in os.environ else ("SLURM_NODEID", "SLURM_RESTART_COUNT")
        if not nodes or not {NODE, "SLURM_JOB_ID"} & os.environ.keys():
            return cls(0, 1, 0)
        node, number = (int(os.environ.get(name, "0")) for name in names)
        return cls(node, nodes, number)


def main(words: Sequence[str]) -> int:
    """Run this host's ranks to their end."""
    end_with_supervisor()
    os.environ.setdefault(SUPERVISED, words[0])  # the ranks end with this process, under Slurm too
    launch, ranks, gpus, nodes = words[0], int(words[1]), int(words[2]), int(words[3])
    folder, place = Path(os.environ[RANKS]), Place.of(nodes)
    if not folder.is_dir():
        return _say(
            f"{folder} is not on {socket.gethostname()}: nodes of a job need one shared folder, the checkout's"
        )
    if gpus and (seen := _gpus()) < ranks:
        return _say(
            f"{socket.gethostname()} has {seen} GPUs for this job, machine.yaml asks for {ranks}: set gpus: {seen}"
        )
    try:
        attempt = _attempt(folder, launch, place)
    except Superseded as error:
        return _say(str(error))
    os.environ[ATTEMPT] = attempt
    host, port = _endpoint(folder / attempt, place)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, count_cores() // ranks)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", ENDING)
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"  # the others are ours
    options = [
        f"--nnodes={place.nodes}",
        f"--nproc-per-node={ranks}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={host}:{port}",
        f"--rdzv-id={attempt}",
        f"--rdzv-conf=is_host={int(place.node == 0)},join_timeout={MEETING:.0f}",
        f"--local-addr={host if place.node == 0 else _own_name()}",
        "--no-python",
    ]
    return _run([*options, *PYTHON, *words[5:]], folder / attempt, place)


def _run(line: Sequence[str], folder: Path, place: Place) -> int:
    logging.disable(logging.CRITICAL)  # what failed is told once, by the launcher
    from torch.distributed.elastic.multiprocessing.api import SignalException

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, partial(_hand_on, folder))
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch
    from torch.distributed.run import config_from_args, parse_args

    config, command, arguments = config_from_args(parse_args(list(line)))
    try:
        elastic_launch(config, command)(*arguments)
    except ChildFailedError as error:
        for rank, failure in error.failures.items():
            seen = Failure(rank, socket.gethostname(), failure.timestamp, failure.exitcode)
            write_failure(folder, seen)
        ended = read_ended(folder)
        return _ended(ended, folder, place) if ended else _failed(folder, place)
    except SignalException:
        if causes(folder) and not read_ended(folder):
            return CALLER_GONE
        if not read_ended(folder):  # told to end before its ranks began, or they were killed in the end
            write_ended(folder, place.node, Ended(AGAIN, UNKEPT))
        ended = read_ended(folder)
        return _ended(ended, folder, place) if ended else CALLER_GONE
    return 0


def _hand_on(folder: Path, number: int, _: FrameType | None) -> None:
    """This host's ranks are to make a last checkpoint: each gets the signal, once, and time for it."""
    from torch.distributed.elastic.multiprocessing.api import SignalException

    def give_up(*_: object) -> None:
        raise SignalException("told to end", signal.SIGTERM)  # torch.distributed.run ends the ranks

    for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    ranks = list(_ranks_here(folder))
    if not ranks:  # they have not even begun
        give_up()
    for pid in ranks:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, float(os.environ.get(SECONDS, ENDING)))


def _ranks_here(folder: Path) -> Iterator[int]:
    for file in folder.glob("rank-*.json"):
        with suppress(OSError, ValueError):  # it is being replaced
            told = json.loads(file.read_text())
            if told["host"] == socket.gethostname():
                yield told["pid"]


def _ended(ended: Ended, folder: Path, place: Place) -> int:
    """The exit status; where it means "again" the job's script is told whether that is of use."""
    lately = [ended]
    for number in range(place.number - 1, place.number - TRIES, -1):
        if before := read_ended(folder.with_name(f"{folder.name.rpartition('.')[0]}.{number}")):
            lately.append(before)
    if ended.status == AGAIN and (len(lately) < TRIES or any(one.steps for one in lately)):
        (folder / "again").touch()
    return ended.status


def _failed(folder: Path, place: Place) -> int:
    """The exit status; where a connection broke and no rank says why, the others' accounts are waited for.

    They may come from another host. Where none comes, that host is lost, and the job's script is told.
    """
    deadline = time.monotonic() + LOST
    while place.nodes > 1 and all(failure.connection for failure in causes(folder)):
        if time.monotonic() > deadline:
            (folder / "lost").touch()
            break
        time.sleep(LOOK)
    first = first_failure(folder)
    return first.exit_status if first else 1


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _attempt(folder: Path, launch: str, place: Place) -> str:
    """The first host takes it, the others wait until it has."""
    if place.node == 0:
        return take(folder, launch, place.number)
    own, deadline = f"{launch}.{place.number}", time.monotonic() + MEETING
    while (held := attempt_of(folder)) != own:
        if held.rpartition(".")[0] != launch or int(held.rpartition(".")[2]) > place.number:
            raise Superseded(own, held)
        if time.monotonic() > deadline:
            raise Superseded(own, "none: the first node did not begin")
        time.sleep(LOOK)
    return own


def _endpoint(folder: Path, place: Place) -> tuple[str, int]:
    """Where hosts meet: one host finds a free port itself, the first of several says its own to the others."""
    if place.nodes == 1:
        return "127.0.0.1", 0
    file = folder / "endpoint.json"
    if place.node == 0:
        told = {"host": _own_name(), "port": _free_port()}
        aside = file.with_suffix(".tmp")
        aside.write_text(json.dumps(told))
        aside.replace(file)
    while not file.is_file():
        time.sleep(LOOK)
    found: dict[str, Any] = json.loads(file.read_text())
    _await_name(found["host"])
    return found["host"], found["port"]


def _own_name() -> str:
    """By which the other hosts find this one."""
    return os.environ.get(ADDRESS) or socket.gethostname()


def _await_name(host: str) -> None:
    """A pod's name is known a little after the pod has begun."""
    deadline = time.monotonic() + MEETING
    while time.monotonic() < deadline:
        with suppress(OSError):
            socket.getaddrinfo(host, None)
            return
        time.sleep(LOOK)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
    return port


def _say(problem: str) -> int:
    print(problem, file=sys.stderr, flush=True)
    return UNSHARED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
