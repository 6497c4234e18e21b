"""A team on one machine: a bare repository as origin, a folder as DVC remote, servers of Prefect and MLflow, workers
in checkouts of their own. Its stages are seconds of plain Python, under names that have pools.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from flows.servers.ports import own_address, reserve
from flows.servers.server import start_server
from videollava.process import Supervised

REPOSITORY = Path(__file__).resolve().parents[3]
PARAMS = """\
profile: tiny
seed: 0
sources:
  toy: {kind: generated, format: clips, train: 4, test: 2, seed: 1}
shards: {shard_mib: 64}
evaluate: {limit: 0}
finetune:
  epochs: 2
  learning_rate: 0.001
tracking: {model: videollava}
"""
DVC = """\
vars:
  - run: {python} stage.py
stages:
  fetch:
    foreach: ${{sources}}
    do:
      cmd: ${{run}} fetch@${{key}}
      params: ["sources.${{key}}"]
      deps: [stage.py, "locks/${{key}}.json"]
      outs: ["data/raw/${{key}}"]
  shards:
    foreach: ${{sources}}
    do:
      cmd: ${{run}} shards@${{key}}
      params: [shards.shard_mib]
      deps: [stage.py, "data/raw/${{key}}"]
      outs: ["data/shards/${{key}}"]
  finetune:
    cmd: ${{run}} finetune
    params: [finetune, seed]
    deps: [data/shards/toy, stage.py]
    outs: [models/videollava, plots/finetune.csv]
  evaluate:
    cmd: ${{run}} evaluate
    params: [seed, evaluate.limit]
    deps: [models/videollava, stage.py]
    outs: [evaluation]
    metrics: [metrics.json]
"""
STAGE = """\
import json, os, pathlib, sys, time
from videollava.params import load_params
from videollava.tracking import log_metrics, track, write_curve

name, root = sys.argv[1], pathlib.Path(".")
params = load_params()
with (pathlib.Path(os.environ["TEAM_FOLDER"]) / "ran").open("a") as log:  # whatever runs anywhere, once a line
    log.write(f"{name} {params.finetune.epochs} {params.seed} {params.evaluate.limit}\\n")


def fetch():
    (root / "data/raw/toy").mkdir(parents=True, exist_ok=True)
    (root / "data/raw/toy/clips").write_text(str(params.sources))
    (root / "locks/toy.json").write_text(json.dumps({"noted": str(params.sources)}))


def shards():
    (root / "data/shards/toy").mkdir(parents=True, exist_ok=True)
    (root / "data/shards/toy/rows").write_text((root / "data/raw/toy/clips").read_text())


def finetune():
    (root / "data/shards/toy/rows").read_text()
    for step in range(params.finetune.epochs * 10):
        log_metrics(step, loss=1 / (step + 1), learning_rate=params.finetune.learning_rate, step_seconds=0.01)
    folder = root / "models/videollava"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(f"weights after {params.finetune.epochs} of {params.seed}")
    write_curve(root / "plots/finetune.csv")


def evaluate():
    epochs = int((root / "models/videollava/model.safetensors").read_text().split()[2])
    (root / "evaluation/predictions").mkdir(parents=True, exist_ok=True)
    (root / "evaluation/report.html").write_text("<p>report</p>")
    scores = {"easy_vqa": {"accuracy": 60.0 + epochs, "blind_accuracy": 40.0}}
    (root / "metrics.json").write_text(json.dumps(scores))
    lines = []
    for number in range(400):
        asked = {"question_id": str(number), "question": "?", "answer": "a", "prediction": "a"}
        lines.append(json.dumps({**asked, "correct": number < 4 * (60 + epochs)}))
    (root / "evaluation/predictions/easy_vqa.jsonl").write_text("\\n".join(lines))


with track(name, params, root):
    globals()[name.partition("@")[0]]()
"""
POOLS = """\
local: {slots: 1}
team: {slots: 20, worker: 20}
data: {slots: 2, worker: 2}
gpu: {slots: 2, worker: 2}
eval: {slots: 1}
"""
MACHINE = "gpus: 0\npush_to: origin\npools: {data: data, gpu: gpu, eval: gpu}\n"


@dataclass
class Ground:
    """The team's places and addresses. environment: of whoever triggers from a third folder."""

    folder: Path
    prefect: str
    mlflow: str
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def origin(self) -> Path:
        """The bare repository."""
        return self.folder / "origin.git"

    def clone(self, name: str, *words: str) -> Path:
        """A checkout of origin with the team's remote."""
        root = self.folder / name
        git(self.folder, "clone", "--quiet", *words, f"file://{self.origin}", str(root))
        settings = f"[core]\n    remote = team\n['remote \"team\"']\n    url = {self.folder / 'remote'}\n"
        (root / ".dvc" / "config.local").write_text(settings)
        return root

    def trigger(self, parameters: Mapping[str, Any] = {}, deployment: str = "retrain/team") -> str:
        """Ask for a run as another program would; its id."""
        body = {"parameters": dict(parameters), "idempotency_key": uuid.uuid4().hex}
        with httpx.Client(base_url=self.prefect, timeout=60) as client:
            found = client.get(f"/deployments/name/{deployment}").json()
            while True:
                made = client.post(f"/deployments/{found['id']}/create_flow_run", json=body)
                if (
                    made.status_code != 503
                ):  # what a server on SQLite says while others write; clients ask again
                    return str(made.raise_for_status().json()["id"])
                time.sleep(0.5)

    def run(self, identity: str) -> dict[str, Any]:
        """A flow run as the server has it."""
        with httpx.Client(base_url=self.prefect, timeout=60) as client:
            return dict(client.get(f"/flow_runs/{identity}").json())

    def runs(self, flow: str) -> list[dict[str, Any]]:
        """All runs of a flow."""
        body = {"flows": {"name": {"any_": [flow]}}, "sort": "EXPECTED_START_TIME_ASC"}
        with httpx.Client(base_url=self.prefect, timeout=60) as client:
            return list(client.post("/flow_runs/filter", json=body).json())

    def logs(self, identity: str) -> str:
        """What a run logged."""
        body = {"logs": {"flow_run_id": {"any_": [identity]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
        with httpx.Client(base_url=self.prefect, timeout=60) as client:
            return "\n".join(line["message"] for line in client.post("/logs/filter", json=body).json())

    def wait(self, *identities: str, seconds: float = 300.0) -> list[dict[str, Any]]:
        """The runs when all are over; an assertion after so many seconds."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                runs = [self.run(identity) for identity in identities]
            except httpx.TransportError:  # a server that is busy, on a busy machine
                assert time.monotonic() < deadline
                continue
            if all(run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") for run in runs):
                return runs
            assert time.monotonic() < deadline, [(run["name"], run["state_type"]) for run in runs]
            time.sleep(0.5)

    def ran(self) -> list[str]:
        """What stages' commands ran, anywhere."""
        file = self.folder / "ran"
        return file.read_text().splitlines() if file.is_file() else []


def git(folder: Path, *arguments: str) -> str:
    line = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(line, cwd=folder, check=True, capture_output=True, text=True).stdout


def make_origin(folder: Path) -> None:
    """This repository's code with toy stages, as `origin`'s main."""
    root = folder / "made"
    for name in git(REPOSITORY, "ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (REPOSITORY / name).is_file() and not name.startswith(
            ("tests/", "docs/", "bench/", "locks/", "dvc.lock")
        ):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, root / name)
    (root / "locks").mkdir()
    (root / "locks/toy.json").write_text("{}")
    for name, text in (("params.yaml", PARAMS), ("stage.py", STAGE), ("pools.yaml", POOLS)):
        (root / name).write_text(text)
    (root / "dvc.yaml").write_text(DVC.format(python=sys.executable))
    (root / "gate.yaml").write_text("videollava: {benchmarks: {easy_vqa: {minimum: 50.0}}}\n")
    git(root, "init", "--quiet", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "-m", "start")
    git(folder, "clone", "--quiet", "--bare", str(root), "origin.git")


@contextmanager
def team(
    folder: Path, workers: Sequence[str] = ("team", "data", "gpu"), base: Mapping[str, str] = os.environ
) -> Iterator[Ground]:
    """The servers and the workers, until the end; no process is left."""
    folder.mkdir(parents=True, exist_ok=True)
    make_origin(folder)
    dropped = ("PREFECT_", "MLFLOW_", "VIDEOLLAVA_", "DVC_", "GIT_")
    bare = {name: value for name, value in base.items() if not name.startswith(dropped)}
    bare |= {"TEAM_FOLDER": str(folder), "DVC_SITE_CACHE_DIR": str(folder / "site"), "OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:
        server = stack.enter_context(start_server(folder / "prefect"))
        mlflow = stack.enter_context(_mlflow(folder, bare))
        server.wait()
        ground = Ground(folder, server.url, mlflow)
        ground.environment = {
            **bare,
            "PREFECT_API_URL": server.url,
            "MLFLOW_TRACKING_URI": mlflow,
            "PREFECT_HOME": str(folder / "profile"),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), bare.get("PATH", "")]),
        }
        first = ground.clone("lead")
        for line in (["-m", "flows.pools"], ["-m", "prefect", "--no-prompt", "deploy", "--all"]):
            environment = {**ground.environment, "PYTHONPATH": str(first)}
            done = subprocess.run(
                [sys.executable, *line], cwd=first, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stdout + done.stderr
        for pool in workers:
            root = ground.clone(f"worker-{pool}", *(["--depth=1"] if pool != "team" else []))
            (root / "machine.yaml").write_text(MACHINE)
            log = stack.enter_context((folder / f"{pool}.log").open("ab"))
            environment = {**ground.environment, "PYTHONPATH": str(root)}
            line = [sys.executable, "-m", "flows.worker", pool]
            stack.enter_context(Supervised(line, root, environment, log.fileno(), 5.0))
        yield ground


@contextmanager
def _mlflow(folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    place = folder / "mlflow"
    place.mkdir()
    with reserve(0) as (host, port), (place / "log").open("ab") as log:
        line = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            host,
            "--port",
            str(port),
            "--workers",
            "1",
        ]
        line += [
            "--backend-store-uri",
            f"sqlite:///{place / 'mlflow.db'}",
            "--artifacts-destination",
            str(place / "artifacts"),
        ]
        told = {**environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with Supervised(line, place, told, log.fileno(), 3.0):
            url = own_address(host, port)
            deadline = time.monotonic() + 120
            while True:
                try:
                    urllib.request.urlopen(f"{url}/health", timeout=5).close()
                    break
                except OSError:
                    assert time.monotonic() < deadline, (place / "log").read_text()[-2000:]
                    time.sleep(0.2)
            yield url


if __name__ == "__main__":  # for a person: stands until Enter
    with team(Path(sys.argv[1]).resolve()) as stood:
        print(json.dumps({"prefect": stood.prefect, "mlflow": stood.mlflow}), flush=True)
        (stood.folder / "environment.json").write_text(json.dumps(stood.environment))
        sys.stdin.read()
