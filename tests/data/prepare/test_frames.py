"""Clips stored as the frames that training takes: the same pixels, splits and order, another file in the shard."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import clip, turned, with_edits
from frames_made import COUNT, SIZE, Here, fetched, storing
from made import archive_source, lines, llava, mp4, params, png, tar
from made import prepare as run

from videollava.data.acquire.fetch import run as fetch
from videollava.data.load.batches import Batch, Layout, Packs, load_batches
from videollava.data.load.packing import Lengths, plan_epoch
from videollava.data.load.shards import Shards
from videollava.data.media.pixels import STEPS, normalise
from videollava.data.media.read import load_pixels
from videollava.data.media.stored import FORMS, StoredFrames, store_frames
from videollava.data.pool import Pool
from videollava.data.prepare import shards as stage
from videollava.data.prepare.shards import weigh_frames
from videollava.data.prepare.tables import load_split
from videollava.data.prepare.weighing import Clip, Weighed, tell_weight
from videollava.data.prepare.writing import Sample, Writing, write_shard
from videollava.data.text.bounds import bound_of
from videollava.data.text.vocabulary import load_tokenizer
from videollava.errors import InputError
from videollava.evaluate.pictures import Album
from videollava.machine import Machine
from videollava.params import Frames, Model, Params

pytestmark = pytest.mark.usefixtures("at_once")

RIGHT = (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)  # a quarter turn
LAST = 89  # of the frames of `clip()`


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without processes, each of which would load torch."""
    monkeypatch.setattr(stage, "Pool", Here)


def broken_where_nobody_looks() -> bytes:
    """A clip whose first, middle and last frames decode, and not the second of three that training takes."""
    data = bytearray(clip(kind="mov", codec="png", pix="rgb24"))
    starts = [at for at in range(len(data) - 8) if data[at : at + 8] == b"\x89PNG\r\n\x1a\n"]
    body = starts[LAST // 2] + 60
    data[body : body + 40] = bytes(40)
    return bytes(data)


ODD = {
    "variable.mp4": lambda: clip(times=lambda index: index * index // 8 + index, bf="0"),
    "turned.mp4": lambda: turned(clip(), RIGHT),
    "short.mp4": lambda: clip(2),
    "cut.mp4": lambda: with_edits(clip(g="15"), (1.0, 0.5, 1)),
    "small.mp4": lambda: clip(width=SIZE, height=SIZE),  # nothing to resize
    "other.webm": lambda: clip(20, "webm", "libvpx"),
    "noise.mp4": lambda: mp4(1),
}


def batches(chosen: Params, workspace: Path, epochs: int = 2) -> Iterator[Batch]:
    """What training is given, in its order."""
    folder = workspace / "data/index"
    tokenizer = load_tokenizer(folder / "tokenizer")
    table = load_split(folder, "finetune")
    tokens, targets = (table[name].to_numpy() for name in ("tokens", "target_tokens"))
    layout = Layout.of(chosen.model, len(tokenizer), template="v1", bound=bound_of(chosen, "finetune"))
    for epoch in range(epochs):
        plan = plan_epoch(
            Lengths(tokens, targets, tokens), batch_size=4, ranks=1, budget=200, seed=5, epoch=epoch
        )
        yield from load_batches(
            Packs(folder, "finetune", tokenizer, layout, plan), range(len(plan.packs) - 1), 0
        )


def same(one: Batch, other: Batch) -> bool:
    values, others = vars(one), vars(other)
    return values.keys() == others.keys() and all(
        torch.equal(value, others[name]) and value.dtype == others[name].dtype
        if isinstance(value, torch.Tensor)
        else value == others[name]
        for name, value in values.items()
    )


def files(folder: Path, pattern: str = "*") -> dict[str, str]:
    found = sorted(file for file in folder.rglob(pattern) if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in found}


def test_training_is_step_for_step_the_same(tmp_path: Path) -> None:
    media = {name: make() for name, make in ODD.items()} | {"1.png": png(1), "broken.mp4": b"no clip"}
    plain, stored = tmp_path / "bare", tmp_path / "stored"
    chosen = fetched(plain, media, max_quarantined=0.3)
    run(chosen, plain)
    run(storing(fetched(stored, media, max_quarantined=0.3)), stored)
    steps = [list(batches(chosen, place)) for place in (plain, stored)]
    assert len(steps[0]) == len(steps[1]) > 4
    assert all(same(*pair) for pair in zip(*steps, strict=True))
    assert not any(batch.dropped for batch in steps[0])
    # The same samples, splits, quarantine and identities; another place in the shards.
    for name in ("splits", "tokenizer", "quarantine.jsonl"):
        one, other = plain / "data/index" / name, stored / "data/index" / name
        assert files(one) == files(other) if one.is_dir() else one.read_bytes() == other.read_bytes()
    columns = ["media_id", "kind", "shard", "sha256", "width", "height", "frames", "look"]
    tables = [Shards(place / "data/index").media.select(columns).to_pylist() for place in (plain, stored)]
    assert tables[0] == tables[1]
    assert [row["sha256"] for row in tables[0]][:2] == [
        hashlib.sha256(media[name]).hexdigest() for name in list(ODD)[:2]
    ]
    read = Shards(stored / "data/index", verify=True)
    kinds = [isinstance(read.read(number), StoredFrames) for number in range(len(read))]
    assert kinds == [True] * len(ODD) + [False]  # pictures stay the files they are
    assert read.read(len(ODD)) == media["1.png"]


def test_genuine_clips_bit_for_bit_and_rounded_by_half_a_level(tmp_path: Path, shared: Path) -> None:
    clips = {file.name: file.read_bytes() for file in sorted((shared / "media/video").glob("*.mp4"))[:3]}
    assert clips
    chosen = fetched(tmp_path, clips).replace(model=Model(image_size=64, patch_size=8, frames=8))
    sizes = {}
    for form in FORMS:
        run(storing(chosen, form), tmp_path)
        shards = Shards(tmp_path / "data/index", verify=True)
        sizes[form] = int(shards.media["size"].to_numpy().sum())
        for number, data in enumerate(clips.values()):
            decoded = load_pixels("video", data, 64, 8)
            read = load_pixels("video", shards.read(number), 64, 8)
            assert decoded.dtype == torch.int16
            if form == "exact":
                assert read.dtype == torch.int16
                assert torch.equal(read, decoded)
            else:
                assert read.dtype == torch.uint8
                levels = decoded.float() / STEPS + 128
                assert float((read.float() - levels).abs().max()) == 0.5
                assert float((normalise(read) - normalise(decoded)).abs().max()) < 0.0076
    assert sizes["rounded"] < sizes["exact"] / 3


def test_the_same_lock_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    media = {name: ODD[name]() for name in ("short.mp4", "noise.mp4", "small.mp4")}
    made = []
    for name, pool in (("two", Pool), ("one", Here)):
        monkeypatch.setattr(stage, "Pool", pool)
        chosen = storing(fetched(tmp_path / name, media), "rounded")
        run(chosen, tmp_path / name, Machine(workers=2))
        made.append(files(tmp_path / name / "data/shards"))
    assert made[0] == made[1]
    # And again from what was written before, which is linked and not written again.
    shard = tmp_path / "one/data/shards/mine/mine-00000.tar"
    before = shard.stat().st_ino
    run(chosen, tmp_path / "one")
    assert (files(tmp_path / "one/data/shards"), shard.stat().st_ino) == (made[0], before)


def test_what_is_stored_follows_the_parameter_and_goes_again(tmp_path: Path) -> None:
    chosen = fetched(tmp_path, {"noise.mp4": mp4(1), "1.png": png(1)})
    run(chosen, tmp_path)
    plain = files(tmp_path / "data")
    seen = set()
    for form in FORMS:
        run(storing(chosen, form), tmp_path)
        seen.add(files(tmp_path / "data/shards")["mine/mine-00000.tar"])
        summary = json.loads((tmp_path / "data/shards/mine/summary.json").read_text())
        assert summary["frames"] == {"count": COUNT, "size": SIZE, "form": form}
        assert summary["media"]["bytes"] == sum(Shards(tmp_path / "data/index").media["size"].to_pylist())
    run(chosen, tmp_path)
    assert files(tmp_path / "data") == plain
    assert len(seen) == 2


def test_a_pair_is_read_by_the_webdataset_library_and_its_frames_by_numpy(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="the webdataset library is not installed")
    data = clip()
    run(storing(fetched(tmp_path, {"1.mp4": data, "1.png": png(1)})), tmp_path)
    shard = tmp_path / "data/shards/mine/mine-00000.tar"
    first, second = webdataset.WebDataset(str(shard), shardshuffle=False).decode()
    assert {"frames.zip", "json"} < first.keys()
    assert {"png", "json"} < second.keys()
    assert first["json"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert (first["json"]["width"], first["json"]["frames"]) == (128, 90)  # of the clip
    assert first["json"]["records"][0]["id"] == "1.mp4"
    pixels = np.load(io.BytesIO(first["frames.zip"]))["pixels"]
    assert np.array_equal(pixels, load_pixels("video", data, SIZE, COUNT).numpy())
    with zipfile.ZipFile(io.BytesIO(first["frames.zip"])) as archive:
        assert archive.comment.decode() == first["json"]["sha256"]


def test_pairs_are_told_by_names_that_say_what_they_are(tmp_path: Path) -> None:
    """Whatever media are called where they come from."""
    webdataset = pytest.importorskip("webdataset", reason="the webdataset library is not installed")
    clips = (
        "a/b.c/with space.MP4",
        "юни код.mp4",
        "bare",
        "v1.2",
        "odd.my ext",
        "q.文",
        "like.txt",
        "x.json",
    )
    media = {name: mp4(number) for number, name in enumerate(clips)} | {
        "p.q": png(1),
        "p.json": png(2),
        "p.JPG": png(3),
    }
    records = [llava(name, **{"image" if name[0] == "p" else "video": name}) for name in media]
    archive = tar(tmp_path / "from/media.tar", media)
    source = archive_source(archive, lines(tmp_path / "from/notes.jsonl", records), annotations="notes.jsonl")
    chosen = params(source)
    fetch(chosen, tmp_path)
    for way, ending in ((chosen, "mp4"), (storing(chosen), "frames.zip")):
        stage.run(way, tmp_path)
        shard = tmp_path / "data/shards/mine/mine-00000.tar"
        samples = list(webdataset.WebDataset(str(shard), shardshuffle=False))
        found = [[name for name in sample if not name.startswith("__")] for sample in samples]
        pictures = [[name, "json"] for name in ("png", "png", "jpg")]
        assert found == [[ending, "json"]] * len(clips) + pictures
        ids = [json.loads(sample["json"])["records"][0]["id"] for sample in samples]
        assert ids == list(media)
        assert [sample["__key__"] for sample in samples] == [f"{number:08d}" for number in range(len(media))]


def test_whole_levels_are_pictures_that_anyone_opens() -> None:
    from PIL import Image

    pixels = load_pixels("video", mp4(3), 48, 4)
    with zipfile.ZipFile(io.BytesIO(store_frames(pixels, "rounded", "5" * 64))) as archive:
        assert archive.namelist() == [f"00{number}.webp" for number in range(4)]
        for number, name in enumerate(archive.namelist()):
            shown = np.asarray(Image.open(archive.open(name)))
            levels = pixels[number].permute(1, 2, 0).float() / STEPS + 128
            assert np.abs(shown - levels.numpy()).max() <= 0.5


def test_other_frames_than_are_stored_are_refused(tmp_path: Path) -> None:
    said = r"shards.frames stores 3 frames of 16 pixels, and model takes 4 of 16 .*: write the same in both, or shards"
    chosen = storing(fetched(tmp_path, {"noise.mp4": mp4(1)}))
    with pytest.raises(ValueError, match=said):
        chosen.replace(model=chosen.model.replace(frames=4))
    run(chosen, tmp_path)
    other = chosen.replace(
        shards=chosen.shards.replace(frames=Frames()), model=chosen.model.replace(frames=4)
    )
    told = r"of mine's clips 3 frames of 16 pixels are stored \(shards.frames\), and 4 of 16 are asked for: write"
    with pytest.raises(InputError, match=told):
        next(batches(other, tmp_path))
    from videollava.evaluate.media import Reader

    Reader(tmp_path, SIZE, SIZE, COUNT).check_frames()
    reader = Reader(tmp_path, SIZE, 24, COUNT)
    with pytest.raises(InputError, match="3 of 24 are asked for"):
        reader.check_frames()
    assert "3 frames of 16 pixels are stored" in str(reader(("video", 0)))


def test_a_clip_that_can_not_be_stored_stays_and_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    media = {"fine.mp4": mp4(1), "flawed.mov": broken_where_nobody_looks()}
    with pytest.raises(InputError):
        load_pixels("video", media["flawed.mov"], SIZE, COUNT)
    chosen = storing(fetched(tmp_path, media))
    run(chosen, tmp_path)
    shards = Shards(tmp_path / "data/index", verify=True)
    assert [isinstance(shards.read(number), StoredFrames) for number in range(2)] == [True, False]
    assert shards.read(1) == media["flawed.mov"]
    told = capsys.readouterr().out
    assert "mine: 1 clips are stored as they are, their frames can't be decoded: flawed.mov: " in told
    dropped = [reason for batch in batches(chosen, tmp_path, 1) for reason in batch.dropped]
    assert len(dropped) == 1  # as without storing


def test_a_clip_that_kills_the_decoder_stays(tmp_path: Path) -> None:
    from videollava.data.archives.listing import Member, list_members

    archive = tar(tmp_path / "a.tar", {"0.mp4": mp4(0), "1.mp4": mp4(1)})
    members = [one for one in list_members(archive) if isinstance(one, Member)]
    samples = [
        Sample(f"0000000{number}", ".mp4", member, "video", "0" * 64, (32, 48, 5), ())
        for number, member in enumerate(members)
    ]
    (tmp_path / "written").mkdir()
    empty_records(tmp_path / "records.arrow")
    frames = Frames(count=COUNT, size=SIZE)
    writing = Writing(tmp_path / "out.tar", tmp_path / "written", tmp_path / "records.arrow", samples, frames)
    written = stage._write_apart(Here(fatal=samples[1]), frames, writing)
    assert [place.stored for place in written.places] == [True, False]
    assert written.places[1].reason == "1.mp4: the decoder crashed or ran out of memory"
    with tarfile.open(tmp_path / "out.tar") as made:
        assert made.getnames()[::2] == ["00000000.frames.zip", "00000001.mp4"]
    # What another worker had done is done again where its answer was lost with the one that died.
    shard = (tmp_path / "out.tar").read_bytes()
    assert write_shard(writing) == written
    for held in (
        "",
        "[{",
        "[]",
        '[{"place": 1}]',
    ):  # a list that is not whole is written anew, with its shard
        (tmp_path / "written" / f"{written.key}.json").write_text(held)
        again = write_shard(replace(writing, whole={"00000001": written.places[1].reason}))
        assert (again, (tmp_path / "out.tar").read_bytes()) == (written, shard)
    assert {file.suffix for file in (tmp_path / "written").iterdir()} == {".tar", ".json"}


def empty_records(file: Path) -> None:
    from videollava.data.prepare.tables import TableWriter, record_schema

    TableWriter(file, record_schema()).close()


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    media = {f"{number}.mp4": clip(60 + number, width=320, height=240) for number in range(8)}
    chosen = fetched(tmp_path, media).replace(model=Model(image_size=256, patch_size=8, frames=3))
    # A shard of 1 MiB takes one clip of 3 frames of 256 x 256.
    chosen = chosen.replace(finetune=chosen.finetune.replace(max_tokens=4000))
    chosen = storing(chosen.replace(shards=chosen.shards.replace(shard_mib=1)))
    (tmp_path / "chosen.json").write_text(chosen.model_dump_json())
    code = (
        "import json, sys; from pathlib import Path; from videollava.data.prepare import shards\n"
        "from videollava.params import Params\n"
        "if __name__ == '__main__':\n"
        "    held = json.loads(Path('chosen.json').read_text())\n"
        "    shards.run(Params.model_validate(held), Path('.'))\n"
    )
    (tmp_path / "cut.py").write_text(code)
    written = tmp_path / "checkpoints/shards/mine/written"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.Popen(
        [sys.executable, "cut.py"], cwd=tmp_path, env=environment, start_new_session=True
    )
    try:
        until = time.monotonic() + 60
        while not (held := list(written.glob("*.tar"))) and time.monotonic() < until:
            assert process.poll() is None
            time.sleep(0.005)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert held
    before = {file: file.stat().st_ino for file in held}
    run(chosen, tmp_path)
    assert {file: file.stat().st_ino for file in before} == before
    assert len(list((tmp_path / "data/shards/mine").glob("*.tar"))) == 8
    shards = Shards(tmp_path / "data/index", verify=True)
    for number, data in enumerate(media.values()):
        assert torch.equal(
            load_pixels("video", shards.read(number), 256, 3), load_pixels("video", data, 256, 3)
        )


def test_disk_and_speed_are_told_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = fetched(tmp_path, {f"{seed}.mp4": mp4(seed, 9) for seed in range(3)})
    before = files(tmp_path)
    capsys.readouterr()
    weigh_frames(chosen, tmp_path, Machine())
    exact, rounded = capsys.readouterr().out.splitlines()
    kib = 2 * 3 * COUNT * SIZE * SIZE / 1024
    assert exact.startswith("mine: 3 clips, ")
    assert f"as 3 frames of 16 x 16, exact: {3 * kib + 0.7:.0f} KiB, read in " in exact
    assert exact.endswith("3 clips measured here); the very numbers that decoding gives")
    assert "as 3 frames of 16 x 16, rounded: " in rounded
    assert files(tmp_path) == before  # nothing is written
    run(storing(chosen), tmp_path)
    told = capsys.readouterr().out
    assert told.startswith("mine: 3 clips, ")
    assert told.count("exact: ") == 1
    flawed = Weighed(9, 900, [Clip(50, 1.0, 2.0)], 7)
    assert "1 clips measured here, 7 more can't be decoded)" in tell_weight("mine", flawed, Frames(count=1))
    slow, frames = Weighed(9, 900, [Clip(50, 1.0, 2.0)]), Frames(count=COUNT, size=SIZE)
    assert "(hardly faster, if at all; 1 clips" in tell_weight("mine", slow, frames)
    assert (slow.most, Weighed(9, 900, []).most) == (450, 900)  # what can't be decoded stays a file


def test_more_than_the_disk_holds_is_refused_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = storing(fetched(tmp_path, {f"{seed}.mp4": mp4(seed) for seed in range(3)}))
    needed = 3 * (2048 + 2 * 3 * COUNT * SIZE * SIZE)
    free = type("Free", (), {"free": needed})
    monkeypatch.setattr(stage.shutil, "disk_usage", lambda folder: free)
    with pytest.raises(InputError, match=r"the shards take 0.0 GiB and 0.0 GiB are free"):
        run(chosen, tmp_path)
    assert not list(tmp_path.rglob("*.frames.zip"))
    assert not list((tmp_path / "checkpoints/shards/mine/written").iterdir())
    free.free = needed + 3000  # type: ignore[attr-defined]
    run(chosen, tmp_path)


def test_stored_frames_are_sealed_with_their_clip(tmp_path: Path) -> None:
    run(storing(fetched(tmp_path, {"1.mp4": mp4(1), "2.mp4": mp4(2)})), tmp_path)
    index = tmp_path / "data/index"
    shards = Shards(index, verify=True)
    first, second = (shards.read(number) for number in range(2))
    assert isinstance(first, StoredFrames)
    assert isinstance(second, StoredFrames)
    assert len(first.data) == len(second.data)
    shard = tmp_path / "data/shards/mine/mine-00000.tar"
    content = shard.read_bytes()
    shard.unlink()  # it is a link
    shard.write_bytes(content.replace(first.data, second.data))
    with pytest.raises(InputError, match="medium 0 is not what was written"):
        Shards(index, verify=True).read(0)
    middle = len(first.data) // 2
    torn = first.data[:middle] + bytes([first.data[middle] ^ 1]) + first.data[middle + 1 :]
    with pytest.raises(InputError, match="its stored frames are damaged"):
        StoredFrames(torn).pixels(SIZE, COUNT)
    with pytest.raises(InputError, match="its stored frames are damaged"):
        StoredFrames(torn).sha256()
    with pytest.raises(InputError, match="its stored frames are damaged"):
        StoredFrames(first.data[:100]).pixels(SIZE, COUNT)


def test_reports_show_stored_frames(tmp_path: Path) -> None:
    run(storing(fetched(tmp_path, {"1.mp4": clip()})), tmp_path)
    album = Album(tmp_path, 8, 1_000_000)
    shown = str(album.picture(0))
    assert (album.refused, shown.count("<img"), "frame 3 of 3" in shown) == (0, COUNT, True)
    frames = StoredFrames(Shards(tmp_path / "data/index").read(0).data)  # type: ignore[union-attr]
    assert frames.pictures(2).shape == (2, SIZE, SIZE, 3)
