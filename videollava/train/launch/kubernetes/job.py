"""Stays with the Job of a launch to its end, and begins another one where an attempt is lost or only interrupted.

It runs under the launcher's supervisor and so ends when the launcher does, however that ends: it deletes the Job then.
What the API server has is asked for every two seconds: a watch would have to be taken up again, and be checked so, too.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from videollava.ends import AGAIN
from videollava.errors import InputError
from videollava.train.launch.agent import UNSHARED
from videollava.train.launch.attempts import (
    CANCELLED,
    STOPPED,
    forget_pulses,
    stop_once,
)
from videollava.train.launch.failures import causes
from videollava.train.launch.kubernetes.kubectl import Kubectl, Unanswered
from videollava.train.launch.kubernetes.log import Log
from videollava.train.launch.kubernetes.manifests import ATTEMPT, LAUNCH, ROOM, Launch, fill, read_launch
from videollava.train.launch.kubernetes.pods import CONTAINER, Pod, describe, failed_first, read_pods

__all__ = ["main"]

POLL = 2.0
SILENT = 60.0  # seconds without an answer of the API server before that is told
BEGIN = 20.0  # the same before the first answer, which ends the launch
PULLED = 300.0  # seconds that an image may fail to come
LOG = 20.0  # seconds for the rest of a log
TRIES = 3  # attempts in a row that may be lost within...
SHORT = 300.0  # ...so many seconds of running
FORCED = 3.0  # seconds beyond its own that a pod has before it is taken away by force
PATIENCE = 10.0  # seconds that the API server has to confirm that all is gone
ENDED = ("Complete", "Completed", "Failed")
FAILING = ("Failed", "FailureTarget")


def main(folder: Path) -> int:
    """Run the launch that is planned in `folder`; its exit status."""
    stop_once()
    launch = read_launch(folder)
    kubectl, number, lives = Kubectl(launch.context, launch.namespace), 0, list[float]()
    while True:
        attempt = Attempt(kubectl, launch, number, folder)
        try:
            status, again = attempt.run()
        except InputError as error:
            (folder / "reason").write_text(str(error))
            return 2
        finally:
            attempt.delete()
        lives.append(attempt.ran)
        if not again or (again == "lost" and _too_often(lives, folder)):
            return status
        print(f"{attempt.name}: {GOES_ON[again]}", flush=True)
        number += 1


GOES_ON = {
    "again": "a last checkpoint is made; another Job goes on from there",
    "lost": "another Job goes on from the last checkpoint",
}


def _too_often(lives: Sequence[float], folder: Path) -> bool:
    if len(lives) < TRIES or max(lives[-TRIES:]) >= SHORT:
        return False
    reason = folder / "reason"
    reason.write_text(
        f"{reason.read_text()}; {TRIES} attempts in a row were lost within {SHORT / 60:.0f} min"
    )
    return True


class Attempt:
    """One Job, from its creation until nothing of it is left. ran: seconds that all its pods were running."""

    def __init__(self, kubectl: Kubectl, launch: Launch, number: int, folder: Path) -> None:
        self.kubectl, self.launch, self.number, self.folder = kubectl, launch, number, folder
        self.name = f"job {launch.title(number)}"
        self.ran = 0.0
        self._file = folder / f"ranks-{number}.json"
        self._workload, self._services = fill(launch, number)
        self._told, self._seen, self._once = "", False, False
        self._log: Log | None = None
        self._heard, self._warned = time.monotonic(), False
        self._image_since = self._ran_since = 0.0
        self._waits = ""  # what its pods waited for last
        self._events: set[str] = set()

    def run(self) -> tuple[int, str]:
        """(exit status, "again" or "lost" where another attempt is to follow, else "")."""
        self._create()
        while True:
            try:
                seen = self.kubectl.read("--filename", str(self._file))
                pods = read_pods(self.kubectl.items("pods", "--selector", self._selector))
                self._answered()
            except Unanswered as error:
                if error.refused and not self._seen:
                    raise InputError(f"Kubernetes refuses it: {error}") from error
                self._unanswered(error)
                time.sleep(POLL)
                continue
            self._seen = True
            if verdict := self._look(seen, pods):
                return verdict
            time.sleep(POLL)

    def delete(self) -> None:
        """Delete the Job, if there still is one, and wait until no pod of it is left; ranks may make a checkpoint."""
        self._quietly(
            "delete",
            "--filename",
            str(self._file),
            "--ignore-not-found",
            "--cascade=foreground",
            "--wait=false",
        )
        if not self._once:  # it never answered: there is nothing to wait for
            return
        grace = math.ceil(self.launch.ending_seconds) + ROOM
        deadline, forced = time.monotonic() + grace + FORCED, False
        while (left := self._left()) is None or left:
            time.sleep(POLL / 4)
            if time.monotonic() < deadline:
                continue
            if forced:
                here = f"{self.name} may be there still, the API server does not confirm that it is gone"
                print(f"warning: {here}: {self._by_hand()}", file=sys.stderr, flush=True)
                break
            by_force = ("--grace-period=0", "--force", "--wait=false")
            self._quietly("delete", "pods", "--selector", self._selector, "--ignore-not-found", *by_force)
            deadline, forced = time.monotonic() + PATIENCE, True
        if self._log:
            self._log.finish(POLL)

    def _create(self) -> None:
        """The workload, then what it owns. InputError in the API server's own words where it refuses."""
        self._file.write_text(json.dumps(self._workload, indent=1))
        created = json.loads(self._patiently("create", "--filename", str(self._file), "--output=json"))
        owner = {key: created["metadata"][key] for key in ("name", "uid")}
        owner |= {"apiVersion": created["apiVersion"], "kind": created["kind"]}
        for service in self._services:
            service["metadata"]["ownerReferences"] = [owner]
            file = self.folder / f"service-{self.number}.json"
            file.write_text(json.dumps(service, indent=1))
            self._patiently("create", "--filename", str(file), "--output=json")

    def _patiently(self, *words: str) -> str:
        """A call that the API server has to answer."""
        while True:
            try:
                said = self.kubectl.run(*words)
                self._answered()
                return said
            except Unanswered as error:
                if "already exists" in str(error):  # the answer to an earlier try was lost
                    words = ("get", *words[1:])
                elif error.refused:
                    raise InputError(f"Kubernetes refuses it: {error}") from error
                else:
                    self._unanswered(error)
                    time.sleep(POLL)

    def _look(self, seen: Mapping[str, Any], pods: Sequence[Pod]) -> tuple[int, str] | None:
        """What has become of it; None while it goes on."""
        if not seen:
            (self.folder / CANCELLED).touch()
            return self._failed(STOPPED, f"{self.name} was deleted")
        conditions = _conditions(seen)
        if seen["spec"].get("suspend"):
            return self._suspended(seen)
        state, more = describe(pods, self.launch.nodes)
        self._say(state, more)
        if state == "running":
            self._ran_since = self._ran_since or time.monotonic()
        elif state == "pending":
            forget_pulses(self.folder)
            self._waits = more if pods else ""
            self._tell_events(pods)
        if pods and pods[0].started and pods[0].index == 0 and not self._log:
            self._log = Log(self.kubectl, pods[0].name, self.folder / "job.log")
        if self._is_stuck(pods):
            pod = next(pod for pod in pods if pod.stuck)
            remedy = "see kubernetes.image in machine.yaml" if pod.stuck == "image" else "see its manifests"
            return self._failed(2, f"pod {pod.name} cannot start: {pod.waits}: {remedy}")
        if conditions.keys() & {"Complete", "Completed"}:
            self._finish_log()
            return 0, ""
        if conditions.keys() & set(FAILING) or state == "failing":
            return self._ended(conditions)
        return None

    def _suspended(self, seen: Mapping[str, Any]) -> tuple[int, str] | None:
        """It waits in a queue; one that had run is pre-empted, and its pods are gone."""
        if self._ran_since:
            return self._verdict([], f"{self.name} was pre-empted by its queue")
        queue = seen["metadata"].get("labels", {}).get("kueue.x-k8s.io/queue-name")
        self._say("suspended", f"waits in queue {queue}" if queue else "until somebody resumes it")
        return None

    def _ended(self, conditions: Mapping[str, Mapping[str, Any]]) -> tuple[int, str]:
        """One pod has failed: the others have their grace to end, then it is said what it was."""
        if "Failed" not in conditions and "FailureTarget" not in conditions:
            time.sleep(POLL)  # the Job's controller sees it as well, and ends the others
        deadline = time.monotonic() + math.ceil(self.launch.ending_seconds) + ROOM
        pods = self._pods_or([])
        while time.monotonic() < deadline and not all(pod.done for pod in pods):
            time.sleep(POLL / 4)
            pods = self._pods_or(pods)
        self._finish_log()
        reason = next((one.get("message", "") for kind, one in conditions.items() if kind in FAILING), "")
        return self._verdict(pods, reason)

    def _verdict(self, pods: Sequence[Pod], reason: str) -> tuple[int, str]:
        """By what weighs most: a lost pod, one that never began, one that failed by itself, a last checkpoint."""
        marks = self.folder / f"{self.launch.name}.{self.number}"
        lost = next(
            (f"pod {pod.name} on {pod.node or 'no node'} is lost: {pod.lost}" for pod in pods if pod.lost), ""
        )
        if self._ran_since:
            self.ran = time.monotonic() - self._ran_since
        if lost or (marks / "lost").exists() or "pre-empted" in reason:
            return self._failed(1, lost or reason or f"a pod of {self.name} is lost", "lost")
        own = failed_first(pods)
        if own and own.exit_code == UNSHARED and self._waits and not self._ran_since:
            alone = f"not all of {self.launch.nodes} pods began: {self._waits}"
            return self._failed(1, f"{alone}; a queue that admits all at once (Kueue) holds no nodes in vain")
        if own:
            self._show_tail(own, marks)
            return self._failed(own.exit_code or 1, own.sentence())
        if (marks / "again").exists():
            return self._failed(AGAIN, reason, "again")
        ended = next((pod for pod in pods if pod.phase == "Failed"), None)
        if not ended:
            return self._failed(1, f"the pods of {self.name} are gone", "lost")
        return self._failed(ended.exit_code or 1, ended.sentence())

    def _failed(self, status: int, reason: str, again: str = "") -> tuple[int, str]:
        (self.folder / "reason").write_text(reason)
        if again == "lost":
            print(f"warning: {reason}", file=sys.stderr, flush=True)
        return status, again

    def _show_tail(self, pod: Pod, marks: Path) -> None:
        """What another pod than the first said last, where none of its ranks could report it."""
        if pod.index == 0 or causes(marks):
            return
        for line in self._quietly("logs", f"--container={CONTAINER}", "--tail=20", pod.name).splitlines():
            print(f"[pod {pod.index}] {line}", flush=True)

    def _say(self, state: str, more: str) -> None:
        words = {
            "running": f"running on {more}",
            "pending": f"pending ({more})",
            "suspended": f"suspended ({more})",
        }
        if (text := words.get(state, state)) != self._told:
            print(f"{self.name}: {text}", flush=True)
            self._told = text

    def _is_stuck(self, pods: Sequence[Pod]) -> bool:
        kinds = {pod.stuck for pod in pods} - {""}
        if "image" not in kinds:
            self._image_since = 0.0
        else:
            self._image_since = self._image_since or time.monotonic()
        return "spec" in kinds or bool(self._image_since and time.monotonic() - self._image_since > PULLED)

    def _tell_events(self, pods: Sequence[Pod]) -> None:
        """Why pods cannot even be created (a quota, an admission hook): it stands in the Job's events alone."""
        if len(pods) == self.launch.nodes:
            return
        found = self._items_or_none(
            "events", "--field-selector", "type=Warning,involvedObject.kind=Job,reason=FailedCreate"
        )
        for one in found or ():
            text = one.get("message", "")
            if (
                one["involvedObject"]["name"].startswith(self.launch.title(self.number))
                and _plain(text) not in self._events
            ):
                self._events.add(_plain(text))
                print(f"warning: {self.name} gets no pods: {text}", file=sys.stderr, flush=True)

    def _finish_log(self) -> None:
        if self._log:
            self._log.finish(LOG)

    @property
    def _selector(self) -> str:
        return f"{LAUNCH}={self.launch.name},{ATTEMPT}={self.number}"

    def _pods_or(self, before: Sequence[Pod]) -> Sequence[Pod]:
        found = self._items_or_none("pods", "--selector", self._selector)
        return before if found is None else read_pods(found)

    def _left(self) -> int | None:
        """Pods and Jobs that there still are; None where the API server does not answer."""
        try:
            there = self.kubectl.read("--filename", str(self._file))
            return len(self.kubectl.items("pods", "--selector", self._selector)) + bool(there)
        except Unanswered:
            return None

    def _items_or_none(self, *words: str) -> Sequence[dict[str, Any]] | None:
        try:
            return self.kubectl.items(*words)
        except Unanswered:
            return None

    def _quietly(self, *words: str) -> str:
        try:
            return self.kubectl.run(*words)
        except Unanswered:
            return ""

    def _answered(self) -> None:
        if self._warned:
            print("the API server answers again", flush=True)
        self._heard, self._warned, self._once = time.monotonic(), False, True

    def _unanswered(self, error: Unanswered) -> None:
        if time.monotonic() - self._heard <= (SILENT if self._once else BEGIN):
            return
        if not self._once:
            raise InputError(f"the API server of Kubernetes does not answer: {error}")
        if not self._warned:
            self._warned = True
            away = f"the API server does not answer ({error}); waiting, ranks go on without it"
            print(f"warning: {away}", file=sys.stderr, flush=True)

    def _by_hand(self) -> str:
        return f"kubectl delete job,service,pod --selector {self._selector}"


def _conditions(seen: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    told = seen.get("status", {}).get("conditions", ())
    return {one["type"]: one for one in told if one.get("status") == "True"}


def _plain(text: str) -> str:
    """Without the name that the Job's controller had for the pod, a new one each time."""
    return text.partition('" ')[2] or text
