"""The Job or JobSet of an attempt: what the cluster's own kustomization says, and what a launch adds to it.

All that is a cluster's (image, volume, tolerations, queue, secrets) is in the kustomization, in Kubernetes' own
language. A launch adds names, the number of pods, GPUs, the command and where the ranks meet.
"""

from __future__ import annotations

import copy
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from videollava.environment import RANKS, SUPERVISED
from videollava.errors import InputError
from videollava.machine import Kubernetes, Work
from videollava.train.launch.agent import ADDRESS, NODE, NUMBER, SECONDS
from videollava.train.launch.kubernetes.kubectl import build
from videollava.train.launch.kubernetes.pods import CONTAINER, INDEX

__all__ = ["ATTEMPT", "LAUNCH", "ROOM", "Launch", "fill", "plan_launch", "read_launch"]

LAUNCH = "videollava/launch"  # label of all that belongs to one launch
ATTEMPT = "videollava/attempt"
STAGE = "videollava/stage"
PLANNED = "launch.json"
ROOM = 5  # seconds of a pod beyond those for a last checkpoint
GPU = "nvidia.com/gpu"
# What ranks are told of the launcher's environment: how they talk to each other, and what is ours.
TOLD = re.compile(r"(VIDEOLLAVA|NCCL|GLOO|TORCH|PYTORCH|TP|OMP|UCX|FI|CUDA_DEVICE)_")
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|WEBHOOK|CREDENTIAL", re.I)
LAUNCHERS_POD = (
    "POD_NAME",
    "POD_UID",
    "POD_NAMESPACE",
)  # by the downward API, where the launcher is a pod itself


@dataclass(frozen=True)
class Launch:
    """What the launcher's process needs of one launch; it lies in the launch's folder as JSON."""

    name: str
    stage: str
    nodes: int
    context: str
    namespace: str
    ending_seconds: float
    manifests: Sequence[Mapping[str, Any]]

    def title(self, number: int) -> str:
        """The Job's name."""
        return f"videollava-{self.stage}-{self.name}-{number}"


def plan_launch(
    folder: Path, name: str, stage: str, work: Work, asked: Kubernetes, agent: Sequence[str], path: str
) -> Launch:
    """Build the kustomization and complete it with all that is the same in every attempt; it is written to `folder`.

    path: PYTHONPATH of the ranks. InputError where it cannot be built, or does not fit.
    """
    place = find_manifests(asked.manifests)
    found = [one for one in yaml.safe_load_all(build(place)) if one]
    job = _job_of(_one_workload(found, place))
    job |= {
        "completions": work.nodes,
        "parallelism": work.nodes,
        "completionMode": "Indexed",
        "backoffLimit": 0,
    }
    pod = job["template"]["spec"]
    pod["restartPolicy"] = "Never"
    pod["terminationGracePeriodSeconds"] = math.ceil(work.ending_seconds) + ROOM
    ranks = _container(pod, place)
    _check_shared(pod, ranks, folder, place)
    ranks["command"] = ["python", "-P", *agent]
    ranks.pop("args", None)
    ranks["workingDir"] = str(Path.cwd())
    if asked.image:
        ranks["image"] = asked.image
    _ask_gpus(ranks, work.per_node if work.gpus else 0)
    own = {RANKS: str(folder), SECONDS: str(work.ending_seconds), "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    ranks["env"] = _merged(ranks.get("env", ()), {**_told(os.environ), **own})
    launch = Launch(name, stage, work.nodes, asked.context, asked.namespace, work.ending_seconds, found)
    (folder / PLANNED).write_text(json.dumps(asdict(launch), indent=1))
    return launch


def read_launch(folder: Path) -> Launch:
    """What `plan_launch` wrote."""
    return Launch(**json.loads((folder / PLANNED).read_text()))


def fill(launch: Launch, number: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(the workload of attempt `number`, the Services that go with it)."""
    title, labels = launch.title(number), {LAUNCH: launch.name, ATTEMPT: str(number), STAGE: launch.stage}
    documents = copy.deepcopy([dict(one) for one in launch.manifests])
    for one in documents:
        one["metadata"]["name"] = title
        one["metadata"]["labels"] = {**one["metadata"].get("labels", {}), **labels}
        if launch.namespace:
            one["metadata"]["namespace"] = launch.namespace
    workload = next(one for one in documents if _is_workload(one))
    workload["metadata"] |= _owned_by_launcher(launch)
    template = _job_of(workload)["template"]
    template.setdefault("metadata", {})
    template["metadata"]["labels"] = {**template["metadata"].get("labels", {}), **labels}
    pod = template["spec"]
    if workload["kind"] == "JobSet":  # it names its pods, and brings their Service
        host = f"{title}-{workload['spec']['replicatedJobs'][0]['name']}-0"
    else:
        host, pod["subdomain"] = title, title
    ranks = next(one for one in pod["containers"] if one["name"] == CONTAINER)
    index = {"name": NODE, "valueFrom": {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX}']"}}}
    where = {"name": ADDRESS, "value": f"{host}-$({NODE}).{title}"}
    ranks["env"] = [*ranks["env"], index, where, {"name": NUMBER, "value": str(number)}]
    services = [one for one in documents if one["kind"] == "Service"]
    for one in services:
        one["spec"]["selector"] = dict(labels)
    return workload, services


def find_manifests(named: str) -> Path:
    """A path of its own, or one of the code's checkout."""
    root = Path(__file__).parents[4]
    place = root / Path(named).expanduser()
    if not place.is_dir():
        raise InputError(f"machine.yaml: kubernetes.manifests is {named}, and {place} is no folder")
    return place


def _is_workload(document: Mapping[str, Any]) -> bool:
    return document.get("kind") in ("Job", "JobSet")


def _one_workload(documents: Iterable[dict[str, Any]], place: Path) -> dict[str, Any]:
    others = sorted({one["kind"] for one in documents if not _is_workload(one) and one["kind"] != "Service"})
    found = [one for one in documents if _is_workload(one)]
    if others or len(found) != 1:
        more = f" and {', '.join(others)}" if others else ""
        raise InputError(
            f"{place}: has {len(found)} Jobs or JobSets{more}: ranks run as one of them, with its Service and nothing "
            "else (see kubernetes.manifests in machine.yaml)"
        )
    return found[0]


def _job_of(workload: dict[str, Any]) -> dict[str, Any]:
    """The spec of the Job in it."""
    if workload["kind"] == "Job":
        job: dict[str, Any] = workload["spec"]
        return job
    parts = workload["spec"]["replicatedJobs"]
    if len(parts) != 1 or parts[0].get("replicas", 1) != 1:
        raise InputError(
            "a JobSet for ranks has one replicated job with one replica: their number is the launch's"
        )
    inner: dict[str, Any] = parts[0]["template"]["spec"]
    return inner


def _container(pod: Mapping[str, Any], place: Path) -> dict[str, Any]:
    for one in pod["containers"]:
        if one["name"] == CONTAINER:
            found: dict[str, Any] = one
            return found
    raise InputError(f"{place}: no container of its pods has the name {CONTAINER}")


def _check_shared(pod: Mapping[str, Any], ranks: Mapping[str, Any], folder: Path, place: Path) -> None:
    """Whether pods see the launch's folder where it is here."""
    volumes = {
        one["name"] for one in pod.get("volumes", ()) if not {"emptyDir", "configMap", "secret"} & one.keys()
    }
    mounts = [Path(one["mountPath"]) for one in ranks.get("volumeMounts", ()) if one["name"] in volumes]
    if not any(folder.is_relative_to(one) for one in mounts):
        seen = ", ".join(map(str, mounts)) or "no shared volume"
        raise InputError(
            f"the pods of {place} share {seen}, and this checkout lies in {Path.cwd()}: it has to be on the volume "
            "that they mount, at the same path"
        )


def _ask_gpus(ranks: dict[str, Any], gpus: int) -> None:
    """So many, by the name that the kustomization has for them; none on a CPU."""
    resources = ranks.setdefault("resources", {})
    names = [key for key in resources.get("limits", {}) if key.endswith("/gpu")] or [GPU]
    for kind in ("limits", "requests"):
        kept = {key: value for key, value in resources.get(kind, {}).items() if key not in names}
        if gpus and (kind == "limits" or names[0] in resources.get(kind, {})):
            kept[names[0]] = str(gpus)
        if kept or kind in resources:
            resources[kind] = kept


def _told(environment: Mapping[str, str]) -> dict[str, str]:
    """Of the launcher's environment what ranks are told. The manifest is no secret place: keys come by `envFrom`."""
    leave = (SUPERVISED, RANKS, SECONDS, NODE, NUMBER, ADDRESS)
    return {
        name: value
        for name, value in sorted(environment.items())
        if TOLD.match(name) and name not in leave and not SECRET.search(name)
    }


def _merged(env: Iterable[Mapping[str, Any]], more: Mapping[str, str]) -> list[Mapping[str, Any]]:
    kept = [one for one in env if one["name"] not in more]
    return [*kept, *({"name": name, "value": value.replace("$(", "$$(")} for name, value in more.items())]


def _owned_by_launcher(launch: Launch) -> dict[str, Any]:
    """Where the launcher is a pod, the cluster itself ends the ranks when that pod is gone, its node lost.

    In another namespace or cluster that pod is not known, and what it owns would be taken for left over.
    """
    name, uid, where = (os.environ.get(one, "") for one in LAUNCHERS_POD)
    if not (name and uid and where) or launch.context or launch.namespace not in ("", where):
        return {}
    return {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}]}
