"""Media that lie by themselves, in a folder that is read in place."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest
from made import lines, llava, mp4, params, png, prepare, tar
from split_zips import split_zip

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


def test_archives_that_are_not_read_to_their_end_are_named_though_no_record_misses_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of pairs that lay in what is lost, nothing else tells."""
    pairs = {f"{n}.{end}": data for n in range(4) for end, data in (("png", png(n)), ("txt", b"a dot"))}
    whole = gzip.compress(
        tar(tmp_path / "0.tar", pairs | {"last.png": random.Random(0).randbytes(3 << 20)}).read_bytes()
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/0.tar.gz").write_bytes(whole[:-60])
    chosen = params(
        Source(name="mine", kind="folder", format="webdataset", path="mine", use="pretrain"),
        max_quarantined=0,
    )
    fetch(chosen, tmp_path)
    capsys.readouterr()
    prepare(chosen, tmp_path)
    told = capsys.readouterr().out
    assert "mine: 0.tar.gz: damaged archive: Compressed file ended before" in told
    assert "; get 0.tar.gz again" in told


def test_annotations_that_lie_in_what_can_not_be_read(tmp_path: Path) -> None:
    notes = "\n".join(json.dumps(llava(str(n), image=f"{n}.png")) for n in range(40))
    (tmp_path / "mine").mkdir()
    parts = split_zip(tmp_path / "mine/x.zip", {"0.png": png(), "notes.jsonl": notes.encode()}, 2000)
    parts[1].unlink()
    chosen = params(Source(name="mine", kind="folder", format="llava", path="mine", use="finetune"))
    fetch(chosen, tmp_path)
    said = r"not named; no \.json or \.jsonl lies .*\nx\.z01: unreadable archive: part z02 of x\.zip is not there"
    with pytest.raises(InputError, match=said):
        prepare(chosen, tmp_path)
