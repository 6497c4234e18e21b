"""A stack with a small real recipe, what its enemies do to it, and what must hold after each."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import yaml

from flows.places.git import run_git
from flows.places.workspace import apply_params
from flows.stack.asking import ask
from flows.stack.orchestrator import api, login
from flows.stack.origin import join
from flows.stack.stack import Stack

ROOT = Path(__file__).resolve().parents[2]
WHO = ("-c", "user.name=t", "-c", "user.email=t@localhost")
# Stage 2 takes some 20 s of two processes; all before it is done once.
RECIPE = (
    *("sources.toy_clips.train=40", "sources.toy_clips.test=20", "index.sources.easy_vqa.most=120"),
    *("bases.epochs=1", "align.text_epochs=1", "align.image_epochs=1", "align.video_epochs=1"),
    *("align.text_batch_size=64", "align.least_learned=0", "pretrain.epochs=1", "evaluate.limit=10"),
    *("finetune.epochs=4", "finetune.precision=fp32", "evaluate.benchmarks=[toy_video_qa]"),
)
GATE = "videollava: {minimum_over_blind: -100.0, minimum_gain: 0.0, allowed_regression: 100.0}\n"
OVER = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
WEIGHTS, METRICS = "models/videollava/model.safetensors", "metrics.json"


@dataclass
class Field:
    """The stack, and a checkout that is no part of it: there the undisturbed runs are made."""

    stack: Stack
    alone: Path
    rate: float = 0.001

    @property
    def changes(self) -> dict[str, Any]:
        """What a trigger of this case changes."""
        return {"finetune": {"learning_rate": self.rate}}

    def trigger(self) -> str:
        """Ask for a retraining as the page does; the run."""
        found = self._ask("/deployments/name/retrain/team")
        body = {"parameters": {"changes": self.changes}}
        return str(self._ask(f"/deployments/{found['id']}/create_flow_run", body)["id"])

    def state(self, run: str) -> str:
        """The type of a run's state, "" where nobody tells."""
        with suppress(OSError):
            return str(self._ask(f"/flow_runs/{run}")["state_type"])
        return ""

    def cancel(self, run: str) -> None:
        """As the page does it."""
        self._ask(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})

    def words(self, run: str) -> str:
        """The run's state and log, for whoever reads of a failure."""
        body = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
        state = self._ask(f"/flow_runs/{run}")["state"]
        return f"{state}\n" + "\n".join(line["message"] for line in self._ask("/logs/filter", body))

    def wait(self, run: str, seconds: float = 900.0) -> str:
        """The type of the run's final state."""
        self.until(lambda: self.state(run) in OVER, seconds)
        return self.state(run)

    def _ask(self, path: str, body: object = None) -> Any:
        return ask(f"{api(self.stack.ground)}{path}", login(self.stack.ground), body)

    def until(self, what: Callable[[], Any], seconds: float = 600.0) -> None:
        """Wait for something; an assertion where it does not come."""
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline
            time.sleep(0.3)

    def steps(self) -> int:
        """Of stage 2, in the journals of the gpu worker."""
        files = (self.stack.folder / "gpu/runs/finetune").glob("*.jsonl")
        return sum(file.read_bytes().count(b'"step_seconds"') for file in files)

    def in_stage_2(self, run: str) -> None:
        """Wait until this trigger's stage 2 has done some steps."""
        before = self.steps()
        self.until(lambda: self._under_way(run) and self.steps() >= before + 5)

    def _under_way(self, run: str) -> bool:
        assert (state := self.state(run)) not in OVER, f"{state}: {self.words(run)}"
        return True

    def at_registration(self, run: str) -> None:
        """Wait until this trigger's last group is done, and what follows begins."""

        def registers() -> bool:
            self._under_way(run)
            tasks = self._ask("/task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [run]}}})
            return any(task["name"] in ("save", "register") for task in tasks)

        self.until(registers)

    def at_work(self) -> dict[int, str]:
        """Processes that work for a retraining: command lines by number. Not the servers and the workers."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                where = os.readlink(entry / "cwd")
                state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue
            here = str(self.stack.folder) in where or str(self.stack.folder) in line
            if (
                state != "Z"
                and here
                and ("-m videollava" in line or "-m dvc" in line or "prefect.engine" in line)
            ):
                found[int(entry.name)] = line
        return found

    def ranks(self) -> list[int]:
        """Processes of stage 2 that compute, the launcher not among them."""
        lines = {pid: line for pid, line in self.at_work().items() if "-m videollava finetune" in line}
        parents = {int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]) for pid in lines}
        return sorted(set(lines) - parents)

    def launcher(self) -> int:
        """The process of the stage's own command."""
        lines = {pid: line for pid, line in self.at_work().items() if "-m videollava finetune" in line}
        return min(set(lines) - set(self.ranks()), default=min(lines))

    def digits(self) -> tuple[str, str]:
        """md5 of weights and metrics that the version of this case has, by what is saved in origin's git."""
        origin = self.stack.folder / "origin.git"
        names = run_git(origin, "tag", "--list", "model/videollava/*").split()
        for name in sorted(names, key=lambda tag: -int(tag.rpartition("/")[2])):
            params = yaml.safe_load(run_git(origin, "show", f"{name}:params.yaml"))
            if params["finetune"]["learning_rate"] == self.rate:
                lock = yaml.safe_load(run_git(origin, "show", f"{name}:dvc.lock"))
                return self._digits(lock["stages"])
        raise AssertionError(f"no version of learning rate {self.rate} among {names}")

    def _digits(self, stages: dict[str, Any]) -> tuple[str, str]:
        outs = {out["path"]: out["md5"] for name in ("finetune", "evaluate") for out in stages[name]["outs"]}
        folder = outs["models/videollava"]
        file = f"files/md5/{folder[:2]}/{folder[2:]}"
        where = next(path for path in self.stack.folder.glob(f"*/.dvc/cache/{file}"))
        rows = {row["relpath"]: row["md5"] for row in json.loads(where.read_text())}
        return rows["model.safetensors"], outs[METRICS]

    def undisturbed(self) -> tuple[str, str]:
        """The same of the same recipe, made by the stages' own commands, with nobody in their way."""
        apply_params(self.alone, "", [f"finetune.learning_rate={self.rate}"])
        environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(self.alone),
            "VIDEOLLAVA_FOLLOWED": "1",
        }
        for stage in ("finetune", "evaluate"):
            line = [sys.executable, "-m", "videollava", stage]
            done = subprocess.run(line, cwd=self.alone, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return _md5(self.alone / WEIGHTS), _md5(self.alone / METRICS)

    def versions(self) -> set[str]:
        """Versions of the registry that git has a name for."""
        return set(run_git(self.stack.folder / "origin.git", "tag", "--list", "model/*").split())

    def check_caches(self) -> None:
        """Every file of every checkout's cache is what its name says."""
        wrong = [
            path
            for path in self.stack.folder.glob("*/.dvc/cache/files/md5/*/*")
            if path.is_file() and path.name.count(".") < 2 and _md5(path) != (path.parent.name + path.stem)
        ]
        assert wrong == []


def _md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


@contextmanager
def lay_out(folder: Path) -> Iterator[Field]:
    """The stack with all stages done once, and the checkout beside it."""
    source = folder / "source"
    run_git(ROOT, "clone", "--quiet", str(ROOT), str(source))
    apply_params(source, "", list(RECIPE))
    lock = [sys.executable, "-m", "videollava", "data", "lock", "toy_clips"]
    subprocess.run(lock, cwd=source, env={**os.environ, "PYTHONPATH": str(source)}, check=True)
    (source / "gate.yaml").write_text(GATE)
    run_git(source, *WHO, "commit", "--quiet", "--all", "-m", "a small recipe")
    stack = Stack(folder / "a stack", source=source, ranks=2)
    field = Field(stack, folder / "alone")
    try:
        stack.up()
        machine = stack.folder / "gpu/machine.yaml"
        place = "checkpoint_place: s3://checkpoints/videollava\ncheckpoint_minutes: 0.05\n"
        machine.write_text(f"processes: 2\n{place}")
        stack.restart("gpu")
        first = field.trigger()
        assert field.wait(first) == "COMPLETED", field.words(first)
        _bring(field)
        yield field
    finally:
        stack.down()


def _bring(field: Field) -> None:
    """What the first retraining made, in the checkout that is no part of the stack."""
    run_git(
        field.stack.folder, "clone", "--quiet", "-b", "model/videollava/1", "origin.git", str(field.alone)
    )
    join(field.stack.ground, field.alone)
    (field.alone / "machine.yaml").write_text("processes: 2\n")
    environment = {**os.environ, **field.stack.environment, "PYTHONPATH": str(field.alone)}
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "pull"],
        cwd=field.alone,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    run_git(field.alone, "checkout", "--quiet", "--detach")


@contextmanager
def refusing(port: int) -> Iterator[None]:
    """A store that answers 503 to everything, in the place of the one that was there."""

    class Busy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _refuse(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _refuse

        def log_message(self, *_: Any) -> None:
            """Not on the terminal."""

    with ThreadingHTTPServer(("127.0.0.1", port), Busy) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """A disk over a folder that holds next to nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "full", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


__all__ = ["Field", "full", "lay_out", "refusing"]
