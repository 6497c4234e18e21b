"""Benchmarks' data as sources: fetched, locked, unpacked, asked; and what is told of those that are not here."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from videollava import cli
from videollava.data.acquire.fetch import run as fetch
from videollava.data.acquire.unpacked import unpack_fetched
from videollava.data.prepare.shards import run as cut
from videollava.data.prepare.tables import MEDIA, RECORDS, open_table
from videollava.errors import InputError
from videollava.evaluate import benchmarks
from videollava.evaluate.at_hand import look_at
from videollava.evaluate.benchmarks.origins import origin_of
from videollava.evaluate.questions import read_questions
from videollava.params import Params, load_params

QUESTIONS = [
    {"video_name": "v1", "question_id": "a", "question": "what?"},
    {"video_name": "v2", "question_id": "b", "question": "who?"},
]
ANSWERS = [{"question_id": "a", "answer": "x"}, {"question_id": "b", "answer": "y"}]


def workspace_with(root: Path, videos: str = "v1.mp4 v2.mp4") -> Params:
    """MSVD's form: a zip of videos, and the questions' files beside it."""
    come = root / "from"
    come.mkdir()
    with zipfile.ZipFile(come / "videos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in videos.split():
            archive.writestr(f"videos/{name}", name * 100)
    (come / "test_q.json").write_text(json.dumps(QUESTIONS))
    (come / "test_a.json").write_text(json.dumps(ANSWERS))
    urls = json.dumps([(come / name).as_uri() for name in ("videos.zip", "test_q.json", "test_a.json")])
    (root / "params.yaml").write_text(
        f"sources:\n  msvd_files: {{kind: archive, format: auto, use: benchmark, urls: {urls}}}\n"
        "evaluate: {benchmarks: [msvd], folders: {msvd: data/raw/msvd_files}}\n"
    )
    return load_params(root / "params.yaml")


def test_every_benchmark_says_where_its_files_come_from() -> None:
    own = {name for name in benchmarks.names() if origin_of(name) is None}
    assert own == {"easy_vqa", "toy_video_qa"}
    for name in set(benchmarks.names()) - own - {"video-choice"}:
        origin = origin_of(name)
        assert origin is not None
        assert origin.holds
        assert all(place.startswith(("https://", "http://")) for place in origin.places)
        assert origin.places


def test_a_benchmark_is_fetched_and_asked_like_other_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    params = workspace_with(tmp_path)
    assert cli.main(["benchmarks"]) == 1
    said = capsys.readouterr().out
    assert "* msvd                     lacks  MSVD-QA  data/raw/msvd_files\n" in said
    assert "    not fetched: run `videollava fetch msvd_files`\n" in said
    assert "from https://cs.stanford.edu/people/dorarad/gqa/download.html" in said
    fetch(params, tmp_path)
    lock = json.loads((tmp_path / "locks/msvd_files.json").read_text())
    assert [len(file["sha256"]) for file in lock["files"]] == [64] * 3
    cut(params, tmp_path)
    folder = tmp_path / "data/shards/msvd_files"
    assert [open_table(folder / name).num_rows for name in (RECORDS, MEDIA)] == [0, 0]
    assert cli.main(["benchmarks", "msvd"]) == 0
    found = read_questions("msvd", params.evaluate, tmp_path, tmp_path / "unpacked")
    assert [Path(str(item.media[0])).name for item in found.items] == ["v1.mp4", "v2.mp4"]
    medium = tmp_path / str(found.items[0].media[0])
    assert medium.read_text() == "v1.mp4" * 100
    assert medium.is_relative_to(tmp_path / "checkpoints/benchmarks")


def test_tests_of_own_data_are_listed_too(tmp_path: Path) -> None:
    (tmp_path / "data/index/splits").mkdir(parents=True)
    (tmp_path / "data/index/splits/test-mine.arrow").touch()
    params = workspace_with(tmp_path)
    source = params.sources["msvd_files"].replace(name="notes", use="")
    more = params.replace(
        sources={**params.sources, "notes": source}, evaluate=params.evaluate.replace(benchmarks=("notes",))
    )
    found = {one.id: one for one in look_at(more, tmp_path)}
    assert found["mine"].here
    assert (found["notes"].asked, found["notes"].here) == (True, False)
    assert "split test-notes of data/index: run `videollava index`" in found["notes"].lacks


def test_what_is_not_whole_is_told(tmp_path: Path) -> None:
    params = workspace_with(tmp_path, videos="other.mp4")
    fetch(params, tmp_path)
    (one,) = look_at(params, tmp_path, ["msvd"])
    assert not one.here
    assert "none of the 2 media that its questions name is there" in one.lacks
    archive = tmp_path / "data/raw/msvd_files/videos.zip"
    archive.write_bytes(archive.read_bytes()[:40])
    (tmp_path / "data/raw/msvd_files/source.json").write_text(
        (tmp_path / "data/raw/msvd_files/source.json").read_text() + "\n"
    )
    with pytest.raises(InputError, match=r"videos.zip: the archive: unreadable archive: .*must be whole"):
        unpack_fetched(tmp_path / "data/raw/msvd_files", tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()) == []
    with pytest.raises(InputError, match="no benchmark 'mvsd'"):
        look_at(params, tmp_path, ["mvsd"])
