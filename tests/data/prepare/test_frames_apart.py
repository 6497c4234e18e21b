"""Stored frames of one cut are never taken for those of another: by the index, by the loader, by kept answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from frames_made import COUNT, SIZE, Here, fetched, storing
from made import mp4, png
from made import prepare as run

from videollava.data.load.shards import Shards
from videollava.data.media.stored import FORMS, StoredFrames, store_frames
from videollava.data.prepare import index
from videollava.data.prepare import shards as stage
from videollava.errors import InputError
from videollava.evaluate.media import Reader
from videollava.params import Frames

SUM = "5" * 64


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without processes, each of which would load torch."""
    monkeypatch.setattr(stage, "Pool", Here)
    monkeypatch.setattr(index, "Pool", Here)


def test_shards_that_were_cut_anew_are_not_read_by_an_old_index(tmp_path: Path) -> None:
    first = {f"{number}.mp4": mp4(number) for number in range(3)}
    run(storing(fetched(tmp_path, first)), tmp_path)
    reader = Reader(tmp_path, SIZE, SIZE, COUNT)
    old = Shards(tmp_path / "data/index")
    held = [old.read(number) for number in range(3)]
    assert len({len(one.data) for one in held if isinstance(one, StoredFrames)}) == 1  # sizes tell nothing
    marks = [reader.mark(("video", number)) for number in range(3)]
    assert len(set(marks)) == 3
    # The same names, other clips: the shard has its size, and each medium lies where the index says.
    shutil.rmtree(tmp_path / "data/raw")
    second = {"0.mp4": first["2.mp4"], "1.mp4": first["1.mp4"], "2.mp4": mp4(9)}
    chosen = storing(fetched(tmp_path, second))
    stage.run(chosen, tmp_path)
    new = Shards(tmp_path / "data/index")
    assert new.read(1) == held[1]
    for number in (0, 2):
        with pytest.raises(
            InputError, match=r"medium \d is not what was written; run `videollava shards mine` and"
        ):
            new.read(number)
    index.run(chosen, tmp_path)
    assert Shards(tmp_path / "data/index").read(0) == held[2]
    # Answers that were kept are not those of the new clips.
    again = Reader(tmp_path, SIZE, SIZE, COUNT)
    assert [again.mark(("video", number)) == marks[number] for number in range(3)] == [False, True, False]


def test_an_index_of_shards_that_were_cut_for_others_is_refused(tmp_path: Path) -> None:
    chosen = fetched(tmp_path, {"1.mp4": mp4(1)})
    ways = {
        "the files they are": chosen,
        "3 frames of 16 x 16, exact": storing(chosen),
        "3 frames of 16 x 16, rounded": storing(chosen, "rounded"),
        "4 frames of 16 x 16, exact": storing(chosen.replace(model=chosen.model.replace(frames=4))),
    }
    for is_there, way in ways.items():
        stage.run(way, tmp_path)
        for asked, other in ways.items():
            if asked == is_there:
                index.run(other, tmp_path)
                continue
            told = rf"shards/mine: its clips are {is_there}, and shards\.frames asks for {asked}: run `videollava"
            with pytest.raises(InputError, match=told):
                index.run(other, tmp_path)


def test_a_source_without_clips_is_not_cut_again_for_frames(tmp_path: Path) -> None:
    chosen = fetched(tmp_path, {"1.png": png(1)})
    run(chosen, tmp_path)
    before = (tmp_path / "data/shards/mine/summary.json").read_bytes()
    index.run(storing(chosen), tmp_path)
    stage.run(storing(chosen), tmp_path)
    assert (tmp_path / "data/shards/mine/summary.json").read_bytes() == before
    index.run(chosen.replace(shards=chosen.shards.replace(frames=Frames())), tmp_path)


@pytest.mark.parametrize("form", FORMS)
def test_a_bit_that_fell_over_is_an_error_or_changes_nothing(form: str) -> None:
    pixels = torch.arange(-192, 192, dtype=torch.int16).mul(80).reshape(2, 3, 8, 8)
    good = store_frames(pixels, form, SUM)  # type: ignore[arg-type]
    held = StoredFrames(good)
    assert (held.seal, held.sha256()) == (SUM, SUM)
    right = held.pixels(8, 2)
    begins = good.index(b"PK\x01\x02")  # the list of what the zip holds says which tools can read it
    refused = 0
    for place in range(begins, len(good)):
        for bit in range(8):
            bad = bytearray(good)
            bad[place] ^= 1 << bit
            try:
                assert torch.equal(StoredFrames(bytes(bad)).pixels(8, 2), right)
            except InputError:
                refused += 1
    assert refused > 100
