"""What checkpoints cost a run: measured at a small size, and reckoned for a large one.

    python bench/saving.py [--width N] [--layers N] [--rows N] [--steps N] [--every N] [--rounds N]
    python bench/saving.py --model [--weights 6.74e9] [--ranks 8] [--copy 20] [--disk 2] [--minutes 15]

Measured: the same steps without checkpoints, with ones that are waited for, and with ones written beside the work, in
turn in one run. "waits" is what training itself waits for, of the wall time; "slower" is the wall time over that without
checkpoints: on a CPU the writing takes cores from the work.

Reckoned: 12 bytes a weight that learns (itself and two moments, float32), each rank its part. Training waits for the
copy to pinned host memory (GB/s of a rank); hashing and writing (GB/s of all ranks together) go on beside it. Holds
where nothing else bounds the host's memory: each rank's part lies there once more.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import nn

from videollava.train.engine.torch_engine import TorchEngine
from videollava.train.engine.types import Learning
from videollava.train.launch.meeting import Together
from videollava.train.saving import saver
from videollava.train.saving.engines import TorchState
from videollava.train.saving.places import FolderPlace

STATE_BYTES = 12
BOUND = 0.02  # of the wall time
WAYS = ("without", "waited for", "beside")


@dataclass
class Measured:
    """One way's wall time, what training waited for, and what was written."""

    wall: float
    waited: float
    nbytes: float
    writing: float
    saves: int


def main(argv: Sequence[str] | None = None) -> int:
    """1 where the reckoned share is over the bound."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="store_true", help="reckon, measure nothing")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rows", type=int, default=128, help="of a step")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--every", type=int, default=40, help="steps between two checkpoints")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--weights", type=float, default=6.74e9, help="that learn")
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--copy", type=float, default=20.0, help="GB/s of a rank, device to pinned memory")
    parser.add_argument("--disk", type=float, default=2.0, help="GB/s of all ranks together")
    parser.add_argument("--minutes", type=float, default=15.0, help="checkpoint_minutes")
    arguments = parser.parse_args(argv)
    return reckon(arguments) if arguments.model else measure(arguments)


def reckon(given: argparse.Namespace) -> int:
    """Print shares of the wall time of both ways; 1 where that beside the work is over the bound."""
    size = STATE_BYTES * given.weights / 1e9
    part = size / given.ranks
    copied, written = part / given.copy, size / given.disk
    between = max(60 * given.minutes, written)  # the next waits for its turn
    beside, waited = copied / (between + copied), (copied + written) / (between + copied + written)
    print(
        f"{given.weights / 1e9:.2f}e9 weights, {given.ranks} ranks: a checkpoint of {size:.1f} GB, {part:.1f} GB of each\n"
        f"copied in {copied:.2f} s at {given.copy:g} GB/s, written in {written:.1f} s at {given.disk:g} GB/s, "
        f"every {between / 60:.1f} min\n"
        f"training waits {beside:.3%} of the time ({'less than' if beside < BOUND else 'NOT less than'} {BOUND:.0%}); "
        f"waited for it would be {waited:.2%}"
    )
    return int(beside >= BOUND)


def measure(given: argparse.Namespace) -> int:
    """Print what each way takes; medians over the rounds."""
    taken: dict[str, list[Measured]] = {way: [] for way in WAYS}
    for _ in range(given.rounds):
        for way in WAYS:
            with tempfile.TemporaryDirectory() as folder:
                taken[way].append(train(given, way, Path(folder)))
    plain = statistics.median(one.wall for one in taken["without"])
    for way, rounds in taken.items():
        wall = statistics.median(one.wall for one in rounds)
        waits = statistics.median(one.waited / one.wall for one in rounds)
        last = rounds[-1]
        rate = f", {last.nbytes / 1e6:.0f} MB in {last.writing:.2f} s each" if last.saves else ""
        print(f"{way:>10}: {wall:6.2f} s, waits {waits:6.2%}, slower {wall / plain - 1:+6.1%}{rate}")
    return 0


def train(given: argparse.Namespace, way: str, folder: Path) -> Measured:
    """The steps, one way."""
    torch.manual_seed(0)
    layers = [
        module for _ in range(given.layers) for module in (nn.Linear(given.width, given.width), nn.GELU())
    ]
    model = nn.Sequential(*layers)
    engine = TorchEngine.start("sharded", False, timedelta(minutes=5))
    called, optimizer = engine.prepare(model, Learning([{"params": list(model.parameters()), "lr": 1e-4}]))
    together, told = Together(), list[dict[str, float]]()
    saver.log_metrics = lambda _, **values: told.append(values)  # type: ignore[assignment]
    given_B = torch.randn(given.rows, given.width, device=engine.device)
    learn(engine, called, given_B)  # moments are there, and all is warm
    with saver.Saver("bench", FolderPlace(folder), TorchState(model, optimizer, together), {}) as saving:
        if way != "without":
            saving.save(0, {}, wait=True)  # memory for the snapshot
        told.clear()
        began = time.perf_counter()
        for step in range(1, given.steps + 1):
            learn(engine, called, given_B)
            if way != "without" and not step % given.every:
                saving.save(step, {}, wait=way == "waited for")
        if engine.device.type == "cuda":
            torch.cuda.synchronize()
        wall = time.perf_counter() - began
    waited = sum(values.get("checkpoint_stall_seconds", 0.0) for values in told)
    written = [values for values in told if "checkpoint_bytes" in values]
    last = written[-1] if written else {"checkpoint_bytes": 0.0, "checkpoint_seconds": 0.0}
    return Measured(wall, waited, last["checkpoint_bytes"], last["checkpoint_seconds"], len(written))


def learn(engine: TorchEngine, called: nn.Module, given_B: torch.Tensor) -> None:
    """One step."""
    with engine.micro_step(True):
        engine.backward(called(given_B).square().mean())
    engine.step(1.0)


if __name__ == "__main__":
    raise SystemExit(main())
