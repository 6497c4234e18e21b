"""A team's stack that works on a micro pipeline of the real stages, and what can be asked of it from outside.

Each case retrains a commit of its own on origin: the model's name in the registry is the case's, so that its versions
are; and a parameter that stage 2 reads and its digits do not depend on is, so that it is trained anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from micro import settings

from flows.places.workspace import apply_params
from flows.stack.asking import ask
from flows.stack.ground import lay_ground
from flows.stack.objects import objects_client
from flows.stack.orchestrator import api, login
from flows.stack.origin import join
from flows.stack.stack import Stack, running_stack
from videollava.process import find_carrying

__all__ = ["FINAL", "Laid", "command_line", "laid", "wait_until"]

REPOSITORY = Path(__file__).resolve().parents[2]
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
LOOK_SECONDS = 0.5
RUN = "PREFECT__FLOW_RUN_ID"  # in the environment of who works at it
SERVES = re.compile(r"prefect worker start|flows\.worker")  # a worker itself, not what it does
CLIPS = "sources={clips: {kind: generated, format: clips, train: 24, test: 8, seed: 1}}"
GATE = "default: {minimum_over_blind: -100.0, allowed_regression: 100.0}\n"
# In two processes without a GPU; a checkpoint after each step, in the store.
MACHINE = {
    "gpus": 0,
    "processes": 2,
    "workers": 0,
    "tokens_per_pack": 1024,
    "checkpoint_minutes": 0.0,
    "checkpoint_place": "s3://checkpoints/team",
}
ASK_REGISTRY = """\
import json, sys
from mlflow import MlflowClient
client, found = MlflowClient(), {}
for version in client.search_model_versions():
    one = found.setdefault(version.name, {"versions": {}, "champion": ""})
    one["versions"][version.version] = {"tags": dict(version.tags), "source": version.source, "run": version.run_id}
for name, one in found.items():
    one["champion"] = client.get_registered_model(name).aliases.get("champion", "")
print(json.dumps(found))
"""


def wait_until(what: Callable[[], Any], why: str, seconds: float = 600.0) -> Any:
    """What `what` says, once it is something; an assertion with `why` after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {why}"
        time.sleep(LOOK_SECONDS)
    return found


@dataclass
class Laid:
    """The stack, and the checkout that its origin is of. stage: the number that makes a training a new one."""

    stack: Stack
    source: Path
    read: dict[str, int] = field(default_factory=dict)

    def commit(self, name: str, stage: int, *changes: str) -> str:
        """A commit on origin whose versions are those of the model `name`; `stage` other than 0: stage 2 is trained.
        changes: of parameters, which may change digits.
        """
        before = self._git("for-each-ref", "--format=%(refname)", f"refs/heads/{name}") or "main"
        self._git("checkout", "--quiet", "-B", name, before)  # origin takes no branch back
        alpha = [f"finetune.lora.alpha={256 + stage}"]  # of an adapter that nobody asks for
        apply_params(self.source, "", [f"tracking.model={name}", *(alpha if stage else []), *changes])
        self._git("commit", "--quiet", "--all", "-m", f"Retrain as {name}")
        commit = self._git("rev-parse", "HEAD")
        self._git("push", "--quiet", str(self.stack.folder / "origin.git"), f"HEAD:refs/heads/{name}")
        self._git("checkout", "--quiet", "main")
        return commit

    def _git(self, *words: str) -> str:
        line = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *words]
        return subprocess.run(
            line, cwd=self.source, check=True, capture_output=True, text=True
        ).stdout.strip()

    def ask(self, path: str, body: object = None, method: str = "") -> Any:
        """Prefect's API, as its page and other programs ask it."""
        return ask(f"{api(self.stack.ground)}/{path}", login(self.stack.ground), body, method, timeout=60.0)

    def answer(self, path: str, body: object = None) -> Any:
        """The same, None where the server is away."""
        try:
            return self.ask(path, body)
        except OSError:
            return None

    def trigger(self, commit: str, promote: bool = True) -> str:
        """Ask for a retraining as another program would; the run's id."""
        found = self.ask("deployments/name/retrain/team")
        parameters = {"commit": commit, "promote": promote}
        body = {"parameters": parameters, "idempotency_key": uuid.uuid4().hex}
        return str(self.ask(f"deployments/{found['id']}/create_flow_run", body)["id"])

    def state(self, run: str) -> str:
        """The kind of a run's state, "" where the server is away."""
        found = self.answer(f"flow_runs/{run}")
        return str(found["state_type"]) if found else ""

    def wait(self, run: str, seconds: float = 900.0) -> str:
        """The kind of its final state."""
        return str(
            wait_until(lambda: (now := self.state(run)) in FINAL and now, f"run {run} to end", seconds)
        )

    def unfinished(self) -> list[tuple[str, str]]:
        """Runs that have begun and are not over."""
        return [(run["name"], run["state_type"]) for run in self._begun() if not _waits(run)]

    def _begun(self) -> list[dict[str, Any]]:
        kinds = {"any_": ["RUNNING", "PENDING", "CANCELLING"]}
        return list(self.ask("flow_runs/filter", {"flow_runs": {"state": {"type": kinds}}}))

    def slots(self) -> dict[str, int]:
        """Slots of Prefect's concurrency limits that somebody holds, by limit."""
        found = self.ask("v2/concurrency_limits/filter", {"limit": 200})
        return {one["name"]: one["active_slots"] for one in found if one["active_slots"]}

    def why(self, run: str) -> str:
        """What a run, and those that it had others do, said last."""
        found = self.answer(f"flow_runs/{run}") or {}
        body = {"logs": {"level": {"ge_": 30}}, "sort": "TIMESTAMP_DESC", "limit": 12}
        lines = [line["message"] for line in reversed(self.answer("logs/filter", body) or [])]
        return "\n".join([str(found.get("state")), *lines])

    def mark(self) -> None:
        """From here on `said` tells what is new."""
        self.read = {name: self._log(name).stat().st_size for name in ("coordinator", "data", "gpu")}

    def said(self, worker: str) -> str:
        """What a worker and its runs have said since `mark`."""
        with self._log(worker).open("rb") as log:
            log.seek(self.read[worker])
            return log.read().decode(errors="replace")

    def _log(self, worker: str) -> Path:
        return self.stack.folder / "logs" / f"{worker}.log"

    def processes(self, part: str, pattern: str) -> list[int]:
        """Of a part, those whose command line has the pattern."""
        return [pid for pid in self.stack.processes(part) if re.search(pattern, command_line(pid))]

    def at_work(self, worker: str) -> list[int]:
        """All that a worker started for its runs."""
        own = self.stack.parts[worker].place.pid()
        waiting = {pid for run in self._begun() if _waits(run) for pid in find_carrying(f"{RUN}={run['id']}")}
        return [
            pid
            for pid in self.stack.processes(worker)
            if pid not in (own, *waiting) and (line := command_line(pid)) and not SERVES.search(line)
        ]

    def ranks(self) -> list[int]:
        """The processes that train, one a rank, whatever they are below of."""
        return [pid for pid in find_carrying("RANK=1") if pid in set(self.stack.processes("gpu"))]

    @cached_property
    def store(self) -> Any:
        """The S3 store, asked as the team."""
        return objects_client(self.stack.ground.url("s3"), *self.stack.ground.access("admin"))

    def objects(self, bucket: str, prefix: str = "") -> dict[str, Any]:
        """What lies there, by key."""
        pages = self.store.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return {one["Key"]: one for page in pages for one in page.get("Contents", ())}

    def registry(self) -> dict[str, Any]:
        """Models, their versions, champions."""
        done = subprocess.run(
            [sys.executable, "-c", ASK_REGISTRY], env={**os.environ, **self.stack.environment},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def fresh(self, name: str, known: Mapping[str, Any]) -> str:
        """The name, or one more of it where a stack that is kept has it already."""
        names = (f"{name}{again}" for again in ("", *(f"-{number}" for number in range(2, 100))))
        return next(one for one in names if one not in known)

    def locks(self) -> list[str]:
        """Locks in the workers' checkouts that a process holds, DVC's among them."""
        held = {
            (int(major, 16), int(minor, 16), int(number))
            for line in Path("/proc/locks").read_text().splitlines()
            for major, minor, number in [line.split()[-3].split(":")]
        }
        found = []
        for name in ("coordinator", "data", "gpu"):
            home = self.stack.folder / name
            for file in (*home.glob(".prefect/**/*.lock"), *home.glob("**/.dvc/tmp/*lock")):
                if not file.is_file():
                    continue
                told = file.stat()
                if (os.major(told.st_dev), os.minor(told.st_dev), told.st_ino) in held:
                    found.append(str(file))
                pids = re.findall(r'"pid": (\d+)', file.read_text()) if file.name == "rwlock" else []
                if any(
                    command_line(int(pid)) for pid in pids
                ):  # DVC drops those of the dead when it comes by
                    found.append(f"{file}: {set(pids)}")
        return found

    def promote_at_once(self, model: str, numbers: Sequence[int]) -> list[tuple[int, str]]:
        """Two people promote a version each, from checkouts of their own, at one moment; status and words of each."""
        roots = []
        for number in numbers:
            roots.append(self.source.parent / f"lead of {model} {number}")
            join(self.stack.ground, roots[-1])
            subprocess.run(["git", "checkout", "--quiet", model], cwd=roots[-1], check=True)
        environment = {**os.environ, **self.stack.environment}
        both = [
            subprocess.Popen(
                [sys.executable, "-m", "videollava", "promote", str(number)],
                cwd=root,
                env={**environment, "PYTHONPATH": str(root)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for root, number in zip(roots, numbers, strict=True)
        ]
        return [(one.wait(), one.stdout.read() if one.stdout else "") for one in both]

    def note(self, what: str, when: str, happened: str, seconds: float, equal: bool) -> None:
        """A row for bench/RESULTS.md."""
        row = f"| {what} | {when} | {happened} | {seconds:.0f} s | {'equal' if equal else 'NOT equal'} |"
        with (self.source.parent / "rows.md").open("a") as file:
            file.write(f"{row}\n")
        print(row)

    def corrupt(self) -> list[str]:
        """Objects, in the workers' caches and in the DVC remote, whose contents are not what their names say."""
        caches = [
            self.stack.folder / name / ".dvc/cache/files/md5" for name in ("coordinator", "data", "gpu")
        ]
        files = [file for cache in caches for file in cache.glob("??/*") if file.is_file()]
        wrong = [
            str(file) for file in files if not _is_named(file.parent.name + file.name, file.read_bytes())
        ]
        for key in self.objects("dvc", "store/files/md5/"):
            name = "".join(key.split("/")[-2:])
            body = self.store.get_object(Bucket="dvc", Key=key)["Body"].read()
            wrong += [] if _is_named(name, body) else [key]
        return wrong

    def digits(self, name: str) -> tuple[str, str]:
        """(md5 of metrics.json, of each file of weights) of a model's last version, by its commit on origin."""
        origin = self.stack.folder / "origin.git"

        def git(*words: str) -> str:
            return subprocess.run(
                ["git", *words], cwd=origin, check=True, capture_output=True, text=True
            ).stdout

        tags = sorted(
            git("for-each-ref", "--format=%(refname)", f"refs/tags/model/{name}/").split(),
            key=lambda ref: int(ref.rpartition("/")[2]),
        )
        from flows.team.entries import read_entries

        entries = read_entries(git("show", f"{tags[-1]}:dvc.lock"))
        outs = {out["path"]: str(out["md5"]) for entry in entries.values() for out in entry["outs"]}
        key = outs["models/videollava"]
        listed = json.loads(
            self.store.get_object(Bucket="dvc", Key=f"store/files/md5/{key[:2]}/{key[2:]}")["Body"].read()
        )
        weights = {one["relpath"]: one["md5"] for one in listed if one["relpath"].endswith(".safetensors")}
        return outs["metrics.json"], json.dumps(weights, sort_keys=True)


def command_line(pid: int) -> str:
    """Of a process; "" where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _waits(run: Mapping[str, Any]) -> bool:
    """Whether a scheduled run was only taken early, by a worker whose clock is ahead: the server has it wait."""
    return run["state_type"] == "PENDING" and datetime.fromisoformat(
        run["expected_start_time"]
    ) > datetime.now(UTC)


def _is_named(name: str, body: bytes) -> bool:
    return hashlib.md5(body, usedforsecurity=False).hexdigest() == name.removesuffix(".dir")


@contextmanager
def laid(folder: Path, keep: bool = False) -> Iterator[Laid]:
    """The stack, up, with its origin at a commit of the micro pipeline; no process is left of it, but if it is to be
    kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source, place = folder / "made", folder / "a stack"
    if not source.is_dir():
        aside = folder / "making"
        _make_source(aside, lay_ground(place).url("mlflow"))
        aside.rename(source)
    with _kept(place, source) if keep else running_stack(place, source=source, ranks=2) as stack:
        (place / "gpu/machine.yaml").write_text(json.dumps(MACHINE))
        yield Laid(stack, source)


@contextmanager
def _kept(place: Path, source: Path) -> Iterator[Stack]:
    stack = Stack(place, source=source, ranks=2)
    stack.up()
    yield stack


def _make_source(root: Path, registry: str) -> None:
    """A clone of this checkout, its files as they are, with the micro recipe as params.yaml."""
    run = subprocess.run
    run(["git", "clone", "--quiet", str(REPOSITORY), str(root)], check=True)
    run(["git", "checkout", "--quiet", "-B", "main"], cwd=root, check=True)
    changed = ["git", "ls-files", "-z", "--modified", "--others", "--exclude-standard", "flows", "videollava"]
    for name in filter(
        None, run(changed, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.split("\0")
    ):
        if (REPOSITORY / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes((REPOSITORY / name).read_bytes())
    (root / "dvc.lock").unlink(missing_ok=True)
    apply_params(root, "tiny", [*settings("finetune.epochs=24"), CLIPS, f"tracking.uri={registry}"])
    (root / "gate.yaml").write_text(GATE)
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    run(["git", "add", "-A"], cwd=root, check=True)
    run(["git", *who, "commit", "--quiet", "-m", "The micro pipeline"], cwd=root, check=True)
