"""A real Slurm cluster of two nodes on this machine: its own folder and ports, ended with the test."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
SBIN = "/usr/sbin:/usr/local/sbin"
LOST = 5  # seconds after which a node that does not answer is down

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ReturnToService=2
SlurmdTimeout={lost}
SlurmctldTimeout=30
BatchStartTimeout=10
CompleteWait=0
KillWait=3
InactiveLimit=0
MinJobAge=300
SchedulerParameters=bf_interval=1,sched_min_interval=100000,batch_sched_delay=0
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=1 RealMemory=4000 Gres=gpu:1
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=1 RealMemory=4000 Gres=gpu:1
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""
GRES = "NodeName=n1 Name=gpu File=/dev/null\nNodeName=n2 Name=gpu File=/dev/zero\n"


def lacking() -> str:
    """Why there can be no cluster here; "" where there can."""
    path = os.pathsep.join([os.environ.get("PATH", ""), SBIN])
    absent = [name for name in PROGRAMS if not shutil.which(name, path=path)]
    if absent:
        return f"no {', '.join(absent)} here (Debian: slurmctld slurmd slurm-client munge)"
    return "" if os.geteuid() == 0 else "slurmd of these tests runs as root"


class Cluster:
    """Its daemons, and what tests do to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._path = os.pathsep.join([os.environ.get("PATH", ""), SBIN])

    def start(self, name: str) -> None:
        """A daemon: munged, slurmctld, or a node's slurmd (n1, n2)."""
        conf = ["-f", str(self.folder / "slurm.conf")]
        lines = {
            "munged": ["munged", "-F", "-f", f"--socket={self.folder}/munge.socket", *self._munge()],
            "slurmctld": ["slurmctld", "-D", *conf],
            "n1": ["slurmd", "-D", "-N", "n1", *conf],
            "n2": ["slurmd", "-D", "-N", "n2", *conf],
        }
        with open(self.folder / f"{name}.out", "ab") as out:
            self.daemons[name] = subprocess.Popen(
                lines[name],
                env={**os.environ, "PATH": self._path, **self.environment},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def _munge(self) -> list[str]:
        files = {
            "key-file": "munge.key",
            "log-file": "munged.log",
            "pid-file": "munged.pid",
            "seed-file": "munge.seed",
        }
        return [f"--{option}={self.folder}/{name}" for option, name in files.items()]

    def run(self, *command: str) -> str:
        """What a client command of Slurm prints."""
        done = subprocess.run(command, env={**os.environ, **self.environment}, capture_output=True, text=True)
        return done.stdout

    def state(self, node: str) -> str:
        return self.run("sinfo", "-h", "-n", node, "-o", "%T").strip()

    def jobs(self) -> list[str]:
        """Numbers of jobs that wait or run."""
        return self.run("squeue", "-h", "-o", "%A").split()

    def wait_idle(self, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while any(self.state(node) != "idle" for node in ("n1", "n2")):
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.1)

    def told(self) -> str:
        """The ends of all logs."""
        logs = [*self.folder.glob("*.log"), *self.folder.glob("*.out")]
        return "\n".join(f"== {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in logs)

    def kill(self, name: str) -> None:
        """Kill -9 of a daemon."""
        self.daemons[name].kill()
        self.daemons[name].wait()

    def tasks_of(self, node: str) -> list[int]:
        """Processes that run on a node."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    words = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
                    if f"SLURMD_NODENAME={node}" in words and f"SLURM_CONF={self.folder}/slurm.conf" in words:
                        found.append(int(entry.name))
        return found

    def steps_of(self, node: str) -> list[int]:
        """slurmstepd processes of a node, which outlive its slurmd and, having nobody to tell, their tasks.

        Each has a session of its own and writes its title over its environment: it is known by the log it holds open.
        """
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    if not (entry / "cmdline").read_bytes().startswith(b"slurmstepd"):
                        continue
                    files = {os.readlink(link) for link in (entry / "fd").iterdir()}
                    if f"{self.folder}/slurmd-{node}.log" in files:
                        found.append(int(entry.name))
        return sorted(found)

    def left(self) -> list[int]:
        """All that runs on the nodes, their slurmd apart."""
        return [pid for node in ("n1", "n2") for pid in (*self.steps_of(node), *self.tasks_of(node))]

    def lose(self, node: str) -> None:
        """A host that is gone: its slurmd, slurmstepd and all they started, at once."""
        doomed = [self.daemons[node].pid, *self.steps_of(node), *self.tasks_of(node)]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in doomed:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
        self.daemons[node].wait()

    def stop(self) -> None:
        """End all of it."""
        deadline = time.monotonic() + 10
        while (jobs := self.jobs()) and time.monotonic() < deadline:
            self.run("scancel", *jobs)
            time.sleep(0.2)
        for daemon in self.daemons.values():
            daemon.kill()
            daemon.wait()
        deadline = time.monotonic() + 10
        while left := self.left():  # again: what is killed may just have started another
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert time.monotonic() < deadline, left
            time.sleep(0.05)


@contextmanager
def slurm(folder: Path) -> Iterator[Cluster]:
    """A cluster with both nodes idle."""
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool-n1", "spool-n2"):
        (folder / name).mkdir(parents=True)
    control, first, second = _free_ports(3)
    text = CONF.format(host=host, folder=folder, control=control, first=first, second=second, lost=LOST)
    (folder / "slurm.conf").write_text(text)
    (folder / "gres.conf").write_text(GRES)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    cluster = Cluster(folder)
    try:
        cluster.start("munged")
        deadline = time.monotonic() + 30
        while not (folder / "munge.socket").exists():
            assert time.monotonic() < deadline, cluster.told()
            time.sleep(0.02)
        for name in ("slurmctld", "n1", "n2"):
            cluster.start(name)
        cluster.wait_idle()
        yield cluster
    finally:
        cluster.stop()


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
