"""What the pods of an attempt say, in the words of the scheduler, the kubelet and the container runtime."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from videollava.ends import AGAIN

__all__ = ["CONTAINER", "INDEX", "Pod", "describe", "failed_first", "read_pods"]

CONTAINER = "ranks"
INDEX = "batch.kubernetes.io/job-completion-index"
# Nothing but another image, or another spec, helps; the others are tried again by the kubelet.
HOPELESS = (
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
)
PULLING = ("ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError")
# Ends of a pod that are its node's, not its program's.
LOST = (
    "Evicted",
    "NodeLost",
    "NodeShutdown",
    "NodeAffinity",
    "Preempting",
    "Shutdown",
    "Terminated",
    "UnexpectedAdmissionError",
)
# Of a container that was ended for another one, or by somebody.
FOLLOWS = (128 + signal.SIGTERM, 128 + signal.SIGABRT, AGAIN)
MEANINGS = {
    128 + signal.SIGKILL: "killed (SIGKILL)",
    126: "its command cannot be run (status 126)",
    127: "its command is not in the image (status 127)",
}


@dataclass(frozen=True)
class Pod:
    """One host of the launch. seen: what the API server has of it."""

    seen: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.seen["metadata"]["name"])

    @property
    def uid(self) -> str:
        return str(self.seen["metadata"].get("uid", ""))

    @property
    def index(self) -> int:
        return int(self.seen["metadata"].get("annotations", {}).get(INDEX, 0))

    @property
    def node(self) -> str:
        return str(self.seen.get("spec", {}).get("nodeName", ""))

    @property
    def phase(self) -> str:
        return str(self._status.get("phase", "Pending"))

    @property
    def done(self) -> bool:
        return self.phase in ("Succeeded", "Failed")

    @property
    def started(self) -> bool:
        """Whether its container has, or had, a log."""
        return bool(self._state.keys() & {"running", "terminated"})

    @property
    def exit_code(self) -> int | None:
        """Of the container; None while it runs, or where it never did."""
        code = self._state.get("terminated", {}).get("exitCode")
        return None if code is None else int(code)

    @property
    def told_to_end(self) -> bool:
        """Whether it ended since it was deleted, or says so itself."""
        return "deletionTimestamp" in self.seen["metadata"] or self.exit_code in FOLLOWS

    @property
    def ended_at(self) -> str:
        return str(self._state.get("terminated", {}).get("finishedAt") or "9999")

    @property
    def lost(self) -> str:
        """Why it is gone where that is no doing of its own: drained, pre-empted, its node lost; else ""."""
        for one in self._conditions("DisruptionTarget"):
            return str(one.get("message") or one.get("reason") or "disrupted")
        reason = str(self._status.get("reason", ""))
        return str(self._status.get("message") or reason) if reason in LOST else ""

    @property
    def waits(self) -> str:
        """What it waits for before it runs, in Kubernetes' own words; "" where it does not."""
        if self.phase != "Pending":
            return ""
        for one in self._conditions("PodScheduled", "False"):
            return str(one.get("message") or one.get("reason"))
        waiting = self._state.get("waiting", {})
        said = " ".join(filter(None, [waiting.get("reason"), waiting.get("message")]))
        return said or ("waits for a node" if not self.node else f"starts on {self.node}")

    @property
    def stuck(self) -> str:
        """ "image" where its image does not come, "spec" where its container can never start; else ""."""
        reason = self._state.get("waiting", {}).get("reason", "")
        return "spec" if reason in HOPELESS else "image" if reason in PULLING else ""

    def sentence(self) -> str:
        """How it ended."""
        ended = self._state.get("terminated", {})
        where = f"pod {self.name}{f' on {self.node}' if self.node else ''}"
        if ended.get("reason") == "OOMKilled":
            return (
                f"{where} was killed for memory (OOMKilled): raise resources.limits.memory of its manifests"
            )
        if self._status.get("reason") == "DeadlineExceeded":
            return f"{where} had run for as long as it may (DeadlineExceeded)"
        if self.exit_code is None:
            return f"{where} ended: {self._status.get('message') or self._status.get('reason') or self.phase}"
        said = MEANINGS.get(self.exit_code, f"status {self.exit_code}")
        return f"{where} ended: {said}"

    @property
    def _status(self) -> Mapping[str, Any]:
        status: Mapping[str, Any] = self.seen.get("status", {})
        return status

    @property
    def _state(self) -> Mapping[str, Any]:
        """Of the container with the ranks; while another one has to come first, of that."""
        first = {one["name"]: one.get("state", {}) for one in self._status.get("initContainerStatuses", ())}
        own = {one["name"]: one.get("state", {}) for one in self._status.get("containerStatuses", ())}
        before = [
            state
            for state in first.values()
            if state.get("waiting", {}).get("reason") in (*PULLING, *HOPELESS)
        ]
        state: Mapping[str, Any] = before[0] if before else own.get(CONTAINER, {})
        return state

    def _conditions(self, kind: str, status: str = "True") -> list[Mapping[str, Any]]:
        found = self._status.get("conditions", ())
        return [one for one in found if one.get("type") == kind and one.get("status") == status]


def read_pods(items: Sequence[Mapping[str, Any]]) -> list[Pod]:
    """By their index."""
    return sorted(map(Pod, items), key=lambda pod: pod.index)


def describe(pods: Sequence[Pod], nodes: int) -> tuple[str, str]:
    """(state, more about it) of an attempt that has these pods."""
    waiting = [pod for pod in pods if pod.waits]
    if not pods:
        return "pending", "no pod yet"
    if any(pod.phase == "Failed" for pod in pods):
        return "failing", ""
    if waiting:
        many = f"{len(waiting)} of {nodes} pods wait: " if nodes > 1 else ""
        return "pending", many + waiting[0].waits
    if all(pod.phase == "Succeeded" for pod in pods) and len(pods) == nodes:
        return "succeeded", ""
    return (
        ("running", ", ".join(sorted({pod.node for pod in pods if pod.node})))
        if len(pods) == nodes
        else ("pending", "")
    )


def failed_first(pods: Sequence[Pod]) -> Pod | None:
    """The one that failed by itself, and took the others along; None where all of them were only told to end."""
    own = [pod for pod in pods if pod.phase == "Failed" and not pod.told_to_end]
    return min(own, key=lambda pod: pod.ended_at, default=None)
