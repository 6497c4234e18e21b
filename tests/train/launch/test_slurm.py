"""A stage as a job of a real Slurm cluster of two nodes: equal to one rank, gone when it is not wanted, resumed."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cluster import Cluster, lacking, slurm
from equality import FLOAT32
from micro import ROOT, write_machine
from safetensors.torch import load_file
from started import end, last_end, newest, pulses, start, wait_for, words

from videollava.train.launch.fence import attempt_of

pytestmark = pytest.mark.skipif(bool(lacking()), reason=f"a Slurm cluster: {lacking()}")
WEIGHTS = "models/videollava/model.safetensors"
JOB = {"launcher": "slurm", "nodes": 2}
LONG = "finetune.epochs=500"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with slurm(tmp_path / "slurm") as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        yield made


def check_equal(ours: Path, expected: Path) -> None:
    """Float32 1e-5 over 20 steps: the weights."""
    weights, others = load_file(ours / WEIGHTS), load_file(expected / WEIGHTS)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], rtol=0, atol=FLOAT32, msg=name)


def running_job(folder: Path, *changes: str, **machine: Any) -> subprocess.Popen[str]:
    """A finetune job that has written a checkpoint or two."""
    write_machine(folder, **(JOB | machine))
    running = start(folder, "finetune", *(changes or (LONG,)))
    wait_for(lambda: newest(folder) >= 2, running)
    return running


def check_gone(cluster: Cluster) -> None:
    deadline = time.monotonic() + 20
    while cluster.jobs() or cluster.tasks_of("n1") or cluster.tasks_of("n2"):
        assert time.monotonic() < deadline, (cluster.jobs(), cluster.tasks_of("n1"), cluster.tasks_of("n2"))
        time.sleep(0.1)


def test_a_killed_rank_ends_the_job_and_is_named_and_the_next_job_goes_on(
    cluster: Cluster, workspace: Callable[[str], Path]
) -> None:
    folder, alone = workspace("job"), workspace("alone")
    write_machine(folder, **JOB)
    running = start(folder, "finetune", "finetune.epochs=2")
    wait_for(lambda: newest(folder) >= 2, running)
    os.kill(pulses(folder)[1]["pid"], signal.SIGKILL)
    status, said = end(running)
    check_gone(cluster)
    assert status == 128 + signal.SIGKILL, said
    assert "job 1 of Slurm: running on n[1-2]" in said
    assert "videollava finetune: rank 1 (on " in said
    assert last_end(folder)["status"] == "FAILED"
    resumed, single = (
        start(folder, "finetune", "finetune.epochs=2"),
        start(alone, "finetune", "finetune.epochs=2"),
    )
    status, said = end(resumed)
    assert status == 0, said
    assert "goes on after step" in said
    assert end(single)[0] == 0
    check_equal(folder, alone)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "cancel", "scancel"])
def test_no_process_is_left_of_a_job_that_is_not_wanted_any_more(
    cluster: Cluster, workspace: Callable[[str], Path], how: str
) -> None:
    folder = workspace("job")
    running = running_job(folder)
    if how == "scancel":
        cluster.run("scancel", "1")
    else:
        running.send_signal(signal.SIGKILL if how == "kill" else signal.SIGTERM)
    status, said = end(running)
    check_gone(cluster)
    if how == "scancel":
        assert status == 143
        assert said.splitlines()[-1] == "videollava finetune: job 1 of Slurm was cancelled"


@pytest.mark.slow
def test_a_lost_node_is_resumed_by_slurms_own_requeue(
    cluster: Cluster, workspace: Callable[[str], Path]
) -> None:
    folder, alone = workspace("job"), workspace("alone")
    changes = ("finetune.epochs=2",)
    running = running_job(folder, *changes)
    cluster.lose("n2")
    wait_for(lambda: cluster.state("n2").startswith("down"), running)
    cluster.start("n2")  # it is repaired
    status, said = end(running)
    assert status == 0, said
    assert "started again 1 times" in said
    assert "goes on after step" in said
    assert end(start(alone, "finetune", *changes))[0] == 0
    check_equal(folder, alone)


@pytest.mark.slow
def test_before_its_time_limit_a_job_makes_a_last_checkpoint_and_queues_itself_again(
    cluster: Cluster, workspace: Callable[[str], Path]
) -> None:
    folder = workspace("job")
    write_machine(folder, **JOB, checkpoint_minutes=1e6, slurm={"time": "00:02:00", "notice_seconds": 60})
    running = start(folder, "finetune", "finetune.epochs=5000")
    ranks = folder / "checkpoints/ranks/finetune"
    wait_for(lambda: newest(folder), running)
    wait_for(lambda: attempt_of(ranks).endswith(".1") and pulses(folder).get(0), running)
    kept = newest(folder)
    cluster.run(
        "scontrol", "update", "JobId=1", "TimeLimit=0:30:00"
    )  # a busy machine may need more to end it
    asked = subprocess.run(
        [sys.executable, "-m", "videollava", "finish", "finetune"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    status, said = end(running)
    assert status == 0, said
    assert "a last checkpoint is made; the job is queued again" in said
    assert kept
    assert f"goes on after step {kept:,} of " in said
    assert "finished early" in said


@pytest.mark.slow
def test_an_attempt_that_outlives_its_slurmd_seals_nothing_and_ends(
    cluster: Cluster, workspace: Callable[[str], Path]
) -> None:
    folder = workspace("job")
    running = running_job(folder, nodes=1)
    old = pulses(folder)[0]["pid"]
    (node,) = [node for node in ("n1", "n2") if cluster.tasks_of(node)]
    other = {"n1": "n2", "n2": "n1"}[node]
    # The rank itself stands still, as one in front of a disk that does not answer: it cannot see that it is replaced.
    os.kill(old, signal.SIGSTOP)
    cluster.kill(node)
    wait_for(lambda: cluster.tasks_of(other) and pulses(folder).get(0, {}).get("pid", old) != old, running)
    step = newest(folder)
    wait_for(lambda: newest(folder) > step, running)
    assert old in cluster.tasks_of(node)
    os.kill(old, signal.SIGCONT)
    wait_for(lambda: not Path(f"/proc/{old}").exists() or old not in cluster.tasks_of(node), running)
    assert pulses(folder)[0]["pid"] != old
    assert (folder / "checkpoints/ranks/finetune/attempt").read_text().endswith(".1")
    running.terminate()
    end(running)


@pytest.mark.slow
def test_dvc_repro_makes_the_same_lock_entry_by_a_job_as_alone(
    cluster: Cluster, workspace: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, alone = lay_out(workspace("job")), lay_out(workspace("alone"))
    write_machine(job, **JOB)
    for folder in (job, alone):
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "VIDEOLLAVA_FOLLOWED": "1",
            "DVC_NO_ANALYTICS": "1",
        }
        done = subprocess.run(
            [sys.executable, "-m", "dvc", "repro", "finetune"],
            cwd=folder, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    assert "job 1 of Slurm" in (job / "said").read_text()
    locks = [
        yaml.safe_load((folder / "dvc.lock").read_text())["stages"]["finetune"] for folder in (job, alone)
    ]
    for lock in locks:
        lock.pop("outs")  # equal at 1e-5, not to the bit
    assert locks[0] == locks[1]
    check_equal(job, alone)


def lay_out(folder: Path) -> Path:
    """A graph of the one stage in a repository of its own."""
    line = " ".join(f"'{word}'" for word in words("finetune", "finetune.epochs=2"))
    stage = {
        "cmd": f"{sys.executable} -m videollava {line} 2>&1 | tee said; exit ${{PIPESTATUS[0]}}",
        "deps": ["data/index", "models/bases", "models/encoders"],
        "outs": ["models/videollava", "plots/finetune.csv"],
    }
    stage["cmd"] = f"bash -c {_quoted(str(stage['cmd']))}"
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"finetune": stage}}))
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=folder, check=True)
    return folder


def _quoted(text: str) -> str:
    return shlex.quote(text).replace("${", "\\${")


def test_what_slurm_refuses_is_told_before_any_work(
    cluster: Cluster, workspace: Callable[[str], Path]
) -> None:
    folder = workspace("job")
    write_machine(folder, **JOB, slurm={"partition": "gpu"})
    status, said = end(start(folder, "finetune"))
    assert status == 2
    assert said.splitlines()[-1].startswith(
        "videollava finetune: Slurm refuses the job: Batch job submission failed: Invalid partition name"
    )
    assert "(partitions: main): see slurm in machine.yaml" in said
    assert not (folder / "runs").exists()
