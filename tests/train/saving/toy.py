"""A toy run on 1 to N ranks: a small model, a step of eight samples dealt to the ranks, a checkpoint after every step.

A run writes losses-<first step>.json and weights.pt into its folder. `kill` is "rank:n": that rank dies, as by kill -9,
at the n-th event (a call, a return, also of the system's) of its saving, in whichever thread; n = 0 kills nobody, and
writes events.json, how many there are.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import nn

from videollava.train.engine.ranks import end_ranks
from videollava.train.engine.torch_engine import TorchEngine
from videollava.train.engine.types import Learning
from videollava.train.launch.meeting import Together
from videollava.train.saving.engines import TorchState
from videollava.train.saving.places import FolderPlace
from videollava.train.saving.saver import Saver

ROOT = Path(__file__).parents[3]
SAMPLES = 8


class Toy(nn.Module):
    """Weights that no number of ranks divides evenly, one that is frozen, one that is a single number."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 7), nn.Linear(7, 5, bias=False)
        self.frozen = nn.Linear(5, 3).requires_grad_(False)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """(B, 6) -> (B, 3)."""
        out: torch.Tensor = self.frozen(self.second(torch.tanh(self.first(given))) * self.scale)
        return out


class Run:
    """A toy run in this process, one of the ranks."""

    def __init__(self, folder: Path, place: Any = None) -> None:
        self.folder, self.model = folder, Toy()
        self.engine = TorchEngine.start("sharded", False, timedelta(minutes=2))
        called, optimizer = self.engine.prepare(
            self.model,
            Learning([{"params": [p for p in self.model.parameters() if p.requires_grad], "lr": 0.05}]),
        )
        self.called, together = called, Together()
        kept = TorchState(self.model, optimizer, together)
        self.saver = Saver(
            "toy", place or FolderPlace(folder / "steps"), kept, {"stage": "toy"}, patience=20.0
        )

    def loss(self, step: int) -> torch.Tensor:
        """This rank's share of the loss of a step, times the number of ranks."""
        draw = torch.Generator().manual_seed(step)
        given, wanted = torch.randn(SAMPLES, 6, generator=draw), torch.randn(SAMPLES, 3, generator=draw)
        mine = slice(self.engine.rank, None, self.engine.ranks)
        lost = (self.called(given[mine]) - wanted[mine]).square().sum()
        return lost * self.engine.ranks / SAMPLES

    def learn(self, step: int) -> float:
        """One step; the loss of all ranks."""
        with self.engine.micro_step(True):
            loss = self.loss(step)
            self.engine.backward(loss)
        self.engine.step(1.0)
        return float(self.engine.sum(loss.detach())) / self.engine.ranks

    def go(self, steps: int) -> dict[int, float]:
        """From the newest checkpoint to `steps`; the losses."""
        with self.saver as saver:
            start, _ = saver.resume()
            losses = {}
            for step in range(start, steps):
                losses[step] = self.learn(step)
                saver.save(step + 1, {})
        return losses

    def weights(self) -> dict[str, torch.Tensor]:
        """All of them, whole."""
        self.engine.make_whole(self.model, learned_only=False)
        return {name: weight.detach() for name, weight in self.model.named_parameters()}


def run_all(runs: list[dict[str, Any]], folder: Path) -> list[list[int]]:
    """Each of the runs (`folder` in this one, `steps`, `ranks`, `kill`) after the other; exit statuses of its ranks.

    In a process that has torch loaded once, and is forked for each rank: it takes a second each.
    """
    file = folder / "runs.json"
    file.write_text(json.dumps(runs))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    statuses: list[list[int]] = json.loads(done.stdout.splitlines()[-1])
    return statuses


def fork_ranks(folder: Path, steps: int, ranks: int, kill: str = "") -> list[int]:
    """The ranks of one run, to their end; where one fails the others are killed, as a launcher would."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    alive: dict[int, int] = {}
    for rank in range(ranks):
        child = os.fork()
        if not child:
            os.environ["RANK"] = str(rank)
            _be_rank(folder, steps, kill)
        alive[child] = rank
    statuses = [0] * ranks
    while alive:
        ended, status = os.wait()
        statuses[alive.pop(ended)] = os.waitstatus_to_exitcode(status)
        for other in alive if status else ():
            os.kill(other, signal.SIGKILL)
    return statuses


def _be_rank(folder: Path, steps: int, kill: str) -> None:
    status = 1
    try:
        run = Run(folder)
        rank, _, number = kill.partition(":")
        seen = _kill_at(int(number)) if rank == str(run.engine.rank) else []
        losses = run.go(steps)
        sys.setprofile(None)
        if seen:
            (folder / "events.json").write_text(json.dumps(seen))
        weights = run.weights()
        if run.engine.first:
            (folder / f"losses-{min(losses, default=steps)}.json").write_text(json.dumps(losses))
            torch.save(weights, folder / "weights.pt")
        end_ranks()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def losses_of(folder: Path) -> dict[int, float]:
    """Of all steps, later runs over earlier ones."""
    losses: dict[int, float] = {}
    for file in sorted(folder.glob("losses-*.json"), key=lambda file: int(file.stem[7:])):
        losses |= {int(step): loss for step, loss in json.loads(file.read_text()).items()}
    return losses


def _kill_at(number: int) -> list[int]:
    """Die at the n-th event in the room that saves, in whichever thread it is; the events so far."""
    seen, room = [0], str(ROOT / "videollava/train/saving")

    def count(frame: Any, event: str, _: Any) -> None:
        if frame.f_code.co_filename.startswith(room):
            seen[0] += 1
            if seen[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)

    threading.setprofile(count)
    sys.setprofile(count)
    return seen


if __name__ == "__main__":
    file = Path(sys.argv[1])
    told = [fork_ranks(file.parent / one.pop("folder"), **one) for one in json.loads(file.read_text())]
    print(json.dumps(told))
