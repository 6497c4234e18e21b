"""A pack as tensors: where its segments end and its targets are, and all of it in page-locked memory."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from videollava.data.load.batches import Batch, lay_in_row, load_batches
from videollava.data.text.prompts import IGNORED, Encoded


def test_a_row_knows_its_ends_and_targets() -> None:
    batch = lay_in_row(7, [Encoded([1, 2, 3], [IGNORED, 2, 3]), Encoded([4, 5], [4, 5])])
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5]]
    assert batch.labels.tolist() == [[IGNORED, 2, 3, IGNORED, 5]]  # no token is asked for another's first
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1]]
    assert (batch.ends.dtype, batch.ends.tolist()) == (torch.int32, [0, 3, 5])
    assert (batch.targets.dtype, batch.targets.tolist()) == (torch.int64, [0, 1, 3])


class Rows(Dataset[Batch]):
    """Rows of one token, its number."""

    def __len__(self) -> int:
        return 100

    def __getitem__(self, number: int) -> Batch:
        return lay_in_row(number, [Encoded([number], [IGNORED])])


def test_held_batches_of_loading_processes_hold_no_files_open() -> None:
    """A step may be of more packs than a process may have files."""
    packs: Any = Rows()
    before = len(os.listdir("/proc/self/fd"))
    held = list(load_batches(packs, range(100), workers=1))
    assert len(os.listdir("/proc/self/fd")) - before < 20
    assert [batch.input_ids.tolist() for batch in held] == [[[number]] for number in range(100)]
    assert not any(batch.input_ids.is_shared() for batch in held)


def test_all_that_the_device_is_given_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = lay_in_row(0, [Encoded([1, 2], [IGNORED, 2])])
    batch.images = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    pinned: list[int] = []

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(id(tensor))
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    assert batch.pin_memory() is batch
    given = [value for value in vars(batch).values() if isinstance(value, Tensor)]
    assert len(given) == 6
    assert {id(tensor) for tensor in given} == set(pinned)
