"""pools.yaml: work pools with slots and queues on a real server, and what stands behind them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows import pools as made
from videollava.cli import main
from videollava.errors import InputError
from videollava.machine.pools import PRIORITIES, Pool, load_pool, load_pools, machine_of

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_files_own_pools_have_one_slot_where_gpus_are() -> None:
    pools = load_pools(REPOSITORY)
    assert {"local", "team", "data", "gpu", "eval"} <= set(pools)
    assert (pools["gpu"].slots, pools["gpu"].worker) == (1, 1)
    assert pools["local"] == Pool()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("gpu: {slot: 1}", "slot"),
        ("gpu: {slots: 0}", "slots"),
        ("gpu: {slots: 1, queues: {background: 2}}", "more than the pool's slots"),
        ("gpu: {slots: 2, queues: {soon: 1}}", "soon"),
        ("gpu: 3", "must be a mapping"),
        ("my pool: {slots: 1}", "a pool's name"),
    ],
)
def test_mistakes_are_told_with_their_place(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "pools.yaml").write_text(text)
    with pytest.raises(InputError, match=told) as caught:
        load_pools(tmp_path)
    assert str(tmp_path / "pools.yaml") in str(caught.value)


def test_what_stands_behind_a_pool(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("gpus: 4\ncost: {per_gpu_hour: 2.5}\n")
    (tmp_path / "all.yaml").write_text("strategy: sharded\n")
    (tmp_path / "pools.yaml").write_text(
        "a: {machine: mine.yaml, gpu: H100}\nb: {machine: 8x80g}\nc:\nd: {machine: no.yaml}\ne: {machine: all.yaml}\n"
    )
    machine, kind = machine_of("a", tmp_path)
    assert (machine.work("finetune").ranks, machine.cost.per_gpu_hour, kind) == (4, 2.5, "H100")
    assert machine_of("b", tmp_path)[0].work("finetune").ranks == 8
    for name, told in (
        ("c", "is not set"),
        ("d", "neither a preset nor a file"),
        ("e", "write their number"),
    ):
        with pytest.raises(InputError, match=told):
            machine_of(name, tmp_path)
    with pytest.raises(InputError, match=r"no pool 'gpus'; there are: a, b, c, d, e"):
        load_pool("gpus", tmp_path)
    with pytest.raises(InputError, match="no such file"):
        load_pool("gpu", tmp_path / "nowhere")


def settle(folder: Path, api: str, *arguments: str) -> tuple[int, list[str]]:
    """The command, as a person types it."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PREFECT_API_URL": api}
    environment["PREFECT_HOME"] = str(folder)
    done = subprocess.run(
        [sys.executable, "-m", "flows.pools", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).splitlines()


def test_pools_slots_and_queues_are_as_the_file_says(prefect_api: str, tmp_path: Path) -> None:
    from prefect.client.orchestration import SyncPrefectClient

    file = tmp_path / "pools.yaml"
    file.write_text("p-gpu: {slots: 1}\np-data: {slots: 4, queues: {background: 1}}\n")
    with SyncPrefectClient(prefect_api) as client:
        assert made.settle(client, load_pools(tmp_path), tmp_path, change=False) == [
            "p-gpu: made (process, 1 slot)",
            "p-data: made (process, 4 slots)",
        ]
    status, told = settle(tmp_path, prefect_api)
    assert (status, told[0]) == (0, "p-gpu: made (process, 1 slot)")
    assert settle(tmp_path, prefect_api, "--check") == (0, ["2 pools are as pools.yaml says"])
    with SyncPrefectClient(prefect_api) as client:
        pool = client.read_work_pool("p-gpu")
        assert (pool.concurrency_limit, pool.type) == (1, "process")
        assert pool.base_job_template["job_configuration"]["command"] == "{{ command }}"
        queues = client.read_work_queues(work_pool_name="p-data")
        assert {q.name: (q.priority, q.concurrency_limit) for q in queues} == {
            "urgent": (1, None),
            "default": (2, None),
            "background": (3, 1),
        }
        # Somebody changes it by hand, and adds a queue; a file that says otherwise has the last word on its own.
        client.create_work_queue("mine", work_pool_name="p-gpu", priority=1)
        file.write_text("p-gpu: {slots: 2}\np-data: {slots: 4}\n")
        told = made.settle(client, load_pools(tmp_path), tmp_path)
        assert told[0] == "p-gpu: 1 slot -> 2"
        assert "p-data/background: slots 1 -> None" in told
        assert made.settle(client, load_pools(tmp_path), tmp_path) == []
        order = sorted(client.read_work_queues(work_pool_name="p-gpu"), key=lambda queue: queue.priority)
        assert [queue.name for queue in order if queue.name != "mine"] == list(PRIORITIES)
        file.write_text("p-gpu: {type: docker}\n")
        with pytest.raises(InputError, match="a pool keeps its type"):
            made.settle(client, load_pools(tmp_path), tmp_path)


def test_a_slot_is_taken_once_and_by_the_most_urgent(prefect_api: str, tmp_path: Path) -> None:
    """What a worker is given: evaluation and training in one pool never at once, an urgent one first."""
    from prefect import flow
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.states import Completed, Running

    with SyncPrefectClient(prefect_api) as client:
        (tmp_path / "pools.yaml").write_text("p-one: {slots: 1}\n")
        made.settle(client, load_pools(tmp_path), tmp_path)
        kinds = {
            name: client.create_deployment(
                client.create_flow(flow(lambda: None, name=name)), name, work_pool_name="p-one"
            )
            for name in ("train", "evaluate")
        }
        asked = [("train", "background"), ("evaluate", "default"), ("train", "urgent")]
        for kind, queue in asked:
            client.create_flow_run_from_deployment(kinds[kind], work_queue_name=queue, name=queue)
        served = []
        for _ in asked:
            (given,) = client.get_scheduled_flow_runs_for_work_pool("p-one")
            served.append(given.flow_run.name)
            client.set_flow_run_state(given.flow_run.id, Running(), force=True)
            assert client.get_scheduled_flow_runs_for_work_pool("p-one") == []
            client.set_flow_run_state(given.flow_run.id, Completed(), force=True)
        assert served == ["urgent", "default", "background"]


def test_a_plan_for_what_stands_behind_a_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(REPOSITORY / "videollava/profiles/tiny.yaml", tmp_path / "params.yaml")
    (tmp_path / "mine.yaml").write_text("nodes: 2\nlauncher: slurm\ngpus: 4\ncost: {per_gpu_hour: 2.5}\n")
    (tmp_path / "pools.yaml").write_text(
        "gpu: {machine: mine.yaml, gpu: H100}\nother: {machine: mine.yaml}\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ["plan", "--samples", "pretrain=500,0,0", "--samples", "finetune=500,0,0", "--json", "--pool"]
    assert main([*words, "gpu"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["hardware"]["kind"], told["hardware"]["gpus"], told["hardware"]["per_node"]) == (
        "H100",
        8,
        4,
    )
    assert told["cost"] == pytest.approx(2.5 * told["gpu_hours"])
    assert main([*words, "other"]) == 2
    assert "other: gpu, the kind of its GPUs, is not set; set it, or give --gpu" in capsys.readouterr().err


def test_a_priority_is_the_queue_of_the_stages(prefect_api: str, tmp_path: Path) -> None:
    from prefect import flow
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.team.pools import Group
    from flows.team.runs import _start
    from flows.team.stage import Order

    order = Order(key=f"k{os.getpid()}", stages=("align",), commit="c" * 40, parent="me")
    with temporary_settings({PREFECT_API_URL: prefect_api}), SyncPrefectClient(prefect_api) as client:
        (tmp_path / "pools.yaml").write_text("p-stage: {slots: 1}\n")
        made.settle(client, load_pools(tmp_path), tmp_path)
        stage = client.create_flow(flow(lambda: None, name="stage"))
        client.create_deployment(stage, "p-stage", work_pool_name="p-stage")
        run, mine, over = _start(Group("p-stage", ("align",)), order, 1, "urgent")
        assert (run.work_queue_name, mine, over) == ("urgent", True, False)
        again, mine, _ = _start(
            Group("p-stage", ("align",)), order.model_copy(update={"parent": "you"}), 1, "background"
        )
        assert (again.id, again.work_queue_name, mine) == (run.id, "urgent", False)
