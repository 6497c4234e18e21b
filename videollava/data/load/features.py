"""Features of frozen encoders kept on disk, so that a medium is decoded and encoded once, not once an epoch.

A folder holds, per kind of medium, `<kind>.bin` (rows of bfloat16, memory-mapped) and `features.json`
(shape of a row, and which row a medium has). Written aside and renamed when complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["Features", "write_features"]


class Features:
    """Read features by medium number."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        about = json.loads((folder / "features.json").read_text())
        self.shapes: dict[str, list[int]] = about["shapes"]
        self.rows = {
            kind: {medium: row for row, medium in enumerate(media)} for kind, media in about["media"].items()
        }
        self.arrays = {
            kind: np.memmap(folder / f"{kind}.bin", np.int16, "r", shape=(len(self.rows[kind]), *shape))
            for kind, shape in self.shapes.items()
            if self.rows[kind]
        }

    def read(self, kind: str, media: Sequence[int]) -> Tensor:
        """bfloat16 (len(media), tokens, dim)."""
        rows = [self.rows[kind][medium] for medium in media]
        return torch.from_numpy(self.arrays[kind][rows]).view(torch.bfloat16)


def write_features(
    folder: Path,
    kinds: dict[str, tuple[Sequence[int], Iterable[tuple[int, Tensor]]]],
    first: bool = True,
    meet: Callable[[], None] = lambda: None,
) -> Features:
    """Write, per kind, the features of these media: batches (n, tokens, dim), each with the row it begins at.

    Several processes may call it, each with batches of its own: `meet` returns when all came to it, and the `first`
    completes the folder.
    """
    aside = folder.with_name(folder.name + ".tmp")
    if first:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    meet()
    shapes: dict[str, list[int]] = {}
    for kind, (_, batches) in kinds.items():
        with open(os.open(aside / f"{kind}.bin", os.O_CREAT | os.O_WRONLY, 0o644), "wb") as file:
            for row, batch in batches:
                shapes[kind] = list(batch.shape[1:])
                data = batch.to(torch.bfloat16).contiguous().view(torch.int16).numpy()
                file.seek(row * data[0].nbytes)
                file.write(data.tobytes())
    meet()
    if first:
        # The first process has the first batch of each kind, so knows every shape.
        media = {kind: list(numbers) for kind, (numbers, _) in kinds.items()}
        (aside / "features.json").write_text(json.dumps({"shapes": shapes, "media": media}))
        aside.rename(folder)
    meet()
    return Features(folder)
