"""What is asked in a source's own test: drawn by the medium's hash or as records say, and never trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made import archive_source, lines, llava, params, png, prepare, tar
from test_near import saved, scene

from videollava.data.acquire.fetch import run as fetch
from videollava.data.load.shards import Shards
from videollava.data.prepare.splits import SALT, _place
from videollava.data.prepare.tables import load_split, split_names
from videollava.errors import InputError
from videollava.params import Portion

Media = dict[str, bytes]


def build(workspace: Path, given: dict[str, tuple[Media, list[dict[str, Any]]]], **settings: Any) -> Path:
    made = []
    for name, (media, records) in given.items():
        files = tar(workspace / f"from/{name}.tar", media), lines(workspace / f"from/{name}.jsonl", records)
        made.append(archive_source(*files, name=name))
    chosen = params(*made, **settings)
    fetch(chosen, workspace)
    prepare(chosen, workspace)
    return workspace / "data/index"


def pictures(count: int, start: int = 0) -> Media:
    return {f"{n}.png": png(n) for n in range(start, start + count)}


def about(media: Media, **more: Any) -> list[dict[str, Any]]:
    return [{**llava(f"r-{name}", image=name), **more} for name in media]


def ids(folder: Path, split: str) -> set[str]:
    return (
        {row["id"] for row in load_split(folder, split).to_pylist()}
        if split in split_names(folder)
        else set()
    )


def left_out(folder: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((folder / "summary.json").read_text())["left_out"]["near_a_test"]
    return found


def test_a_share_is_drawn_by_medium_and_all_about_one_go_together(tmp_path: Path) -> None:
    media = pictures(200)
    records = about(media) + [{**one, "id": one["id"] + "-again"} for one in about(media)]
    folder = build(tmp_path, {"mine": (media, records)}, held_out=0, sources={"mine": Portion(test=0.2)})
    asked, trained = ids(folder, "test-mine"), ids(folder, "finetune")
    assert asked | trained == {one["id"] for one in records}
    assert not asked & trained
    assert all(f"{name}-again" in asked for name in asked if not name.endswith("-again"))
    assert 2 * 25 < len(asked) < 2 * 55
    hashes = Shards(folder).media["sha256"].to_pylist()
    rows = load_split(folder, "test-mine").to_pylist()
    assert {row["media"][0] for row in rows} == {n for n, h in enumerate(hashes) if _place(h) < 0.2 * 2**64}
    assert SALT == "videollava test\0"  # another would move every test there is


def test_what_is_added_moves_nothing(tmp_path: Path) -> None:
    old, new = pictures(60), pictures(60, 60)
    portions = {"mine": Portion(test=0.3)}
    before = build(tmp_path / "a", {"mine": (old, about(old))}, held_out=0, sources=portions)
    both = {"first": (new, about(new)), "mine": ({**new, **old}, about(new)[:30] + about(old))}
    after = build(tmp_path / "b", both, held_out=0, sources=portions)
    was = {name: ids(before, name) for name in ("test-mine", "finetune")}
    assert was["test-mine"] <= ids(after, "test-mine")
    assert not was["finetune"] & ids(after, "test-mine")
    # The other source trains on nothing that mine asks.
    shared = [row["media"][0] for row in load_split(after, "test-mine").to_pylist()]
    trained = [row["media"][0] for row in load_split(after, "finetune").to_pylist()]
    assert not set(shared) & set(trained)
    assert left_out(after)["first"] > 0


def test_records_say_it_themselves(tmp_path: Path) -> None:
    media = pictures(9)
    said = ["train", "val", "test"]
    records = [{**one, "split": said[n % 3]} for n, one in enumerate(about(media))]
    records.append({**llava("same", image="2.png"), "split": "train"})
    gold = {"answers": ["a", "b"], "choices": []}
    records[2] |= gold
    folder = build(tmp_path / "a", {"mine": (media, records)})
    assert ids(folder, "test-mine") == {f"r-{n}.png" for n in (2, 5, 8)}
    assert ids(folder, "finetune-valid") == {f"r-{n}.png" for n in (1, 4, 7)}
    assert ids(folder, "finetune") == {f"r-{n}.png" for n in (0, 3, 6)}
    assert left_out(folder) == {"mine": 1}  # its medium is asked about
    assert load_split(folder, "test-mine").to_pylist()[0]["answers"] == ["a", "b"]
    none = build(
        tmp_path / "b", {"mine": (media, records)}, held_out=0, sources={"mine": Portion(test=0, valid=0)}
    )
    assert split_names(none) == ["finetune"]
    assert len(ids(none, "finetune")) == 10


def test_texts_go_by_what_they_ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def text(name: str, asked: str) -> dict[str, Any]:
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": f"it is {name}"}]
        return {"id": name, "conversations": turns}

    first = [text(f"a{n}", f"what is {n}?") for n in range(60)]
    second = [text(f"b{n}", f"What  is {n}?") for n in range(60)]
    sources = {"mine": (pictures(1), first + about(pictures(1))), "other": (pictures(1), second)}
    folder = build(tmp_path, sources, held_out=0, sources={"mine": Portion(test=0.3)})
    asked = {name[1:] for name in ids(folder, "test-mine") if name[0] == "a"}
    trained = {name for name in ids(folder, "finetune") if name[0] == "b"}
    assert 8 < len(asked) < 30
    assert trained == {f"b{n}" for n in range(60) if str(n) not in asked}
    assert left_out(folder)["other"] == len(asked)
    told = capsys.readouterr().out
    assert f"other: {len(asked):,} samples are left out of training: a test asks" in told
    assert "mine: it has a test that nobody asks: list mine in evaluate.benchmarks" in told


def test_what_looks_like_a_test_s_medium_is_not_trained_on(tmp_path: Path) -> None:
    mine = {f"{n}.png": saved(scene(n), "PNG") for n in range(40)}
    again = {f"{n}.jpg": saved(scene(n), "JPEG", quality=70) for n in range(40)}
    fresh = {f"{n}.jpg": saved(scene(100 + n), "JPEG") for n in range(40, 60)}
    theirs = {**again, **fresh}
    sources = {"mine": (mine, about(mine)), "theirs": (theirs, about(theirs))}
    portions = {"mine": Portion(test=0.3)}
    near = build(tmp_path / "a", sources, held_out=0, sources=portions)
    asked = {name.split(".")[0] for name in ids(near, "test-mine")}
    assert 3 < len(asked) < 25
    trained = {name for name in ids(near, "finetune") if name.endswith(".jpg")}
    assert trained == {f"r-{name}" for name in theirs if f"r-{name.split('.')[0]}" not in asked}
    assert left_out(near) == {"theirs": len(asked)}
    bytes_alone = build(tmp_path / "b", sources, held_out=0, sources=portions, near=0)
    assert left_out(bytes_alone) == {}
    assert ids(bytes_alone, "test-mine") == ids(near, "test-mine")
    # Of one source, copies go with the first of them, to one side.
    both = {**mine, **again}
    whole = build(tmp_path / "c", {"mine": (both, about(both))}, held_out=0, sources=portions)
    test = {name.split(".")[0] for name in ids(whole, "test-mine")}
    assert test == asked
    assert len(ids(whole, "test-mine")) == 2 * len(asked)
    assert left_out(whole) == {}


def test_wrong_names_are_told(tmp_path: Path) -> None:
    media = pictures(2)
    with pytest.raises(InputError, match=r"index\.sources\.mien: there is no such source; there are: mine"):
        build(tmp_path, {"mine": (media, about(media))}, sources={"mien": Portion(test=0.5)})
