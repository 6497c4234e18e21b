"""What the stand-in for a Kubernetes cluster does (kube_api is its door): pods are processes of this host.

It plays what a launch meets: discovery, the core schemas, Jobs (indexed, backoffLimit 0) and JobSets, the scheduler,
kubelets with their grace, logs that follow. What it is not: a scheduler's or a controller's own code.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kubernetes_validate

VERSION = "1.35"
INDEX = "batch.kubernetes.io/job-completion-index"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class Refusal(Exception):
    def __init__(self, code: int, reason: str, message: str) -> None:
        self.code, self.reason, self.message = code, reason, message


class Api:
    """The cluster. Tests set what goes wrong: `hold`, `pulling`, `quota`, `refuse`, `suspend`, `down`."""

    def __init__(self, folder: Path, schema: bool = True) -> None:
        self.folder, self.schema = folder, schema
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.killed_at: dict[str, float] = {}
        self.lock = threading.RLock()
        self.hold = ""  # the scheduler's words
        self.holds = range(0)  # indices of pods that this is for; empty: all
        self.pulling: dict[str, str] = {}  # of containers: reason, message
        self.quota = ""  # what refuses pods
        self.refuse: Refusal | None = None  # of the next creation
        self.suspend = False  # a queue holds jobs
        self.down = False
        self.calls: list[str] = []
        self.created: list[dict[str, Any]] = []
        self.deleted: list[tuple[str, str]] = []  # (name, propagation)
        self.cuts = 0  # log streams that break off before the end
        self._stop = threading.Event()

    # What the launcher asks.

    def create(self, plural: str, body: dict[str, Any]) -> dict[str, Any]:
        if self.refuse:
            refusal, self.refuse = self.refuse, None
            raise refusal
        if self.schema and plural != "jobsets":
            kubernetes_validate.validate(body, VERSION, strict=True)
        name = body["metadata"]["name"]
        with self.lock:
            if (plural, name) in self.objects:
                raise Refusal(409, "AlreadyExists", f'{plural} "{name}" already exists')
            body["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": now(), "resourceVersion": "1"}
            body["status"] = {"conditions": []}
            if self.suspend and plural != "services":
                body["spec"]["suspend"] = True
            self.objects[plural, name] = body
            self.created.append(json.loads(json.dumps(body)))
        return body

    def delete(self, plural: str, name: str, options: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            found = self.objects.get((plural, name))
            if found is None:
                raise Refusal(404, "NotFound", f'{plural} "{name}" not found')
            self.deleted.append((name, options.get("propagationPolicy", "")))
            if plural == "pods":
                self._end_pod(found, options.get("gracePeriodSeconds"))
            else:
                found["metadata"]["deletionTimestamp"] = now()
                self._end_children(found)
        return found

    def _end_children(self, owner: dict[str, Any]) -> None:
        for (plural, name), one in list(self.objects.items()):
            if any(
                ref["uid"] == owner["metadata"]["uid"] for ref in one["metadata"].get("ownerReferences", ())
            ):
                if plural == "pods":
                    self._end_pod(one, None)
                elif plural == "services":
                    del self.objects[plural, name]
                else:
                    one["metadata"]["deletionTimestamp"] = now()
                    self._end_children(one)

    def _end_pod(self, pod: dict[str, Any], grace: int | None) -> None:
        name = pod["metadata"]["name"]
        if grace == 0:
            self._signal(name, signal.SIGKILL)
            self.objects.pop(("pods", name), None)
            return
        if "deletionTimestamp" not in pod["metadata"]:
            pod["metadata"]["deletionTimestamp"] = now()
            self.killed_at[name] = time.monotonic() + pod["spec"]["terminationGracePeriodSeconds"]
            self._signal(name, signal.SIGTERM)

    def _signal(self, name: str, number: int) -> None:
        if (running := self.processes.get(name)) and running.poll() is None:
            with suppress(ProcessLookupError):
                if number == signal.SIGKILL:  # the container with all that is in it
                    os.killpg(running.pid, number)
                else:
                    os.kill(running.pid, number)

    # What the cluster does.

    def work(self) -> None:
        while not self._stop.wait(0.05):
            with self.lock:
                for (plural, _), one in list(self.objects.items()):
                    if plural == "jobsets":
                        self._jobset(one)
                for (plural, _), one in list(self.objects.items()):
                    if plural == "jobs":
                        self._job(one)
                for (plural, _), one in list(self.objects.items()):
                    if plural == "pods":
                        self._pod(one)
                there = {one["metadata"]["uid"] for one in self.objects.values() if "uid" in one["metadata"]}
                for key, one in list(self.objects.items()):
                    owners = [
                        ref["uid"]
                        for ref in one["metadata"].get("ownerReferences", ())
                        if ref["kind"] != "Pod"
                    ]
                    if key[0] != "pods" and owners and not there.intersection(owners):
                        del self.objects[key]

    def stop(self) -> None:
        self._stop.set()
        for name in list(self.processes):
            self._signal(name, signal.SIGKILL)

    def pods(self) -> list[dict[str, Any]]:
        with self.lock:
            found = [one for (plural, _), one in self.objects.items() if plural == "pods"]
        return sorted(found, key=lambda pod: pod["metadata"]["annotations"][INDEX])

    def owned(self, owner: dict[str, Any]) -> list[dict[str, Any]]:
        uid = owner["metadata"]["uid"]
        return [one for one in self.pods() if one["metadata"]["ownerReferences"][0]["uid"] == uid]

    def _jobset(self, jobset: dict[str, Any]) -> None:
        part = jobset["spec"]["replicatedJobs"][0]
        name = f"{jobset['metadata']['name']}-{part['name']}-0"
        job = self.objects.get(("jobs", name))
        if "deletionTimestamp" in jobset["metadata"]:
            if job is None:
                del self.objects["jobsets", jobset["metadata"]["name"]]
        elif job is None:
            spec = json.loads(json.dumps(part["template"]["spec"]))
            spec["template"]["spec"]["subdomain"] = jobset["metadata"]["name"]
            owner = {
                "apiVersion": jobset["apiVersion"],
                "kind": "JobSet",
                "name": jobset["metadata"]["name"],
                "uid": jobset["metadata"]["uid"],
            }
            metadata = {
                "name": name,
                "namespace": jobset["metadata"].get("namespace", "default"),
                "ownerReferences": [owner],
            }
            self.create("jobs", {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec})
        else:
            words = {"Complete": "Completed", "Failed": "Failed"}
            done = [words[one["type"]] for one in job["status"]["conditions"] if one["type"] in words]
            jobset["status"]["conditions"] = [{"type": kind, "status": "True"} for kind in done]

    def _job(self, job: dict[str, Any]) -> None:
        pods, name = self.owned(job), job["metadata"]["name"]
        if "deletionTimestamp" in job["metadata"]:
            for pod in pods:
                self._end_pod(pod, None)
            if not pods:
                del self.objects["jobs", name]
            return
        conditions = {one["type"] for one in job["status"]["conditions"]}
        if conditions & {"Complete", "Failed"}:
            return
        if job["spec"].get("suspend"):
            for pod in pods:
                self._end_pod(pod, None)
            return
        failed = [pod for pod in pods if pod["status"]["phase"] == "Failed"]
        if failed:
            others = [pod for pod in pods if pod["status"]["phase"] in ("Pending", "Running")]
            for pod in others:
                self._end_pod(pod, None)
            self._condition(job, "FailureTarget", "BackoffLimitExceeded")
            if not others:
                self._condition(job, "Failed", "BackoffLimitExceeded")
        elif len(pods) == job["spec"]["completions"] and all(
            p["status"]["phase"] == "Succeeded" for p in pods
        ):
            self._condition(job, "Complete", "CompletionsReached")
        elif self.quota:
            self._event(
                job,
                "FailedCreate",
                f'Error creating: pods "{name}-0-{uuid.uuid4().hex[:5]}" is forbidden: {self.quota}',
            )
        elif not pods:
            for index in range(job["spec"]["completions"]):
                self._new_pod(job, index)

    def _condition(self, job: dict[str, Any], kind: str, reason: str) -> None:
        if kind not in {one["type"] for one in job["status"]["conditions"]}:
            said = {"type": kind, "status": "True", "reason": reason, "message": f"Job has {reason}"}
            job["status"]["conditions"].append(said)

    def _event(self, about: dict[str, Any], reason: str, message: str) -> None:
        name = f"{about['metadata']['name']}.{uuid.uuid4().hex[:8]}"
        involved = {"kind": about["kind"], "name": about["metadata"]["name"]}
        self.objects["events", name] = {
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "type": "Warning",
            "reason": reason, "message": message, "involvedObject": involved,
        }  # fmt: skip

    def _new_pod(self, job: dict[str, Any], index: int) -> None:
        template, owner = job["spec"]["template"], job["metadata"]
        name = f"{owner['name']}-{index}-{uuid.uuid4().hex[:5]}"
        self.objects["pods", name] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": owner.get("namespace", "default"),
                "uid": str(uuid.uuid4()),
                "labels": dict(template["metadata"].get("labels", {})),
                "annotations": {INDEX: str(index)},
                "ownerReferences": [
                    {"apiVersion": "batch/v1", "kind": "Job", "name": owner["name"], "uid": owner["uid"]}
                ],
            },
            "spec": {**json.loads(json.dumps(template["spec"])), "hostname": f"{owner['name']}-{index}"},
            "status": {"phase": "Pending", "conditions": [], "containerStatuses": []},
        }

    def _pod(self, pod: dict[str, Any]) -> None:
        name, status = pod["metadata"]["name"], pod["status"]
        index = int(pod["metadata"]["annotations"][INDEX])
        running = self.processes.get(name)
        if running is None and "deletionTimestamp" in pod["metadata"]:
            del self.objects["pods", name]
        elif running is None and status["phase"] == "Pending":
            if self.hold and (not self.holds or index in self.holds):
                reason = {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": self.hold,
                }
                status["conditions"] = [reason]
                return
            status["conditions"] = [{"type": "PodScheduled", "status": "True"}]
            pod["spec"]["nodeName"] = f"n{index + 1}"
            if self.pulling:
                status["containerStatuses"] = [{"name": "ranks", "state": {"waiting": self.pulling}}]
                return
            self._start(pod, index)
        elif running is not None and running.poll() is not None and status["phase"] in ("Running", "Unknown"):
            code = running.returncode if running.returncode >= 0 else 128 - running.returncode
            status["phase"] = "Failed" if code else "Succeeded"
            state = {
                "terminated": {
                    "exitCode": code,
                    "finishedAt": now(),
                    "reason": "Error" if code else "Completed",
                }
            }
            status["containerStatuses"] = [{"name": "ranks", "state": state}]
            with suppress(ProcessLookupError):  # what else is in the container ends with its first process
                os.killpg(running.pid, signal.SIGKILL)
        elif running is not None and running.poll() is not None and "deletionTimestamp" in pod["metadata"]:
            del self.objects["pods", name]
        elif "deletionTimestamp" in pod["metadata"] and time.monotonic() > self.killed_at[name]:
            self._signal(name, signal.SIGKILL)

    def _start(self, pod: dict[str, Any], index: int) -> None:
        container = next(one for one in pod["spec"]["containers"] if one["name"] == "ranks")
        command = [sys.executable if word == "python" else word for word in container["command"]]
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "JOB_COMPLETION_INDEX": str(index),
        }
        for one in container["env"]:
            environment[one["name"]] = self._value(one, pod, environment)
        log = open(self.folder / f"{pod['metadata']['name']}.log", "wb")  # noqa: SIM115
        with log:
            process = subprocess.Popen(
                command, cwd=container["workingDir"], env=environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.processes[pod["metadata"]["name"]] = process
        pod["status"] |= {"phase": "Running", "podIP": f"127.0.0.{index + 1}"}
        pod["status"]["containerStatuses"] = [{"name": "ranks", "state": {"running": {"startedAt": now()}}}]

    def _value(self, one: dict[str, Any], pod: dict[str, Any], known: dict[str, str]) -> str:
        if "valueFrom" in one:
            assert one["valueFrom"] == {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX}']"}}
            return str(pod["metadata"]["annotations"][INDEX])
        value = re.sub(r"(?<!\$)\$\((\w+)\)", lambda found: known.get(found[1], found[0]), one["value"])
        # The cluster's DNS: the name of a pod under its headless Service is an address of its own.
        domain = f".{pod['spec']['subdomain']}"
        if value.endswith(domain):
            known_pods = {
                p["spec"]["hostname"]: f"127.0.0.{int(p['metadata']['annotations'][INDEX]) + 1}"
                for p in self.pods()
            }
            return known_pods[value.removesuffix(domain)]
        return value.replace("$$(", "$(")

    def lose(self, index: int, kill: bool = True) -> None:
        """The pod's node is gone, as the node controller sees it."""
        with self.lock:
            (pod,) = (one for one in self.pods() if one["metadata"]["annotations"][INDEX] == str(index))
            if kill:
                self._signal(pod["metadata"]["name"], signal.SIGKILL)
            said = "Taint manager: deleting due to NoExecute taint"
            pod["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True", "message": said}]
            pod["status"]["phase"] = "Failed"

    def log_of(self, name: str) -> Path:
        return self.folder / f"{name}.log"
