"""Artifacts as they were, without credentials, named by their content."""

from __future__ import annotations

from pathlib import Path

from videollava.tracking.artifacts import ARTIFACT_LIMIT, keep


def test_a_copy_is_kept_once_and_outlives_its_source(tmp_path: Path) -> None:
    file, store = tmp_path / "dvc.lock", tmp_path / "store"
    file.write_text("first\n")
    first = keep(file, store)
    assert keep(file, store) == first
    file.write_text("second\n")
    assert keep(file, store) != first
    assert (first.name, first.read_text()) == ("dvc.lock", "first\n")
    folder = tmp_path / "plots"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/a.csv").write_text("step\n1\n")
    assert (keep(folder, store) / "deep/a.csv").read_text() == "step\n1\n"
    assert len(list(store.iterdir())) == 3


def test_texts_lose_their_credentials_and_bytes_stay_bytes(tmp_path: Path) -> None:
    file, page, other = tmp_path / "params.yaml", tmp_path / "report.html", tmp_path / "model.bin"
    file.write_text("url: s3://me:hunter2@host/b\naccess_token: hunter2\nepochs: 2\n")
    assert (
        keep(file, tmp_path / "store").read_text() == "url: s3://***@host/b\naccess_token: ***\nepochs: 2\n"
    )
    page.write_text("<p>the token: red?</p><a href='http://me:hunter2@judge/v1'>judge</a>")
    assert keep(page, tmp_path / "store").read_text() == (
        "<p>the token: red?</p><a href='http://***@judge/v1'>judge</a>"
    )
    file.write_bytes(b"\xff\xfe password: hunter2")  # no text
    other.write_bytes(b"password: hunter2")
    for one in (file, other):
        assert keep(one, tmp_path / "store").read_bytes() == one.read_bytes()


def test_what_cannot_be_kept_is_named_as_it_is(tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    with large.open("wb") as stream:
        stream.truncate(ARTIFACT_LIMIT + 1)
    assert keep(large, tmp_path / "store") == large
    assert keep(tmp_path / "nowhere", tmp_path / "store") == tmp_path / "nowhere"
    small = tmp_path / "small.txt"
    small.write_text("x")
    (tmp_path / "full").write_text("no folder can be made here")
    assert keep(small, tmp_path / "full") == small
