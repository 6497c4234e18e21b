"""A retraining by a team: coordinator, data and gpu worker in checkouts of their own, over git, DVC and MLflow."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ground import MACHINE, Ground, git, team

from videollava.params import Tracking
from videollava.tracking.store import connect

FIRST = ["fetch@toy 2 0 0", "shards@toy 2 0 0", "finetune 2 0 0", "evaluate 2 0 0"]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """The servers and workers, and a first retraining done."""
    with team(tmp_path_factory.mktemp("team")) as stood:
        retrain(stood)
        yield stood


def retrain(ground: Ground, parameters: dict[str, Any] = {}, **expected: str) -> str:  # noqa: B006
    run = ground.trigger(parameters)
    (done,) = ground.wait(run, seconds=900)
    assert done["state_type"] == expected.get("state", "COMPLETED"), ground.logs(run)
    return run


def tags_of(ground: Ground) -> list[dict[str, Any]]:
    store = connect(ground.folder, Tracking(uri=ground.mlflow))
    return [{"id": run.info.run_id, **run.data.tags} for run in store.client.search_runs([store.experiment])]


@pytest.mark.slow
def test_each_stage_runs_once_on_its_pool_and_all_is_told_as_on_one_machine(ground: Ground) -> None:
    assert ground.ran()[:4] == FIRST
    children = ground.runs("stage")[:2]
    assert [child["work_pool_name"] for child in children] == ["data", "gpu"]
    runs = tags_of(ground)
    parent = [run for run in runs if run["mlflow.runName"] == "retrain"][-1]
    for stage in ("fetch@toy", "shards@toy", "finetune", "evaluate"):
        (made,) = [run for run in runs if run["mlflow.runName"] == stage]
        assert made["mlflow.parentRunId"] == parent["id"]
        assert made["stage_key"]
        assert made["commit"] == git(ground.origin, "rev-parse", "main").strip()
        assert parent[f"outcome.{stage.replace('@', ':')}"] == "ran"
    lead = ground.folder / "worker-team"
    (saved,) = git(lead, "for-each-ref", "--format=%(objectname)", "refs/exps").split()
    made = json.loads(git(lead, "show", f"{saved}:made.json"))
    assert set(made["hours"]) == {"fetch@toy", "shards@toy", "finetune", "evaluate"}
    assert saved in git(ground.origin, "for-each-ref", "refs/exps")
    assert git(ground.origin, "for-each-ref", "refs/videollava/runs") == ""
    assert not (ground.folder / "worker-gpu" / "dvc.lock").exists()
    # The lock that a worker noted came back, and its weights did not travel to the coordinator.
    assert "noted" in git(lead, "show", f"{saved}:locks/toy.json")
    assert not [*lead.glob(".prefect/workspaces/*/models/videollava/*")]


@pytest.mark.slow
def test_a_second_trigger_starts_nothing_and_equal_ones_are_one(ground: Ground) -> None:
    before, children, began = ground.ran(), len(ground.runs("stage")), time.monotonic()
    retrain(ground)
    print(f"a trigger with nothing to do took {time.monotonic() - began:.0f} s")
    twins = [ground.trigger({"changes": {"seed": 9}}) for _ in range(2)]
    states = {run["state_type"] for run in ground.wait(*twins, seconds=900)}
    assert states == {"COMPLETED"}
    assert sorted(ground.ran()[len(before) :]) == ["evaluate 2 9 0", "finetune 2 9 0"]
    assert len(ground.runs("stage")) == children + 1
    assert any("does this very retraining" in ground.logs(run) for run in twins)


@pytest.mark.slow
def test_ten_triggers_compute_nothing_twice_and_all_end(ground: Ground) -> None:
    before = len(ground.ran())
    asked = [
        {"changes": {"seed": seed, "evaluate": {"limit": limit}}} for seed in range(1, 6) for limit in (1, 2)
    ]
    runs = ground.wait(*(ground.trigger(one) for one in asked), seconds=1800)
    assert {run["state_type"] for run in runs} == {"COMPLETED"}
    ran = ground.ran()[before:]
    wanted = [f"finetune 2 {seed}" for seed in range(1, 6)]
    assert sorted({line.rpartition(" ")[0] for line in ran if line.startswith("finetune")}) == wanted
    assert len([line for line in ran if line.startswith("finetune")]) == 5, ran
    assert sorted(line for line in ran if line.startswith("evaluate")) == sorted(
        f"evaluate 2 {seed} {limit}" for seed in range(1, 6) for limit in (1, 2)
    )
    assert not [line for line in ran if line.startswith(("fetch", "shards"))]


@pytest.mark.slow
def test_a_third_checkout_restores_all_and_a_changed_line_runs_what_it_must(ground: Ground) -> None:
    before = len(ground.ran())
    third = ground.clone("third")
    saved = git(
        ground.origin, "for-each-ref", "--format=%(objectname)", "--sort=creatordate", "refs/exps"
    ).split()[0]
    git(third, "fetch", "--quiet", "origin", "refs/exps/*:refs/exps/*")
    git(third, "checkout", "--quiet", saved)
    line = [sys.executable, "-m", "dvc", "repro", "--pull"]
    done = subprocess.run(line, cwd=third, env=ground.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (third / "models/videollava/model.safetensors").read_text() == "weights after 2 of 0"
    assert len(ground.ran()) == before

    git(third, "checkout", "--quiet", "main")
    params = (third / "params.yaml").read_text()
    (third / "params.yaml").write_text(params.replace("shard_mib: 64", "shard_mib: 32"))
    git(
        third, "checkout", "--quiet", saved, "--", "locks"
    )  # a source that no lock pins is looked at each time
    git(third, "commit", "--quiet", "-am", "smaller shards")
    git(third, "push", "--quiet", "origin", "main")
    retrain(ground)
    # The same rows in shards of another size: what reads them finds what it had.
    assert ground.ran()[before:] == ["shards@toy 2 0 0"]


@pytest.mark.slow
def test_a_worker_that_shares_no_remote_or_no_registry_refuses_before_work(ground: Ground) -> None:
    before = len(ground.ran())
    config = ground.folder / "worker-gpu/.dvc/config.local"
    text = config.read_text()
    config.write_text(text.replace(str(ground.folder / "remote"), str(ground.folder / "elsewhere")))
    run = retrain(ground, {"changes": {"seed": 77}}, state="FAILED")
    assert "DVC's default remote is not the coordinator's" in ground.run(run)["state"]["message"]
    config.write_text(text)

    lead = ground.folder / "worker-team"
    (lead / "machine.yaml").write_text(MACHINE.replace("gpu: gpu", "gpu: none"))
    run = retrain(ground, {"changes": {"seed": 78}}, state="FAILED")
    assert "no deployment stage/none" in ground.run(run)["state"]["message"]
    (lead / "machine.yaml").write_text(MACHINE)
    assert len(ground.ran()) == before
    retrain(ground, {"changes": {"seed": 77}})  # the attempt that was refused is no obstacle
    assert ground.ran()[before:] == ["finetune 2 77 0", "evaluate 2 77 0"]


@pytest.mark.slow
def test_a_worker_says_what_it_lacks(ground: Ground, tmp_path: Path) -> None:
    root = tmp_path / "bare"
    shutil.copytree(
        ground.folder / "worker-data", root, symlinks=True, ignore=shutil.ignore_patterns(".prefect", "runs")
    )

    def start(**changed: str) -> str:
        environment = {**ground.environment, "PYTHONPATH": str(root), **changed}
        line = [sys.executable, "-m", "flows.worker", "data"]
        done = subprocess.run(line, cwd=root, env=environment, capture_output=True, text=True)
        assert done.returncode == 2, done.stdout + done.stderr
        return done.stderr

    assert "MLFLOW_TRACKING_URI names the team's server" in start(MLFLOW_TRACKING_URI="")
    assert "no server answers there" in start(PREFECT_API_URL="http://127.0.0.1:9/api")
    (root / ".dvc/config.local").unlink()
    assert "DVC has no default remote" in start()
    git(root, "remote", "remove", "origin")
    assert "git has no remote origin" in start()
