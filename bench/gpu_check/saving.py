"""A checkpoint written beside the work on this card: what training waits for, and that it is the step's own weights."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.gpu_check.told import tell
from bench.saving import WAYS, train
from videollava.train.saving.files import sum_of
from videollava.train.saving.places import read_manifest


def main(argv: Sequence[str] | None = None) -> int:
    """1 where a written file's sum is not what its bytes came to."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--small", action="store_true", help="a tenth of a million weights")
    small = parser.parse_args(argv).small
    size = argparse.Namespace(
        width=64 if small else 4096,
        layers=3 if small else 6,
        rows=128
        if small
        else 4096,  # so that a step takes a GPU some 50 ms, and a checkpoint its writing's time
        steps=6 if small else 120,
        every=2 if small else 60,
    )
    for way in WAYS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            done = train(size, way, folder)
            whole = [read_manifest(one) for one in sorted(folder.glob("step-*"))]
            wrong = [
                one.where
                for one in whole
                for file in one.files
                if sum_of(Path(one.where) / file) != one.files[file]
            ]
        figures = {
            "waits_share": done.waited / done.wall,
            "gigabytes": done.nbytes / 1e9,
            "writing_seconds": done.writing,
        }
        tell(
            f"checkpoints {way}", wall_seconds=done.wall, saves=done.saves, **(figures if done.saves else {})
        )
        if wrong:
            tell("a file is not what was written", files=wrong)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
