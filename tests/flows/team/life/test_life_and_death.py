"""Who lives and who is dead, by real processes: a server, workers, a coordinator and its stage."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.servers.ports import reserve
from flows.servers.server import Server, start_server

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
REPOSITORY = HERE.parents[3]
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Team:
    """A server, and workers by name, each with its own process group."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.stack = ExitStack()
        self.server: Server | None = None
        with reserve(0) as (_, number):
            self.port = number
        self.start_server()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}/api", timeout=30)

    @property
    def environment(self) -> dict[str, str]:
        own = {
            "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
            "PREFECT_HOME": str(self.folder / "home"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{HERE}",
            "DO_NOT_TRACK": "1",
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
        return {**kept, **own}

    def start_server(self) -> None:
        self.server = self.stack.enter_context(start_server(self.folder, self.port))
        self.server.wait()

    def kill_server(self) -> None:
        assert self.server
        assert self.server.running
        for pid in _below(self.server.running.process.pid):
            os.kill(pid, signal.SIGKILL)
        self.stack.close()

    def deploy(self) -> None:
        """Pools `team` and `gpu`, the latter of one slot, and a deployment on each."""
        for pool, slots in (("team", None), ("gpu", 1)):
            self.ask("POST", "/work_pools/", {"name": pool, "type": "process", "concurrency_limit": slots})
        for deployment, where, function, pool in (
            ("retrain/retrain", HERE / "team_flows.py", "lead", "team"),
            ("stage/stage", HERE / "team_flows.py", "stage", "gpu"),
            ("sweep/team", REPOSITORY / "flows/deployed.py", "sweep", "team"),
        ):
            flow, _, name = deployment.partition("/")
            folder = HERE if where.parent == HERE else REPOSITORY
            entry = {
                "name": name,
                "flow_id": self.ask("POST", "/flows/", {"name": flow})["id"],
                "entrypoint": f"{where.relative_to(folder)}:{function}",
                "path": str(folder),
                "work_pool_name": pool,
                "pull_steps": [
                    {"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}
                ],
            }
            self.ask("POST", "/deployments/", entry)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        for _ in range(10):  # SQLite has one writer, and answers 503 where it is kept waiting
            reply = self.client.request(method, path, json=body)
            if reply.status_code != 503:
                break
            time.sleep(1)
        reply.raise_for_status()
        return reply.json() if reply.content else None

    def start_worker(self, name: str, pool: str) -> None:
        log = (self.folder / f"{name}.log").open("ab")
        line = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--name", name]
        self.workers[name] = subprocess.Popen(
            [*line, "--type", "process"],
            env=self.environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=self.folder,
        )

    def processes(self, name: str) -> list[int]:
        """The worker's, and of all that it started."""
        return [self.workers[name].pid, *_below(self.workers[name].pid)]

    def signal(self, pids: list[int], number: int) -> None:
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def trigger(self, deployment: str = "retrain/retrain", **parameters: Any) -> str:
        deployment = self.ask("GET", f"/deployments/name/{deployment}")["id"]
        return self.ask("POST", f"/deployments/{deployment}/create_flow_run", {"parameters": parameters})[
            "id"
        ]

    def state(self, run: str) -> dict[str, Any]:
        return self.ask("GET", f"/flow_runs/{run}")["state"]

    def progress(self, run: str) -> tuple[str, float]:
        """What its page shows."""
        body = {"flow_runs": {"id": {"any_": [run]}}, "artifacts": {"type": {"any_": ["progress"]}}}
        (found,) = self.ask("POST", "/artifacts/filter", body)
        return found["description"], found["data"]

    def stages(self, root: Path) -> list[dict[str, Any]]:
        """The runs of the stage for `root`, oldest first."""
        runs = self.ask("POST", "/flow_runs/filter", {"flows": {"name": {"any_": ["stage"]}}, "limit": 100})
        mine = [run for run in runs if run["parameters"]["root"] == str(root)]
        return sorted(mine, key=lambda run: run["created"])

    def end(self) -> None:
        for name in self.workers:
            self.signal(self.processes(name), signal.SIGKILL)
            self.workers[name].wait()
        self.stack.close()


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    made = Team(tmp_path_factory.mktemp("team"))
    try:
        made.deploy()
        for name, pool in (("lead", "team"), ("one", "gpu"), ("two", "gpu")):
            made.start_worker(name, pool)
        yield made
    finally:
        made.end()


def until(true: Callable[[], Any], seconds: float, what: str) -> float:
    """Seconds it took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.5)
    return time.monotonic() - began


def steps(root: Path) -> list[tuple[int, int]]:
    """(process, step) of all that was written, in order."""
    text = (root / "log").read_text() if (root / "log").exists() else ""
    return [(int(pid), int(step)) for pid, step in (line.split() for line in text.splitlines())]


def alive(root: Path) -> list[int]:
    """Processes of the stage in `root`, and what it started."""
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            folder = os.readlink(f"/proc/{pid}/cwd")
        except OSError:
            continue
        if folder == str(root) or f"# {root}" in line:
            found.append(pid)
    return found


def ends(team: Team, run: str, seconds: float) -> str:
    until(lambda: team.state(run)["type"] in FINAL, seconds, f"a final state of {run}")
    return team.state(run)["type"]


def at_work(team: Team, root: Path, seconds: float = 180) -> dict[str, Any]:
    """The stage's run, once it does steps."""
    until(lambda: len(steps(root)) > 2, seconds, "steps")
    return team.stages(root)[-1]


def worker_of(team: Team, root: Path) -> str:
    """Who runs the stage of `root`."""
    pid = steps(root)[-1][0]
    return next(name for name in ("one", "two") if pid in team.processes(name))


def made(folder: Path, text: str = "") -> Path:
    folder.mkdir()
    if text:
        (folder / "machine.yaml").write_text(text)
    return folder


def test_a_lost_machine(team: Team, tmp_path: Path) -> None:
    root = made(tmp_path / "root")
    run = team.trigger(root=str(root), key=str(root), steps=60)
    first = at_work(team, root)
    lost = worker_of(team, root)
    team.signal(team.processes(lost), signal.SIGKILL)
    closed = until(lambda: team.state(first["id"])["type"] == "CRASHED", 120, "the lost run is closed")
    began = until(lambda: len({pid for pid, _ in steps(root)}) == 2, 180, "another attempt")
    print(f"closed after {closed:.0f} s, the next attempt at work {began:.0f} s later")
    assert worker_of(team, root) != lost
    assert ends(team, run, 180) == "COMPLETED"
    assert [step for _, step in steps(root)] == list(range(1, 61))  # it went on from the place
    assert len(team.stages(root)) == 2
    assert team.progress(team.stages(root)[-1]["id"]) == ("done", 100.0)
    team.start_worker(lost, "gpu")


def test_a_lost_worker_whose_stage_lives(team: Team, tmp_path: Path) -> None:
    root = made(tmp_path / "root")
    run = team.trigger(root=str(root), key=str(root), steps=60)
    at_work(team, root)
    lost = worker_of(team, root)
    os.kill(team.workers[lost].pid, signal.SIGKILL)
    assert ends(team, run, 180) == "COMPLETED"
    assert len({pid for pid, _ in steps(root)}) == 1
    assert len(team.stages(root)) == 1
    team.start_worker(lost, "gpu")


def test_a_machine_that_slept(team: Team, tmp_path: Path) -> None:
    root = made(tmp_path / "root")
    run = team.trigger(root=str(root), key=str(root), steps=60)
    first = at_work(team, root)
    slept = worker_of(team, root)
    stopped = team.processes(slept)
    team.signal(stopped, signal.SIGSTOP)
    try:
        until(lambda: team.state(first["id"])["type"] == "CRASHED", 120, "the sleeper is closed")
        assert ends(team, run, 240) == "COMPLETED"
    finally:
        team.signal(stopped, signal.SIGCONT)
    own = [pid for pid in stopped if pid != team.workers[slept].pid]
    took = until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in own), 60, "the sleeper ends")
    print(f"woken, it ended in {took:.0f} s")
    assert team.state(first["id"])["type"] == "CRASHED"
    assert team.stages(root)[-1]["state"]["type"] == "COMPLETED"
    assert team.state(run)["type"] == "COMPLETED"


def test_cancelled_from_the_page(team: Team, tmp_path: Path) -> None:
    root = made(tmp_path / "root")
    run = team.trigger(root=str(root), key=str(root), steps=2000)
    at_work(team, root)
    team.ask("POST", f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    took = until(lambda: not alive(root), 60, "no process of the stage is left")
    print(f"all gone in {took:.0f} s")
    assert ends(team, run, 60) == "CANCELLED"
    assert ends(team, team.stages(root)[-1]["id"], 60) == "CANCELLED"
    assert took < 30


def test_cancelled_while_somebody_else_waits(team: Team, tmp_path: Path) -> None:
    root = made(tmp_path / "root")
    first = team.trigger(root=str(root), key=str(root), steps=120)
    second = team.trigger(root=str(root), key=str(root), steps=120)
    child = at_work(team, root)
    waits = lambda: sum(bool(held) for held in team.stages(root)[-1]["labels"].values() if held is True)  # noqa: E731
    until(lambda: waits() == 2, 60, "both wait")
    team.ask("POST", f"/flow_runs/{first}/set_state", {"state": {"type": "CANCELLING"}})
    assert ends(team, first, 60) == "CANCELLED"
    assert ends(team, second, 240) == "COMPLETED"
    assert team.state(child["id"])["type"] == "COMPLETED"
    assert len(team.stages(root)) == 1


def test_a_killed_coordinator_is_taken_over_from(team: Team, tmp_path: Path) -> None:
    root = made(tmp_path / "root")
    first = team.trigger(root=str(root), key=str(root), steps=150)
    at_work(team, root)
    lead = [pid for pid in _below(team.workers["lead"].pid) if b"prefect.engine" in _line(pid)]
    team.signal(lead, signal.SIGKILL)
    assert ends(team, first, 60) == "CRASHED"  # its worker says so
    second = team.trigger(root=str(root), key=str(root), steps=150)
    assert ends(team, second, 240) == "COMPLETED"
    assert len(team.stages(root)) == 1
    assert len({pid for pid, _ in steps(root)}) == 1


def test_a_coordinator_whose_machine_is_lost_is_swept_up(team: Team, tmp_path: Path) -> None:
    root = made(tmp_path / "root")
    first = team.trigger(root=str(root), key=str(root), steps=400)
    at_work(team, root)
    team.signal(team.processes("lead"), signal.SIGKILL)
    team.start_worker("lead", "team")
    assert team.state(first)["type"] == "RUNNING"  # nobody is left who would say so
    assert ends(team, team.trigger("sweep/team"), 240) == "COMPLETED"
    assert team.state(first)["type"] == "CRASHED"
    assert team.state(team.stages(root)[-1]["id"])["type"] == "RUNNING"  # it lives, and may be taken over
    second = team.trigger(root=str(root), key=str(root), steps=400)
    assert ends(team, second, 400) == "COMPLETED"
    assert len(team.stages(root)) == 1


def test_a_stage_that_hangs_is_tried_again_once(team: Team, tmp_path: Path) -> None:
    root = made(tmp_path / "root", "stall_minutes: 0.3\nending_seconds: 2\n")
    run = team.trigger(root=str(root), key=str(root), mode="hangs", steps=30)
    at_work(team, root)
    assert ends(team, run, 180) == "COMPLETED"
    assert len({pid for pid, _ in steps(root)}) == 2
    assert [step for _, step in steps(root)] == list(range(1, 31))


def test_a_stage_that_is_slow_is_none_that_hangs(team: Team, tmp_path: Path) -> None:
    root = made(tmp_path / "root", "stall_minutes: 0.1\nending_seconds: 2\n")
    run = team.trigger(root=str(root), key=str(root), mode="loads", steps=10)
    assert ends(team, run, 180) == "COMPLETED"
    assert len({pid for pid, _ in steps(root)}) == 1


def test_a_server_that_is_away_ends_nothing(team: Team, tmp_path: Path) -> None:
    root = made(tmp_path / "root")
    run = team.trigger(root=str(root), key=str(root), steps=60)
    at_work(team, root)
    team.kill_server()
    before = len(steps(root))
    time.sleep(float(os.environ.get("AWAY_SECONDS", "75")))
    assert len(steps(root)) == 60 or len(steps(root)) > before + 20
    team.start_server()
    took = until(lambda: team.state(run)["type"] in FINAL, 240, "the final state")
    print(f"its final state {took:.0f} s after the server was back")
    assert team.state(run)["type"] == "COMPLETED"
    assert len(team.stages(root)) == 1
    assert [step for _, step in steps(root)] == list(range(1, 61))


def _line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _below(pid: int) -> list[int]:
    """Every process that descends from it, whatever its group."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                parents[int(name)] = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found: list[int] = []
    frontier = [pid]
    while frontier:
        frontier = [one for one, parent in parents.items() if parent in frontier]
        found += frontier
    return found
