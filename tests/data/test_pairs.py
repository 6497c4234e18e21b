"""Media and captions in pairs: a medium that does not decode keeps its place, black."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from made import CLIPS, params

from videollava.data import pairs
from videollava.data.batches import Layout, read_pixels
from videollava.data.fetch import run as fetch
from videollava.data.pixels import normalise
from videollava.data.prepare import run as prepare
from videollava.data.vocabulary import load_tokenizer
from videollava.errors import InputError


def test_a_lost_picture_keeps_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = params(CLIPS)
    fetch(chosen, tmp_path)
    prepare(chosen, tmp_path)
    folder = tmp_path / "data/prepared"
    tokenizer = load_tokenizer(folder / "tokenizer")
    tokenizer.pad_token = tokenizer.eos_token
    count = len(pairs.rows_of(folder, "video"))
    plan = pairs.plan_pairs(count, 4, 1, seed=0, epoch=0)
    layout = Layout.of(chosen.model, len(tokenizer), template="plain")
    texts = {caption: torch.full((3,), float(n)) for n, caption in enumerate(pairs.captions_of(folder))}
    whole = pairs.Pairs(folder, "video", tokenizer, layout, plan, texts=texts)[0]
    reads: list[int] = []

    def lose_the_second(*given: Any) -> torch.Tensor:
        reads.append(1)
        if len(reads) == 2:
            raise InputError("medium 7: broken")
        return read_pixels(*given)

    monkeypatch.setattr(pairs, "read_pixels", lose_the_second)
    torn = pairs.Pairs(folder, "video", tokenizer, layout, plan, texts=texts)[0]
    assert torn.present.tolist() == [True, False, True, True]
    assert (torn.dropped, len(torn.lengths)) == (["medium 7: broken"], 3)
    assert torch.equal(torn.input_ids, whole.input_ids)
    told = tokenizer.batch_decode(whole.input_ids, skip_special_tokens=True)
    assert torch.equal(whole.texts, torch.stack([texts[caption] for caption in told]))
    kept = [0, 2, 3]
    assert torch.equal(torn.pixels[kept], whole.pixels[kept])
    black = normalise(torch.zeros_like(torn.pixels[1], dtype=torch.uint8))
    assert torch.equal(normalise(torn.pixels[1]), black)
