"""Real processes, one machine (folder) after another, and a real server that is killed: checkpoints stand in S3."""

from __future__ import annotations

import csv
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from equality import FLOAT32
from micro import MACHINE, ROOT, micro, settings, write_machine
from seaweed import Seaweed
from stores import reach, serving

from videollava.tracking import track, write_curve
from videollava.train import finetune, pretrain

pytestmark = pytest.mark.slow
CHANGES = ("finetune.epochs=12",)


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with serving(tmp_path_factory.mktemp("seaweed")) as server:
        server.client().create_bucket(Bucket="runs")
        yield server


@pytest.fixture(scope="module")
def whole(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which stage 2 was never interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "work"
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns("raw", "checkpoints", "runs"))
    pretrain.run(micro(*CHANGES), folder, MACHINE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDEOLLAVA_FOLLOWED", "1")
        with track("finetune", micro(*CHANGES), folder):
            finetune.run(micro(*CHANGES), folder, MACHINE)
            write_curve(folder / "plots/finetune.csv")
    return folder


@pytest.fixture
def machine(whole: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Path]:
    """Fresh machines with stage 1 done, by name; their place is the test's own."""

    def make(name: str, **changes: object) -> Path:
        kept = shutil.ignore_patterns("checkpoints", "videollava", "runs", "plots")
        folder = Path(shutil.copytree(whole, tmp_path / name, ignore=kept))
        write_machine(folder, **{"checkpoint_place": f"s3://runs/{request.node.name}", **changes})
        return folder

    return make


def start(folder: Path, seaweed: Seaweed, log: Path | None = None) -> subprocess.Popen[bytes]:
    """`videollava finetune`, as people call it, on one of the machines."""
    options = ["--params", str(ROOT / "videollava/profiles/tiny.yaml")]
    options += [part for setting in settings(*CHANGES) for part in ("--set", setting)]
    environment = {**os.environ, **reach(seaweed.url), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(log or os.devnull, "wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "videollava", "finetune", *options],
            cwd=folder,
            env={**environment, "VIDEOLLAVA_FOLLOWED": "1"},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def kill(running: subprocess.Popen[bytes]) -> None:
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()


def newest(seaweed: Seaweed, place: str) -> int:
    """Step of the newest checkpoint that stands, 0 without one."""
    listed = seaweed.client().list_objects_v2(Bucket="runs", Prefix=f"{place}/").get("Contents", ())
    steps = [
        key.split("/step-")[1][:8] for entry in listed if (key := entry["Key"]).endswith("/manifest.json")
    ]
    return max(map(int, steps), default=0)


def wait_for(step: int, seaweed: Seaweed, place: str, running: subprocess.Popen[bytes]) -> None:
    while newest(seaweed, place) < step:
        assert running.poll() is None, "it ended before it was killed"
        time.sleep(0.01)


def weights(workspace: Path) -> str:
    """Hash of the final model's weights."""
    return hashlib.sha256((workspace / "models/videollava/model.safetensors").read_bytes()).hexdigest()


def losses(workspace: Path) -> dict[int, float]:
    """Of each step, as the run's curve has it."""
    with open(workspace / "plots/finetune.csv") as file:
        return {int(row["step"]): float(row["loss"]) for row in csv.DictReader(file)}


def test_five_machines_lost_one_after_another_change_no_bit(
    whole: Path, machine: Callable[..., Path], seaweed: Seaweed, request: pytest.FixtureRequest
) -> None:
    """Killed at any moment: in a step, in an upload, in a seal."""
    place, draw = request.node.name, random.Random(0)
    for number in range(5):
        folder = machine(f"machine{number}")
        running = start(folder, seaweed)
        wait_for(newest(seaweed, place) + draw.randint(1, 4), seaweed, place, running)
        time.sleep(draw.random() * 0.1)
        kill(running)
        shutil.rmtree(folder)
    last = machine("last")
    assert start(last, seaweed).wait() == 0
    assert weights(last) == weights(whole)
    assert "Contents" not in seaweed.client().list_objects_v2(Bucket="runs", Prefix=f"{place}/")


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_fresh_machine_of_other_ranks_goes_on(
    whole: Path,
    machine: Callable[..., Path],
    seaweed: Seaweed,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    before: int,
    after: int,
) -> None:
    place = request.node.name
    lost, fresh = machine("lost", processes=before), machine("fresh", processes=after)
    running = start(lost, seaweed, tmp_path / "lost.log")
    wait_for(4, seaweed, place, running)
    kill(running)
    assert start(fresh, seaweed, tmp_path / "fresh.log").wait() == 0, (tmp_path / "fresh.log").read_text()
    told = re.search(r"goes on after step (\d+) of ", (tmp_path / "fresh.log").read_text())
    assert told
    assert int(told[1]) >= 4
    wanted, found = losses(whole), losses(fresh)
    assert min(found) == int(told[1]) + 1
    assert found == pytest.approx({step: wanted[step] for step in found}, abs=FLOAT32)


def test_a_server_killed_and_started_again_is_waited_for_while_training_goes_on(
    whole: Path,
    machine: Callable[..., Path],
    seaweed: Seaweed,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    folder, log = machine("work", checkpoint_minutes=0.001), tmp_path / "log"
    running = start(folder, seaweed, log)
    wait_for(1, seaweed, request.node.name, running)
    os.killpg(running.pid, signal.SIGSTOP)  # a fast machine is done before the server is gone
    seaweed.stop()
    os.killpg(running.pid, signal.SIGCONT)
    while "trying again" not in log.read_text():
        assert running.poll() is None, log.read_text()
        time.sleep(0.01)
    seaweed.start()
    assert running.wait() == 0, log.read_text()
    told = log.read_text()
    assert "trying again for 10 minutes" in told
    assert "answers again, after" in told
    assert weights(folder) == weights(whole)
