"""A small workspace of our own under git and DVC: real stages by name, each a second of plain Python."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PARAMS = """\
profile: tiny  # a comment that stays
seed: 0
sources:
  toy: {kind: generated, format: clips, train: 4, test: 2, seed: 1}
pretrain: {epochs: 1}
finetune:
  epochs: 2
  learning_rate: 0.001
"""
DVC = """\
vars:
  - run: {python} stage.py
stages:
  evaluate:  # out of order on purpose
    cmd: ${{run}} evaluate
    params: [seed]
    deps: [models/videollava, stage.py]
    outs: [evaluation]
    metrics: [metrics.json]
  fetch:
    cmd: ${{run}} fetch
    params: [sources]
    deps: [stage.py]
    outs: [data/raw]
  finetune:
    cmd: ${{run}} finetune
    params: [finetune, seed]
    deps: [data/raw, stage.py]
    outs: [models/videollava, plots/finetune.csv]
"""
STAGE = """\
import json, os, pathlib, subprocess, sys, time
from videollava.params import load_params
from videollava.tracking import log_metrics, track, write_curve

name, root = sys.argv[1], pathlib.Path(".")
params = load_params()


def fetch():
    (root / "data/raw").mkdir(parents=True, exist_ok=True)
    (root / "data/raw/toy").write_text(str(params.sources))
    print("fetched", flush=True)


def finetune():
    for step in range(params.finetune.epochs * 10):
        log_metrics(step, loss=1 / (step + 1), learning_rate=params.finetune.learning_rate)
        print(f"step {step}", end="\\r", flush=True)
    hang = root / "hang"
    if hang.exists():
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        (root / "hanging").write_text(str(os.getpid()))
        time.sleep(600)
    folder = root / "models/videollava"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(f"weights after {params.finetune.epochs}")
    write_curve(root / "plots/finetune.csv")


def evaluate():
    (root / "evaluation").mkdir(exist_ok=True)
    (root / "evaluation/report.html").write_text("<p>report</p>")
    (root / "evaluation/predictions").mkdir(exist_ok=True)
    epochs = int((root / "models/videollava/model.safetensors").read_text().split()[-1])
    scores = {"easy_vqa": {"accuracy": 60.0 + epochs, "blind_accuracy": 40.0}}
    (root / "metrics.json").write_text(json.dumps(scores))
    lines = []
    for number in range(400):
        asked = {"question_id": str(number), "question": "?", "answer": "a", "prediction": "a"}
        lines.append(json.dumps({**asked, "correct": number < 4 * (60 + epochs)}))
    (root / "evaluation/predictions/easy_vqa.jsonl").write_text("\\n".join(lines))


with track(name, params, root):
    globals()[name]()
"""
MADE = ("data", "models", "evaluation", "plots", "metrics.json", "runs", ".mlflow", ".prefect", "hang*")
IGNORED = "".join(f"/{name}\n" for name in MADE) + "__pycache__/\n"


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    return subprocess.run(
        ["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout


def lay_out(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """The workspace in `folder`/ws, committed, with nothing run yet, and an environment for it."""
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "DVC_STAGE"):
        patch.delenv(name, raising=False)
    patch.setenv("VIDEOLLAVA_FOLLOWED", "1")  # stages run by hand need not wait for MLflow
    patch.setenv("PYTHONPATH", str(REPOSITORY))
    patch.setenv("DVC_SITE_CACHE_DIR", str(folder / "site"))
    root = folder / "ws"
    (root / ".dvc").mkdir(parents=True)
    for name in ("config", ".gitignore"):
        shutil.copy(REPOSITORY / ".dvc" / name, root / ".dvc" / name)
    shutil.copy(REPOSITORY / ".dvcignore", root)
    (root / "params.yaml").write_text(PARAMS)
    (root / "gate.yaml").write_text("videollava: {benchmarks: {easy_vqa: {minimum: 50.0}}}\n")
    (root / "dvc.yaml").write_text(DVC.format(python=sys.executable))
    (root / "stage.py").write_text(STAGE)
    (root / ".gitignore").write_text(IGNORED)
    git(root, "init", "--quiet")
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "-m", "start")
    return root


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workspace, committed, with nothing run yet."""
    return lay_out(tmp_path, monkeypatch)


@pytest.fixture(scope="session")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], list[str]]:
    """(workspace, outcomes, what was said) of its three stages run by real DVC: to be copied, not changed."""
    from flows.stages.stage import run_stage

    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        root = lay_out(tmp_path_factory.mktemp("once"), patch)
        outcomes = [
            run_stage(root, stage, said.append).outcome for stage in ("fetch", "finetune", "evaluate")
        ]
    return root, outcomes, said


@pytest.fixture
def finished(workspace: Path, run_once: tuple[Path, list[str], list[str]]) -> Path:
    """The workspace with all its stages run."""
    shutil.rmtree(workspace)
    shutil.copytree(run_once[0], workspace, symlinks=True)
    return workspace


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Prefect server, one for all tests of a session: each uses names of its own there."""
    from flows.servers.server import start_server

    with start_server(tmp_path_factory.mktemp("prefect")) as server:
        server.wait()
        yield server.url
