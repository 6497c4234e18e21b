"""An alignment that learned nothing fails with a hint; guess and floor by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from micro import MACHINE, micro

from videollava.errors import InputError
from videollava.tracking import track
from videollava.train import align
from videollava.train.contrast.losses import contrastive_loss, guess_and_floor


def test_guess_and_floor_by_hand() -> None:
    """Five pairs, one of them not there; of four captions two are the same."""
    captions = torch.tensor([1, 3, 1, 5, 1])
    present = torch.tensor([True, True, True, True, False])
    guess, floor = guess_and_floor(captions, present)
    assert guess == pytest.approx(math.log(4))
    assert floor == pytest.approx(2 * math.log(2) / 4)
    assert guess_and_floor(captions, ~present) == (0.0, 0.0)


def test_the_loss_itself_is_between_them() -> None:
    """Guessing: embeddings that are all the same. Knowing: those of equal captions agree and the others do not."""
    captions = torch.tensor([1, 2, 1, 3])
    present = torch.ones(4).bool()
    alone = type("Alone", (), {"ranks": 1, "rank": 0})()
    flat = torch.ones(4, 2) / math.sqrt(2)
    known = torch.eye(3)[[0, 1, 0, 2]]
    guess, floor = guess_and_floor(captions, present)
    losses = [
        float(contrastive_loss(alone, x, x, captions, torch.tensor(60.0), present)) for x in (flat, known)
    ]
    assert losses == pytest.approx([guess, floor], abs=1e-5)


def test_guessing_and_knowing_of_the_sigmoid_loss() -> None:
    """Of four pairs with three captions, six of 16 combinations are right."""
    captions, present = torch.tensor([1, 2, 1, 3]), torch.ones(4).bool()
    alone = type("Alone", (), {"ranks": 1, "rank": 0})()
    guess, floor = guess_and_floor(captions, present, sigmoid=True)
    assert guess == pytest.approx(-4 * (0.375 * math.log(0.375) + 0.625 * math.log(0.625)))
    known, scale, bias = torch.eye(3)[[0, 1, 0, 2]], torch.tensor(60.0), torch.tensor(-30.0)
    likely = torch.tensor(math.log(0.375 / 0.625))
    guessed = contrastive_loss(alone, known, known, captions, torch.tensor(0.0), present, likely)
    knowing = contrastive_loss(alone, known, known, captions, scale, present, bias)
    assert [float(guessed), float(knowing)] == pytest.approx([guess, floor], abs=1e-5)
    assert guess_and_floor(captions, ~present, sigmoid=True) == (0.0, 0.0)


def test_alignment_that_did_not_learn_fails_again_and_again_with_a_hint(
    workspace: Callable[[str], Path],
) -> None:
    folder, params = workspace("work"), micro("align.least_learned=0.99")
    for _ in range(2):  # the second goes on from the end of the first
        with pytest.raises(InputError, match=r"align-text: not learned: its loss is \d") as caught:
            align.run(params, folder, MACHINE)
    said = str(caught.value)
    assert "raise align.text_epochs (now 1), or accept it by align.least_learned: 0" in said
    assert "lower" not in said


def test_what_was_learned_is_in_the_journal(workspace: Callable[[str], Path]) -> None:
    folder, params = workspace("work"), micro("align.text_epochs=6")
    with track("align", params, folder):
        align.run(params, folder, MACHINE)
    (journal,) = (folder / "runs/align").glob("*.jsonl")
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    shares = [e["values"]["learned"] for e in events if e["event"] == "metric" and "learned" in e["values"]]
    assert len(shares) == 3
    assert 0.1 < shares[0] < 1.0
    assert all(-1.0 < share < 1.0 for share in shares)
