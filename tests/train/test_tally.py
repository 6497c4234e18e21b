"""Whose the loss is: by kind and by record, with values by hand."""

from __future__ import annotations

import math

import pytest
import torch

from videollava.data.load.batches import KINDS, Batch, lay_in_row
from videollava.data.text.prompts import IGNORED, Encoded
from videollava.train.tally import Tally


def pack(kinds: dict[str, int]) -> Batch:
    """A record of each kind with so many labels, numbered from 7."""
    encoded = [Encoded(list(range(5, 7 + n)), [IGNORED] * 2 + list(range(7, 7 + n))) for n in kinds.values()]
    batch = lay_in_row(0, encoded)
    batch.records = list(range(7, 7 + len(kinds)))
    batch.target_kinds = torch.tensor([KINDS.index(kind) for kind in kinds])[batch.target_segments]
    return batch


def test_targets_know_their_segment() -> None:
    batch = pack({"video": 2, "text": 1, "image": 3})
    assert batch.target_segments.tolist() == [0, 0, 1, 2, 2, 2]
    assert batch.target_kinds is not None
    assert [KINDS[kind] for kind in batch.target_kinds] == [
        "video",
        "video",
        "text",
        "image",
        "image",
        "image",
    ]


def test_losses_by_kind_and_by_record() -> None:
    tally = Tally(torch.device("cpu"))
    tally.add(pack({"video": 2, "text": 1, "image": 3}), torch.tensor([1.0, 2.0, 4.0, 1.0, 1.0, 7.0]))
    tally.add(pack({"video": 1}), torch.tensor([5.0]))
    assert dict(zip(KINDS, tally.sums.tolist(), strict=True)) == {"text": 4.0, "image": 9.0, "video": 8.0}
    assert dict(zip(KINDS, tally.labels, strict=True)) == {"text": 1, "image": 3, "video": 3}
    assert tally.worst() == [(7, 5.0), (8, 4.0), (9, 3.0), (7, 1.5)]
    tally.clear()
    assert tally.sums.tolist() == [0.0] * 3
    assert tally.worst() == []


def test_what_is_no_number_comes_first_and_stays_with_its_kind() -> None:
    tally = Tally(torch.device("cpu"))
    tally.add(pack({"video": 1, "text": 1, "image": 2}), torch.tensor([9.0, math.nan, 1.0, 2.0]))
    assert [row for row, _ in tally.worst()] == [8, 7, 9]
    sums = dict(zip(KINDS, tally.sums.tolist(), strict=True))
    assert math.isnan(sums["text"])
    assert (sums["image"], sums["video"]) == (3.0, 9.0)


def test_a_pack_of_nothing_counts_nothing() -> None:
    blank = lay_in_row(0, [Encoded([1], [IGNORED])])
    blank.target_kinds = torch.tensor([0])[blank.target_segments]
    tally = Tally(torch.device("cpu"))
    tally.add(blank, torch.zeros(0))
    assert (tally.labels, tally.worst()) == ([0, 0, 0], [])
    with pytest.raises(ValueError, match="target_kinds"):
        tally.add(lay_in_row(3, [Encoded([1], [IGNORED])]), torch.zeros(0))
