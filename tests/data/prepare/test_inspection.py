"""What preparation learns of media, and decoders that crash or hang, with any number of workers."""

from __future__ import annotations

from pathlib import Path

import pytest
from clips import clip, with_edits
from decoders import BAD, hang
from made import archive_source, lines, llava, mp4, params, png, prepare, tar

from videollava.data.acquire import fetch
from videollava.data.load.shards import Shards
from videollava.data.media.video import read_frames
from videollava.data.prepare import probing
from videollava.data.prepare.inspection import inspect
from videollava.data.prepare.tables import load_split

MEDIA = {"a.png": png(1), "b.mp4": mp4(1), BAD: mp4(2), "d.png": png(2)}


def test_with_one_worker_too_a_hanging_decoder_costs_its_medium_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "inspect_all", hang)
    records = [
        llava("one", image="a.png"),
        llava("two", video="b.mp4"),
        llava("three", video=BAD),
        llava("four", image="d.png"),
    ]
    files = tar(tmp_path / "m.tar", MEDIA), lines(tmp_path / "a.jsonl", records)
    chosen = params(archive_source(*files, annotations="a.jsonl"), max_quarantined=0.5)
    fetch.run(chosen, tmp_path)
    prepare(chosen, tmp_path)
    table = load_split(tmp_path / "data/index", "finetune")
    assert sorted(table.column("id").to_pylist()) == ["four", "one", "two"]


def test_a_trimmed_clip_is_measured_as_it_is_shown(tmp_path: Path) -> None:
    data = with_edits(clip(90, g="30"), (2, 1, 1))
    assert (inspect("a", "video", data).frames, inspect("a", "video", data).reason) == (60, "")
    files = (
        tar(tmp_path / "m.tar", {"a.mp4": data}),
        lines(tmp_path / "a.jsonl", [llava("one", video="a.mp4")]),
    )
    chosen = params(archive_source(*files, annotations="a.jsonl"), vocab_size=260)
    fetch.run(chosen, tmp_path)
    prepare(chosen, tmp_path)
    shards = Shards(tmp_path / "data/index")
    assert shards.media.column("frames").to_pylist() == [60]
    assert len(read_frames(shards.read(0), 8)) == 8


def test_what_is_broken_has_a_reason() -> None:
    found = inspect("a", "video", clip(30)[:2000])
    assert found.reason == "broken video"
    assert "cut short" in found.detail
    assert inspect("a", "video", b"").reason == "empty file"
    assert "it is a PNG picture" in inspect("a", "video", png()).detail
    assert "give it as a video" in inspect("a", "image", mp4()).detail
