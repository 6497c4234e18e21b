"""Media that lie by themselves, in a folder that is read in place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made import lines, llava, mp4, params, png, prepare, tar

from videollava.data.acquire.fetch import run as fetch
from videollava.data.load.shards import Shards
from videollava.errors import InputError
from videollava.params import Source


def test_loose_media_and_archives_of_one_name_are_read(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    media = {"p/1.png": png(1), "p/2.png": png(2), "v/1.mp4": mp4(1)}
    for name, data in media.items():
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_bytes(data)
    tar(mine / "one/more.tar", {"m/1.png": png(3)})
    tar(mine / "two/more.tar", {"m/2.png": png(4)})
    named = [*media, "m/1.png", "m/2.png"]
    kinds = ["video" if name.endswith("mp4") else "image" for name in named]
    lines(
        mine / "notes.jsonl", [llava(name, **{kind: name}) for name, kind in zip(named, kinds, strict=True)]
    )
    chosen = params(Source(name="mine", kind="folder", format="llava", path="mine", use="finetune"))
    fetch(chosen, tmp_path)
    prepare(chosen, tmp_path)
    shards = Shards(tmp_path / "data/index", verify=True)
    held = {shards.read(number) for number in range(len(shards))}
    assert held == {*media.values(), png(3), png(4)}
    assert (
        json.loads((tmp_path / "data/index/summary.json").read_text())["splits"]["finetune"]["records"] == 5
    )
    (mine / "p/1.png").unlink()
    with pytest.raises(InputError, match=r"p/1\.png: it was there when mine was fetched and is not"):
        prepare(chosen, tmp_path)
