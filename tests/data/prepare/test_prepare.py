from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from made import CLIPS, archive_source, lines, llava, mp4, params, png, tar
from made import prepare as run

from videollava.data.acquire.fetch import run as fetch
from videollava.data.load.shards import Shards
from videollava.data.prepare import probing
from videollava.data.prepare.inspection import Inspected, inspect
from videollava.data.prepare.tables import load_split, split_names
from videollava.errors import InputError
from videollava.machine import Machine
from videollava.params import Params

MEDIA = {
    "p/1.png": png(1),
    "p/2.png": png(2),
    "v/1.mp4": mp4(1),
    "p/same.png": png(1),
    "p/unused.png": png(9),
}
RECORDS = [
    llava("one", image="p/1.png"),
    llava("two", image="p/2.png", video="v/1.mp4"),
    llava("text"),
    llava("same", image="p/same.png"),
]


def fetched(workspace: Path, media: dict[str, bytes], records: list[Any], **settings: Any) -> Params:
    archive = tar(workspace / "from/media.tar", media)
    notes = lines(workspace / "from/notes.jsonl", records)
    chosen = params(archive_source(archive, notes), **settings)
    fetch(chosen, workspace)
    return chosen


def files(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def quarantined(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def test_records_and_media_arrive_whole(tmp_path: Path) -> None:
    run(fetched(tmp_path, MEDIA, RECORDS), tmp_path)
    folder = tmp_path / "data/index"
    shards = Shards(folder, verify=True)
    assert [shards.read(number) for number in range(len(shards))] == [
        MEDIA[n] for n in ("p/1.png", "p/2.png", "v/1.mp4")
    ]
    assert shards.media.select(["kind", "width", "height", "frames"]).to_pylist() == [
        {"kind": "image", "width": 20, "height": 12, "frames": 1},
        {"kind": "image", "width": 20, "height": 12, "frames": 1},
        {"kind": "video", "width": 32, "height": 48, "frames": 5},
    ]
    assert split_names(folder) == ["finetune"]
    rows = load_split(folder, "finetune").to_pylist()
    assert [row["id"] for row in rows] == ["one", "two", "text", "same"]
    assert [row["media"] for row in rows] == [[0], [1, 2], [], [0]]
    assert [(row["images"], row["videos"]) for row in rows] == [(1, 0), (1, 1), (0, 0), (1, 0)]
    assert [row["tokens"] - row["text_tokens"] for row in rows] == [4, 4 + 15, 0, 4]
    assert json.loads(rows[2]["conversations"]) == [["human", "what is it?"], ["gpt", "it is text"]]
    assert quarantined(folder) == []
    counts = summary(folder)
    assert counts["splits"]["finetune"]["records"] == 4
    assert counts["media"]["kinds"] == {"image": 2, "video": 1}
    assert counts["media"]["duplicates"] == 1
    with tarfile.open(tmp_path / "data/shards/mine/mine-00000.tar") as archive:
        assert archive.getnames() == [
            f"0000000{number}.{ending}"
            for number, name in enumerate(("png", "png", "mp4"))
            for ending in (name, "json")
        ]


def test_token_counts_are_those_of_the_templates(tmp_path: Path) -> None:
    from videollava.data.records.record import Turn
    from videollava.data.text.prompts import encode
    from videollava.data.text.vocabulary import load_tokenizer

    chosen = fetched(tmp_path, MEDIA, RECORDS)
    for use, template in (("finetune", "v1"), ("pretrain", "plain")):
        source = next(iter(chosen.sources.values())).replace(use=use)
        run(
            chosen.replace(
                sources={"mine": source},
                shards=chosen.shards.replace(max_quarantined=0.3),
            ),
            tmp_path,
        )
        folder = tmp_path / "data/index"
        tokenizer = load_tokenizer(folder / "tokenizer")
        row = load_split(folder, use).to_pylist()[1]
        turns = [Turn(role, text) for role, text in json.loads(row["conversations"])]
        encoded = encode(turns, ["image", "video"], tokenizer, template)
        assert (row["text_tokens"], row["target_tokens"]) == (encoded.text_tokens, encoded.target_tokens)
    assert [entry["reason"] for entry in quarantined(folder)] == [
        "cannot be encoded"
    ]  # stage 1 has no text-only


@pytest.mark.parametrize("workers", [2])
def test_the_same_bytes_whatever_the_workers(tmp_path: Path, workers: int) -> None:
    chosen = params(CLIPS)
    fetch(chosen, tmp_path)
    run(chosen, tmp_path)
    first, cut = files(tmp_path / "data/index"), files(tmp_path / "data/shards")
    assert set(first) == {
        *(f"splits/{name}.arrow" for name in ("align", "pretrain", "finetune", "test-toy_video_qa")),
        *("card.json", "shards.json", "media.arrow", "quarantine.jsonl", "summary.json"),
        *("tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"),
    }
    assert summary(tmp_path / "data/index")["left_out"] == {"near_a_test": {}, "thinned": {}}
    shutil.rmtree(tmp_path / "checkpoints")
    run(chosen, tmp_path, Machine(workers=workers))
    assert files(tmp_path / "data/index") == first
    assert files(tmp_path / "data/shards") == cut


def test_shards_are_cut_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = png(1, 640, 640), png(2, 640, 640)  # of over a MiB each
    large = {**MEDIA, "p/1.png": one, "p/same.png": one, "p/2.png": two}
    chosen = fetched(tmp_path, large, RECORDS, shard_mib=1)
    run(chosen, tmp_path)
    folder = tmp_path / "data/index"
    assert len(list((tmp_path / "data/shards/mine").glob("mine-*.tar"))) == 3
    assert Shards(folder, verify=True).media.column("shard").to_pylist() == [0, 1, 2]
    assert [Shards(folder).read(number) for number in range(3)] == [
        large[n] for n in ("p/1.png", "p/2.png", "v/1.mp4")
    ]


def test_what_a_test_asks_about_is_left_out_of_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = params(CLIPS)
    fetch(chosen, tmp_path)
    raw = tmp_path / "data/raw/toy_clips"
    clips = {}
    with tarfile.open(raw / "train.tar") as train:
        clips["test/00000.mp4"] = train.extractfile("train/00003.mp4").read()  # type: ignore[union-attr]
    with tarfile.open(raw / "test.tar") as test:
        clips |= {f"test/{n:05d}.mp4": test.extractfile(f"test/{n:05d}.mp4").read() for n in range(1, 8)}  # type: ignore[union-attr]
    tar(raw / "test.tar", clips)
    run(chosen, tmp_path)
    left = summary(tmp_path / "data/index")["left_out"]["near_a_test"]["toy_clips"]
    assert left >= 3  # of alignment, captions and instructions
    assert f"toy_clips: {left:,} samples are left out of training: a test asks" in capsys.readouterr().out
    asked, trained = (
        {n for row in load_split(tmp_path / "data/index", name).to_pylist() for n in row["media"]}
        for name in ("test-toy_video_qa", "finetune")
    )
    assert asked
    assert not asked & trained


def test_samples_that_repeat_others_are_kept_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = llava("one", image="p/1.png")
    other = {**same, "image": "p/2.png"}
    run(fetched(tmp_path, MEDIA, [same, other, {**same, "id": "two"}]), tmp_path)
    counts = summary(tmp_path / "data/index")["splits"]["finetune"]
    assert (counts["records"], counts["repeated"]) == (3, 1)
    assert "finetune: 1 of 3 samples say what another says about the same media" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "[]", '{"data": []}'])
def test_a_source_without_records_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="source 'mine': no record is in its annotations"):
        run(fetched(tmp_path, MEDIA, [text]), tmp_path)


def test_compressed_annotations_beside_and_inside_the_archives(tmp_path: Path) -> None:
    packed = gzip.compress("".join(json.dumps(record) + "\n" for record in RECORDS).encode())
    for name, members, files in (
        ("inside", {"notes.jsonl.gz": packed}, {}),
        ("beside", {}, {"n.json.gz": packed}),
    ):
        workspace = tmp_path / name
        paths = [tar(workspace / "from/media.tar", MEDIA | members)]
        for file, data in files.items():
            (workspace / "from" / file).write_bytes(data)
            paths.append(workspace / "from" / file)
        chosen = params(archive_source(*paths))
        fetch(chosen, workspace)
        run(chosen, workspace)
        found = summary(workspace / "data/index")
        assert found["splits"]["finetune"]["records"] == len(RECORDS)
        assert found["quarantined"]["members"] == {}


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


BROKEN = {
    "p/cut.png": cut(png(3)),
    "p/text.png": b"not a picture",
    "p/empty.png": b"",
    "v/cut.mp4": cut(mp4(3)),
    "v/noise.mp4": os.urandom(2000),
    "v/picture.mp4": b"\0" * 500,
}
BAD_RECORDS = [
    *(llava(f"uses-{name}", **{"image" if name.endswith("png") else "video": name}) for name in BROKEN),
    llava("missing", image="p/nowhere.png"),
    llava("outside", image="../../secret.png"),
    {**llava("unmarked"), "image": "p/1.png"},
    llava("two-kinds", video="p/1.png"),
    '{"id": "cut off',
]
REASONS = {
    "uses-p/cut.png": "broken image",
    "uses-p/text.png": "broken image",
    "uses-p/empty.png": "empty file",
    "uses-v/cut.mp4": "broken video",
    "uses-v/noise.mp4": "broken video",
    "uses-v/picture.mp4": "broken video",
    "missing": "missing medium",
    "outside": "unsafe path",
    "unmarked": "marks and media differ",
    "two-kinds": "medium of two kinds",
    "14": "malformed line",
}


def test_what_is_broken_is_quarantined_with_its_reason(tmp_path: Path) -> None:
    run(fetched(tmp_path, MEDIA | BROKEN, RECORDS + BAD_RECORDS, max_quarantined=0.8), tmp_path)
    folder = tmp_path / "data/index"
    entries = quarantined(folder)
    assert {entry["record"]: entry["reason"] for entry in entries} == REASONS
    assert all(entry["source"] == "mine" and entry["detail"] for entry in entries)
    assert load_split(folder, "finetune").column("id").to_pylist() == ["one", "two", "text", "same"]
    assert len(Shards(folder)) == 3
    counts = summary(folder)["quarantined"]
    assert counts["records"] == len(REASONS)
    assert counts["share"] == pytest.approx(11 / 15, abs=1e-6)
    assert counts["by_source"]["mine"]["broken video"] == 3


def test_too_much_of_it_fails_the_stage_and_leaves_the_list(tmp_path: Path) -> None:
    chosen = fetched(tmp_path, MEDIA | BROKEN, RECORDS + BAD_RECORDS, max_quarantined=0.5)
    with pytest.raises(InputError) as caught:
        run(chosen, tmp_path)
    text = str(caught.value)
    assert "source 'mine': 11 of 15 records can't be used (73.3%; " in text
    assert "params.yaml: shards.max_quarantined allows 50.0%)" in text
    assert "3 records: broken video, such as finetune: uses-v/cut.mp4: v/cut.mp4: " in text
    kept = (tmp_path / "runs/quarantine.jsonl").read_text()
    assert len(kept.splitlines()) == 11
    assert not (tmp_path / "data/index").exists()
    assert not (tmp_path / "data/index.tmp").exists()


def test_a_small_source_that_is_all_broken_does_not_hide_behind_a_large_one(tmp_path: Path) -> None:
    small = tar(tmp_path / "small.tar", {"notes.jsonl": json.dumps(llava("lost", image="1.png")).encode()})
    chosen = params(CLIPS, archive_source(small, name="small"), max_quarantined=0.1)
    fetch(chosen, tmp_path)
    with pytest.raises(InputError, match="source 'small': 1 of 1 records"):
        run(chosen, tmp_path)


def test_a_failure_leaves_the_last_good_data(tmp_path: Path) -> None:
    chosen = fetched(tmp_path, MEDIA, RECORDS)
    run(chosen, tmp_path)
    before = files(tmp_path / "data/index")
    raw = tmp_path / "data/raw/mine"
    lines(raw / "notes.jsonl", ["oops"] * 10)
    with pytest.raises(InputError, match="malformed line"):
        run(chosen, tmp_path)
    assert files(tmp_path / "data/index") == before
    shutil.rmtree(raw)
    with pytest.raises(InputError, match="data/raw/mine: not found; run `videollava fetch` first"):
        run(chosen, tmp_path)


def test_a_hostile_archive_does_no_harm_and_is_reported(tmp_path: Path) -> None:
    archive = tmp_path / "from/hostile.tar"
    archive.parent.mkdir()
    with tarfile.open(archive, "w") as writer:
        for name, kind in (
            ("../../evil.png", tarfile.REGTYPE),
            ("link.png", tarfile.SYMTYPE),
            ("1.png", tarfile.REGTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd" if kind == tarfile.SYMTYPE else ""
            info.size = len(png()) if kind == tarfile.REGTYPE else 0
            writer.addfile(info, io.BytesIO(png()))
    notes = lines(
        tmp_path / "from/notes.jsonl", [llava("good", image="1.png"), llava("bad", image="link.png")]
    )
    chosen = params(archive_source(archive, notes), max_quarantined=0.5)
    fetch(chosen, tmp_path)
    run(chosen, tmp_path)
    assert not list(tmp_path.parent.glob("**/evil.png"))
    entries = quarantined(tmp_path / "data/index")
    assert [(entry.get("member"), entry.get("record"), entry["reason"]) for entry in entries] == [
        ("../../evil.png", None, "unsafe member"),
        ("link.png", None, "unsafe member"),
        (None, "bad", "missing medium"),
    ]
    assert summary(tmp_path / "data/index")["quarantined"]["members"] == {"mine": {"unsafe member": 2}}


def test_zip_and_compressed_archives_and_a_json_array(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    with zipfile.ZipFile(tmp_path / "from/a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("p/1.png", MEDIA["p/1.png"])
    with tarfile.open(tmp_path / "from/b.tar.gz", "w:gz") as packed:
        for name in ("p/2.png", "v/1.mp4", "p/1.png"):
            info = tarfile.TarInfo(name)
            info.size = len(MEDIA[name])
            packed.addfile(info, io.BytesIO(MEDIA[name]))
    notes = tmp_path / "from/notes.json"
    notes.write_text(json.dumps(RECORDS[:3]))
    chosen = params(archive_source(tmp_path / "from/a.zip", tmp_path / "from/b.tar.gz", notes))
    fetch(chosen, tmp_path)
    run(chosen, tmp_path)
    folder = tmp_path / "data/index"
    assert [Shards(folder, verify=True).read(n) for n in range(3)] == [
        MEDIA[n] for n in ("p/1.png", "p/2.png", "v/1.mp4")
    ]
    assert [entry["reason"] for entry in quarantined(folder)] == ["duplicate member"]
    assert not (tmp_path / "checkpoints/shards/mine/unpacked").exists()


def test_stray_files_and_folders_are_reported(tmp_path: Path) -> None:
    chosen = fetched(tmp_path, MEDIA, RECORDS)
    (tmp_path / "data/raw/mine/folder").mkdir()
    (tmp_path / "data/raw/mine/loose.png").write_bytes(png())
    run(chosen, tmp_path)
    entries = quarantined(tmp_path / "data/index")
    assert [(entry["file"], entry["reason"]) for entry in entries] == [
        ("folder", "unreadable archive"),
        ("loose.png", "unreadable archive"),
    ]


def die(media: list[Any], known: Any = None) -> list[Inspected]:
    """As inspect_all, with a decoder that p/2.png kills."""
    if any(member.name == "p/2.png" for member, _ in media):
        os.abort()
    return [inspect(member.name, kind, MEDIA[member.name]) for member, kind in media]


def test_a_medium_that_kills_the_decoder_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "inspect_all", die)
    run(fetched(tmp_path, MEDIA, RECORDS, max_quarantined=0.3), tmp_path, Machine(workers=2))
    entries = quarantined(tmp_path / "data/index")
    assert [(entry["record"], entry["reason"]) for entry in entries] == [("two", "broken image")]
    assert "crashed" in entries[0]["detail"]
    assert load_split(tmp_path / "data/index", "finetune").num_rows == 3


def test_a_given_tokenizer_is_used(tmp_path: Path) -> None:
    chosen = fetched(tmp_path, MEDIA, RECORDS)
    run(chosen, tmp_path)
    folder = tmp_path / "data/index"
    trained = load_split(folder, "finetune").to_pylist()
    shutil.copytree(folder / "tokenizer", tmp_path / "given")
    del trained[0]["media"]
    run(chosen.replace(index=chosen.index.replace(tokenizer=str(tmp_path / "given"))), tmp_path)
    given = load_split(folder, "finetune").to_pylist()
    del given[0]["media"]
    assert given == trained
    with pytest.raises(InputError, match="no tokenizer there"):
        run(chosen.replace(index=chosen.index.replace(tokenizer=str(tmp_path / "nowhere"))), tmp_path)


def test_inspection_measures_what_training_can_read() -> None:
    assert inspect("a", "image", png(1)).width == 20
    clip = inspect("a", "video", mp4(1, frames=7))
    assert (clip.width, clip.height, clip.frames, clip.reason) == (32, 48, 7, "")
    assert inspect("a", "image", mp4(1)).reason == "broken image"
    assert inspect("a", "video", b"not a video" * 100).reason == "broken video"
    assert inspect("a", "video", mp4(1)).sha256 == hashlib.sha256(mp4(1)).hexdigest()


def test_names_as_people_write_them_through_the_whole_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "from/media.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as packed:
        for name, data in (
            ("val2017\\1.png", png(1)),
            ("val2017\\2.PNG", png(2)),
            ("val2017\\both.png", png(3)),
            ("val2017/both.png", png(4)),
            ("val2017\\v_x_0:10-0:20.mp4", mp4(1)),
            ("__MACOSX/val2017/._1.png", b"x"),
            ("inner.zip", b"PK"),
        ):
            info = zipfile.ZipInfo("x")
            info.filename = name
            packed.writestr(info, data)
    records = [
        llava("one", image="coco/val2017/1.png"),
        {**llava("two"), "images": ["coco\\val2017\\2.png"], **without_id(llava("two", image="x"))},
        llava("clip", video="val2017/v_x_0:10-0:20.mp4"),
        llava("both", image="coco/val2017/both.png"),
        llava("lost", image="other/val2017/1.png"),
        {**llava("text"), "image": "", "video": None},
        {
            **llava("word"),
            "conversations": [
                {"from": "user", "value": "<video>?"},
                {"from": "assistant", "value": "<video>"},
            ],
        },
    ]
    notes = lines(tmp_path / "from/notes.jsonl", records)
    source = archive_source(archive, notes)
    chosen = params(source.replace(strip="coco"), max_quarantined=0.5)
    fetch(chosen, tmp_path)
    run(chosen, tmp_path)
    folder = tmp_path / "data/index"
    rows = load_split(folder, "finetune").to_pylist()
    assert [(row["id"], row["media"]) for row in rows] == [
        *(("one", [0]), ("two", [1]), ("clip", [2]), ("text", []), ("word", []))
    ]
    assert [Shards(folder, verify=True).read(n) for n in range(3)] == [png(1), png(2), mp4(1)]
    found = {entry.get("record") or entry["member"]: entry for entry in quarantined(folder)}
    assert found["both"]["reason"] == "ambiguous medium"
    assert "'val2017\\\\both.png' and 'val2017/both.png'" in found["both"]["detail"]
    assert found["lost"]["reason"] == "missing medium"
    assert "nearest member is 'val2017/1.png': strip: [other/]" in found["lost"]["detail"]
    assert found["inner.zip"]["reason"] == "nested archive"
    counts = summary(folder)
    assert counts["quarantined"]["members"]["mine"]["left by an operating system"] == 1
    assert counts["media"]["renamed"] == 1
    assert counts["splits"]["finetune"]["marks_as_words"] == 2
    said = capsys.readouterr().out
    assert "mine: 1 media go by other names in the archives, such as 'val2017/2.png': 'val2017/2.PNG'" in said
    assert "finetune: 2 marks such as <image> in conversations without media are words" in said


def without_id(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key == "conversations"}


def test_archives_in_parts_are_one(tmp_path: Path) -> None:
    whole = tar(tmp_path / "media.tar", {"1.png": png(1), "2.png": png(2)}).read_bytes()
    parts = []
    for number, ending in enumerate(("aa", "ab")):
        part = tmp_path / f"from/media.tar.{ending}"
        part.parent.mkdir(exist_ok=True)
        part.write_bytes(whole[number * 1000 : 1000 if number == 0 else None])
        parts.append(part)
    notes = lines(tmp_path / "from/notes.jsonl", [llava("a", image="1.png"), llava("b", image="2.png")])
    chosen = params(archive_source(*parts, notes))
    fetch(chosen, tmp_path)
    run(chosen, tmp_path)
    assert [Shards(tmp_path / "data/index").read(n) for n in range(2)] == [png(1), png(2)]
    assert not (tmp_path / "checkpoints/shards/mine/unpacked").exists()


def test_one_name_in_two_archives_is_used_where_it_is_the_same_and_else_refused(tmp_path: Path) -> None:
    one = tar(tmp_path / "from/one.tar", {"same.png": png(1), "other.png": png(2)})
    two = tar(tmp_path / "from/two.tar", {"same.png": png(1), "other.png": png(3)})
    records = [llava("a", image="same.png"), llava("b", image="other.png")]
    notes = lines(tmp_path / "from/notes.jsonl", records)
    chosen = params(archive_source(one, two, notes), max_quarantined=0.5)
    fetch(chosen, tmp_path)
    run(chosen, tmp_path)
    entries = quarantined(tmp_path / "data/index")
    assert [(entry.get("member"), entry.get("record"), entry["reason"]) for entry in entries] == [
        ("same.png", None, "duplicate member"),
        ("other.png", None, "ambiguous member"),
        (None, "b", "ambiguous medium"),
    ]
    assert "'other.png' of one.tar and of two.tar have one name and other contents" in entries[2]["detail"]


def open_none(media: list[Any], known: Any = None) -> list[Inspected]:
    raise AssertionError(f"{media} are opened again")


def test_the_same_bytes_of_two_archives_are_opened_once(tmp_path: Path) -> None:
    """A second archive with the media of the first, by other names and with one more, a broken one among them."""
    media = {"a.png": png(1), "b.mp4": mp4(1), "c.png": b"no picture"}
    first = tar(tmp_path / "one/media.tar", media), [llava("a", image="a.png"), llava("c", image="c.png")]
    more = {**{f"x/{name}": data for name, data in media.items()}, "new.png": png(2)}
    records = [llava("c", image="x/c.png"), llava("a", image="x/a.png"), llava("n", image="new.png")]
    second = tar(tmp_path / "two/media.tar", more), records
    for number, (archive, notes) in enumerate((first, second)):
        file = lines(archive.with_name("notes.jsonl"), notes)
        chosen = params(archive_source(archive, file, name=f"s{number}"), max_quarantined=0.9)
        fetch(chosen, tmp_path)
        run(chosen, tmp_path)
        base = sqlite3.connect(tmp_path / "checkpoints/verdicts/own.sqlite")
        if not number:  # what is taken over can be told from what is found
            base.execute("update seen set width = 77 where member = 'a.png'")
            base.execute("update seen set detail = 'as before' where member = 'c.png'")
            base.commit()
        base.close()
    sides = [row["width"] for row in Shards(tmp_path / "data/index").media.to_pylist()]
    assert sides == [77, 20]
    assert [entry["detail"] for entry in quarantined(tmp_path / "data/shards/s1")] == ["x/c.png: as before"]


def test_parts_that_were_opened_elsewhere_are_not_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from videollava.data.prepare.shards import probe_part

    chosen = fetched(tmp_path, MEDIA | BROKEN, RECORDS + BAD_RECORDS, max_quarantined=0.8)
    monkeypatch.setattr(probing, "ASKED_AT_ONCE", 2)
    opened = [probe_part(chosen, tmp_path, Machine(workers=1), "mine", (part, 3)) for part in (1, 2, 3)]
    assert sum(opened) == len(MEDIA | BROKEN) - 1  # one that no record asks for
    assert min(opened) > 0
    monkeypatch.setattr(probing, "inspect_all", open_none)
    run(chosen, tmp_path)
    assert {entry["record"]: entry["reason"] for entry in quarantined(tmp_path / "data/index")} == REASONS


def test_what_is_added_later_leaves_shards_as_they_are(tmp_path: Path) -> None:
    chosen = fetched(tmp_path, MEDIA, RECORDS)
    manifest = tmp_path / "data/raw/mine/source.json"
    run(chosen, tmp_path)
    first = (tmp_path / "data/shards/mine/mine-00000.tar").stat()
    # A second archive, seen at a second look, whose name comes first.
    more = tar(tmp_path / "data/raw/mine/a-later.tar", {"q/9.png": png(9)})
    notes = next(file for file in manifest.parent.iterdir() if file.name.startswith("notes"))
    lines(notes, [*RECORDS, llava("later", image="q/9.png")])
    held = json.loads(manifest.read_text())
    held["files"]["a-later.tar"] = {"sha256": "1" * 64, "size": more.stat().st_size, "seen": 2}
    manifest.write_text(json.dumps(held))
    run(chosen, tmp_path)
    again = (tmp_path / "data/shards/mine/mine-00000.tar").stat()
    assert again.st_ino == first.st_ino  # linked, not written again
    assert [Shards(tmp_path / "data/index", verify=True).read(n) for n in range(4)][3] == png(9)
    assert len(list((tmp_path / "data/shards/mine").glob("*.tar"))) == 2
    assert len(list((tmp_path / "checkpoints/shards/mine/written").iterdir())) == 2


def test_samples_are_pairs_that_the_webdataset_library_reads(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="the webdataset library is not installed")
    run(fetched(tmp_path, MEDIA, RECORDS), tmp_path)
    shard = tmp_path / "data/shards/mine/mine-00000.tar"
    samples = list(webdataset.WebDataset(str(shard), shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == [f"{number:08d}" for number in range(3)]
    first = samples[0]["json"]
    assert [record["id"] for record in first["records"]] == ["one", "same"]
    assert first["records"][0]["conversations"][1] == {"from": "gpt", "value": "it is one"}
    assert samples[1]["json"]["records"][0]["media"] == ["00000001", "00000002"]
    assert (first["kind"], first["width"], first["height"]) == ("image", 20, 12)


def test_records_that_were_counted_are_not_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from videollava.data.prepare import rows

    chosen = fetched(tmp_path, MEDIA, RECORDS)
    run(chosen, tmp_path)
    first, held = files(tmp_path / "data/index"), lengths(tmp_path)
    counted = rows._count
    monkeypatch.setattr(rows, "_count", None)  # whoever counts one more fails
    run(chosen, tmp_path)
    assert files(tmp_path / "data/index") == first
    monkeypatch.setattr(rows, "_count", counted)
    run(chosen.replace(index=chosen.index.replace(vocab_size=270)), tmp_path)
    assert lengths(tmp_path) != held


def lengths(workspace: Path) -> list[int]:
    found: list[int] = load_split(workspace / "data/index", "finetune")["text_tokens"].to_pylist()
    return found
