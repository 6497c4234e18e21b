"""Sources in the formats that people have, through fetch and shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made import archive_source, lines, mp4, params, png, tar

from videollava.data.acquire.fetch import run as fetch
from videollava.data.prepare import shards
from videollava.data.prepare.tables import RECORDS, open_table
from videollava.params import Source


def cut(source: Source, workspace: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of records.arrow and the summary."""
    settings = params(source)
    fetch(settings, workspace)
    shards.run(settings, workspace)
    folder = workspace / "data/shards/mine"
    return open_table(folder / RECORDS).to_pylist(), json.loads((folder / "summary.json").read_text())


def test_lines_of_clips_with_what_was_done_to_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = tar(tmp_path / "clips.tar", {"a.mp4": mp4(), "b.mp4": mp4(1)})
    items = [{"video_id": name, "question": "what?", "answer": name} for name in ("a", "b")]
    notes = lines(tmp_path / "own.jsonl", items)
    rows, summary = cut(archive_source(clips, notes).replace(format="auto"), tmp_path)
    assert [json.loads(row["conversations"])[0] for row in rows] == [["human", "<video>\nwhat?"]] * 2
    assert [row["media"] for row in rows] == [[0], [1]]
    assert summary["notes"]["media without marks stand before the first question"] == 2
    assert "mine: own.jsonl: format jsonl, as 2 of its first 2 records say" in capsys.readouterr().out


def test_tars_that_count_their_samples_from_0(tmp_path: Path) -> None:
    tars = [
        tar(tmp_path / f"{n}.tar", {"000.png": png(n), "000.txt": f"picture {n}".encode()}) for n in range(2)
    ]
    rows, summary = cut(archive_source(*tars, use="pretrain").replace(format="webdataset"), tmp_path)
    assert [row["id"] for row in rows] == ["0/000", "1/000"]
    assert [json.loads(row["conversations"])[1][1] for row in rows] == ["picture 0", "picture 1"]
    assert [row["media"] for row in rows] == [[0], [1]]
    assert summary["quarantined"]["records"] == 0


@pytest.mark.parametrize("form", ["auto", "webdataset"])
def test_a_folder_of_pairs_that_lie_in_no_tar(form: str, tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    for n in range(3):
        (folder / f"{n}.png").write_bytes(png(n))
        (folder / f"{n}.txt").write_text(f"picture {n}")
    (folder / "dataset_info.json").write_text("{}")
    source = Source(name="mine", kind="folder", format=form, use="pretrain", path=str(folder))
    rows, summary = cut(source, tmp_path)
    assert [(row["id"], json.loads(row["conversations"])[1][1]) for row in rows] == [
        (str(n), f"picture {n}") for n in range(3)
    ]
    assert summary["quarantined"]["records"] == 0
    assert not summary["quarantined"]["examples"]
