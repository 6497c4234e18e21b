"""The padded way (transformers' class, its Trainer, the original's collator) and ours, on the same samples and card.

Each is a process of bench/training.py, which says what is compared. Where the padded way's micro-batch does not fit,
half of it is tried, and so on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from bench.gpu_check.told import tell
from bench.padding.samples import STAGES

STEPS = 3
AIMS = {1: 2.0, 2: 3.0}
LEAST = 4  # samples padded together


def main(argv: Sequence[str] | None = None) -> int:
    """1 where one way did not run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--stage", type=int, choices=(1, 2), required=True)
    arguments = parser.parse_args(argv)
    geometry = "micro" if arguments.small else "7b"
    options = ["--stage", str(arguments.stage), "--geometry", geometry]
    options += ["--samples", str(STEPS * STAGES[arguments.stage].batch)]
    ours = run("ours", options)
    if ours:
        tell("ours", **ours)
    size = STAGES[arguments.stage].padded_batch
    padded = None
    while padded is None and size >= LEAST:
        padded = run("padded", [*options, "--padded-batch", str(size)])
        if padded:
            tell("padded", samples_together=size, **padded)
        size //= 2
    if not ours or not padded:
        return 1
    ratio = ours["samples_per_second"] / padded["samples_per_second"]
    memory = ours["peak_mib"] / max(1.0, padded["peak_mib"])
    tell(
        "ours over padded",
        samples=f"{ratio:.2f}x (aim {AIMS[arguments.stage]:g}x)",
        peak_memory=f"{memory:.2f}x",
    )
    return 0


def run(way: str, options: list[str]) -> dict[str, Any] | None:
    """Figures of one way; None where its memory ran out."""
    command = [sys.executable, "bench/training.py", "--child", way, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr[-3000:], flush=True)
        if "OutOfMemoryError" in done.stderr or "out of memory" in done.stderr:
            tell(way, error="out of memory")
            return None
        raise SystemExit(1)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


if __name__ == "__main__":
    raise SystemExit(main())
