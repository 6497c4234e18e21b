"""Two indexes compared, and what saw a medium."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from made import archive_source, lines, llava, params, png, prepare, tar

from videollava import cli
from videollava.data.acquire.fetch import run as fetch
from videollava.data.prepare.forgotten import read_forgotten
from videollava.data.versions.diff import compare
from videollava.data.versions.indexes import Indexed, open_index
from videollava.data.versions.seen import forget, look_up, look_up_versions, sum_of
from videollava.errors import InputError
from videollava.evaluate.report_diff import write_diff

OLD = {name: png(number) for number, name in enumerate(("0.png", "1.png", "2.png"))}
NEW = {**OLD, "1.png": png(7), "3.png": png(3)}
RECORDS = [
    llava("same", image="0.png"),
    llava("bytes", image="1.png"),
    llava("gone", image="2.png"),
    llava("text"),
]


def index(workspace: Path, media: dict[str, bytes], records: list[Any]) -> Indexed:
    """Of one source `mine`."""
    workspace.mkdir()
    archive = tar(workspace / "from/media.tar", media)
    chosen = params(archive_source(archive, lines(workspace / "from/notes.jsonl", records)))
    fetch(chosen, workspace)
    prepare(chosen, workspace)
    return open_index(workspace, "", workspace / "scratch")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Indexed, Indexed]:
    """An index, and one after its source changed: never written to by a test."""
    root = tmp_path_factory.mktemp("indexes")
    changed = {
        **RECORDS[3],
        "conversations": [{"from": "human", "value": "so?"}, {"from": "gpt", "value": "so"}],
    }
    more = [RECORDS[0], RECORDS[1], changed, llava("came", image="3.png"), llava("came", image="0.png")]
    return index(root / "old", OLD, RECORDS), index(root / "new", NEW, more)


def test_what_differs_is_told_by_source(both: tuple[Indexed, Indexed]) -> None:
    diff = compare(*both)
    assert diff.as_json()["records"] == {"mine": {"changed": 2, "added": 2, "removed": 1}}
    assert diff.as_json()["media"] == {"mine": {"added": 2, "removed": 2}}  # 1 became another; 2 went, 3 came
    told = sorted((one.what, one.id, len(one.media)) for one in diff.examples)
    assert told == [
        ("added", "came", 1),
        ("added", "came", 1),
        ("changed", "bytes", 1),
        ("changed", "text", 0),
        ("removed", "gone", 1),
    ]
    assert compare(both[0], both[0]).same
    back = compare(both[1], both[0]).as_json()
    assert back["records"] == {"mine": {"changed": 2, "added": 1, "removed": 2}}


def test_a_record_that_went_into_another_split_moved(both: tuple[Indexed, Indexed], tmp_path: Path) -> None:
    copy = tmp_path / "copy/data/index"
    shutil.copytree(both[0].folder, copy)
    (copy / "splits/finetune.arrow").rename(copy / "splits/test-mine.arrow")
    diff = compare(both[0], Indexed("copy", tmp_path / "copy"))
    assert diff.as_json()["records"] == {"mine": {"moved": 4}}
    assert {(one.before, one.split) for one in diff.examples} == {("finetune", "test-mine")}
    assert diff.as_json()["media"] == {}


def test_the_page_shows_pictures_of_both(
    both: tuple[Indexed, Indexed],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(both[1].root)
    page = tmp_path / "page.html"
    words = ["data", "diff", str(both[0].folder), "--out", str(page)]
    assert cli.main(words) == 0
    assert (
        "mine: records 2 added, 1 removed, 2 changed; media 2 added, 2 removed\n" in capsys.readouterr().out
    )
    assert page.read_text().count("<img ") == 4
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["media"] == {"mine": {"added": 2, "removed": 2}}
    # An index alone, whose shards are those of now: never another medium's picture.
    alone = tmp_path / "alone"
    shutil.copytree(both[0].folder, alone)
    old = open_index(both[1].root, str(alone), tmp_path / "scratch")
    assert write_diff(compare(old, both[1]), page).read_text().count("no picture") == 1
    with pytest.raises(InputError, match="neither a folder with an index"):
        open_index(tmp_path, "no-such-tag", tmp_path / "scratch")
    with pytest.raises(InputError, match=r"no index; run `videollava index`"):
        open_index(tmp_path, ".", tmp_path / "scratch")


def test_a_medium_is_found_by_its_bytes(both: tuple[Indexed, Indexed], tmp_path: Path) -> None:
    file = tmp_path / "any name"
    file.write_bytes(NEW["0.png"])
    seen = look_up(both[1], sum_of(str(file)))
    assert seen.places == ["mine"]
    assert seen.records == [("finetune", "mine", "same"), ("finetune", "mine", "came")]
    assert seen.trained_on
    assert look_up(both[1], "0" * 64).places == []
    assert sum_of("AB" * 32) == "ab" * 32
    with pytest.raises(InputError, match="neither a file nor a SHA-256"):
        sum_of("abc")


def test_versions_are_told_by_their_data(both: tuple[Indexed, Indexed]) -> None:
    gone = hashlib.sha256(OLD["2.png"]).hexdigest()
    opened = []

    def open_data(data: str, tag: str) -> Indexed:
        opened.append(tag)
        if data == "lost":
            raise InputError("nowhere")
        return both[data == "new"]

    versions = [
        ("m/5", "new", "t5"),
        ("m/4", "old", "t4"),
        ("m/3", "old", "t3"),
        ("m/2", "lost", "t2"),
        ("m/1", "", "t1"),
    ]
    found = {one.reference: one for one in look_up_versions(versions, gone, open_data)}
    assert opened == ["t5", "t4", "t2"]  # data are opened once
    assert [key for key, one in found.items() if one.trained_on] == ["m/4", "m/3"]
    assert found["m/4"].splits == {"finetune": 1}
    assert {key: one.unknown for key, one in found.items() if one.unknown} == {
        "m/2": "nowhere",
        "m/1": "its lineage names no data",
    }


def test_what_is_to_be_forgotten_is_written_with_its_reason(tmp_path: Path) -> None:
    forget(tmp_path, "a" * 64, "its owner\nasked")
    (tmp_path / "locks/forgotten.txt").write_text(f"# kept\n{'a' * 64} its owner asked")  # a last line torn
    forget(tmp_path, "b" * 64, "too")
    assert read_forgotten(tmp_path) == {"a" * 64: "its owner asked", "b" * 64: "too"}
    assert (tmp_path / "locks/forgotten.txt").read_text().startswith("# kept\n")
    with pytest.raises(InputError, match="is forgotten already: too"):
        forget(tmp_path, "b" * 64, "again")
    with pytest.raises(InputError, match="--because: say why"):
        forget(tmp_path, "c" * 64, " ")
