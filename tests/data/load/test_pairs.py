"""Media and captions in pairs: a medium that does not decode keeps its place, black."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from made import CLIPS, params, prepare

from videollava.data.acquire.fetch import run as fetch
from videollava.data.load import pairs
from videollava.data.load.batches import Layout, read_pixels
from videollava.data.media.pixels import normalise
from videollava.data.text.vocabulary import load_tokenizer
from videollava.errors import InputError


def test_a_lost_picture_keeps_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = params(CLIPS)
    fetch(chosen, tmp_path)
    prepare(chosen, tmp_path)
    folder = tmp_path / "data/index"
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


# Of any caption: they are not what is asked for here.
TEXTS: Any = defaultdict(lambda: torch.zeros(2))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Layout]:
    workspace = tmp_path_factory.mktemp("pairs")
    chosen = params(CLIPS)
    fetch(chosen, workspace)
    prepare(chosen, workspace)
    tokenizer = load_tokenizer(workspace / "data/index/tokenizer")
    tokenizer.pad_token = tokenizer.eos_token
    return workspace / "data/index", tokenizer, Layout.of(chosen.model, len(tokenizer), template="plain")


def test_what_is_drawn_belongs_to_a_pair_whatever_batch_and_rank_it_is_in(
    prepared: tuple[Path, Any, Layout],
) -> None:
    folder, tokenizer, layout = prepared
    count = len(pairs.rows_of(folder, "video"))
    found: list[dict[int, Any]] = []
    for size, ranks in ((4, 1), (4, 2), (2, 1)):
        plan = pairs.plan_pairs(count // 4 * 4, size, ranks, seed=0, epoch=3)
        given = pairs.Pairs(
            folder, "video", tokenizer, layout, plan, texts=TEXTS, seed=(0, 3), patch_dropout=0.5
        )
        kept = {
            row: given[p].kept[i].tolist()
            for p in range(len(given))
            for i, row in enumerate(plan.pack(p).tolist())
        }  # type: ignore[index]
        found.append(kept)
    assert found[0] == found[1] == found[2]
    assert {len(kept) for kept in found[0].values()} == {layout.image_tokens // 2}
    assert len({tuple(kept) for kept in found[0].values()}) > 1
    plan = pairs.plan_pairs(4, 4, 1, seed=0, epoch=3)
    assert pairs.Pairs(folder, "video", tokenizer, layout, plan, texts=TEXTS, seed=(0, 3))[0].kept is None


def test_a_captions_views_belong_to_it(prepared: tuple[Path, Any, Layout]) -> None:
    folder, tokenizer, _ = prepared
    found: list[dict[int, Any]] = []
    for size, ranks in ((8, 1), (8, 2), (2, 1)):
        plan = pairs.plan_pairs(8, size, ranks, seed=0, epoch=1)
        given = pairs.Captions(folder, tokenizer, plan, seed=(0, 1))
        views = {}
        for number in range(len(given)):
            batch = given[number]
            for place, row in enumerate(plan.pack(number).tolist()):
                words = int(batch.attention_mask[place].sum()), int(batch.pixels[place].sum())
                views[row] = words
        found.append(views)
    assert found[0] == found[1] == found[2]
    assert len(set(found[0].values())) > 1


def test_equal_captions_have_one_number_however_they_are_padded() -> None:
    first, second = pairs.number_captions(["a", "a red circle"]), pairs.number_captions(["a red circle"])
    assert first[1] == second[0] != first[0]
    assert (first >= 0).all()
