"""One rank of a real run (`torchrun rank_worker.py STAGE ...`): the command line, with two things arranged.

Of the packs of a step every even one holds images and every odd one videos, so that of two ranks one never sees a
video and the other never an image. With LOSE=n,m the media of these rows do not decode. With KILL_AFTER=n the process
dies as by kill -9 when n steps are done and kept.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from videollava.data.load.batches import Packs
from videollava.data.load.packing import Lengths, Plan
from videollava.data.prepare.tables import load_split
from videollava.errors import InputError
from videollava.train import instruct, loop

STEPS = 20


def arrange(patch: Any = setattr) -> None:
    """Put `plan_by_kind` in the place of the stages' planning."""
    real = instruct.lengths_of

    def lengths_of(prepared: Path, split: str, prices: Any, rows: Any = None) -> Lengths:
        videos = load_split(prepared, split)["videos"].to_numpy() > 0
        patch(instruct, "plan_epoch", lambda lengths, **options: plan_by_kind(lengths, videos, **options))
        return real(prepared, split, prices, rows)

    patch(instruct, "lengths_of", lengths_of)


def plan_by_kind(
    lengths: Lengths, is_video: Any, *, batch_size: int, ranks: int, budget: int, seed: int, epoch: int
) -> Plan:
    """STEPS steps of four packs: images, videos, images, videos; the same whatever the number of ranks."""
    videos, images = np.flatnonzero(is_video), np.flatnonzero(~is_video)
    packs = []
    for number in range(2 * STEPS):
        packs.append(images.take(range(3 * number, 3 * number + 3), mode="wrap"))
        packs.append(videos.take([number], mode="wrap"))
    samples = np.concatenate(packs).astype(np.int32)
    bounds = np.concatenate([[0], np.cumsum([len(pack) for pack in packs])]).astype(np.int64)
    steps = np.arange(0, 4 * STEPS + 1, 4)
    return Plan(ranks, samples, bounds, steps)


def lose(patch: Any = setattr) -> None:
    """Have the media of the rows in $LOSE be unreadable."""
    real, lost = Packs._sample, {int(row) for row in os.environ["LOSE"].split(",")}

    def sample(packs: Packs, row: int) -> Any:
        if row in lost:
            raise InputError(f"row {row}: does not decode")
        return real(packs, row)

    patch(Packs, "_sample", sample)


def _die_after(steps: int) -> None:
    real, done = loop._learn, []

    def learn(*arguments: object) -> object:
        if len(done) == steps:
            for thread in threading.enumerate():
                if thread.name == "checkpoint":
                    thread.join()
            os._exit(9)
        done.append(1)
        return real(*arguments)  # type: ignore[arg-type]

    loop._learn = learn  # type: ignore[assignment]


if __name__ == "__main__":
    from videollava.cli import main

    arrange()
    if "LOSE" in os.environ:
        lose()
    if "KILL_AFTER" in os.environ:
        _die_after(int(os.environ["KILL_AFTER"]))
    raise SystemExit(main(sys.argv[1:]))
