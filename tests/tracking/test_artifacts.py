"""Artifacts as they were, without credentials, named by their content."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

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
        keep(file, tmp_path / "store").read_text() == "url: s3://***@host/b\naccess_token: '***'\nepochs: 2\n"
    )
    page.write_text(
        "<p title='token: red'>a key: hf_0123456789ab</p><a href='http://me:hunter2@judge/v1'>judge</a>"
        "<script>data = {'a': 'password:', 'b': 'x'}</script><pre>api_key: hunter2</pre>"
    )
    assert keep(page, tmp_path / "store").read_text() == (
        "<p title='token: red'>a key: ***</p><a href='http://***@judge/v1'>judge</a>"
        "<script>data = {'a': 'password:', 'b': 'x'}</script><pre>api_key: ***</pre>"
    )
    other.write_bytes(b"password: hunter2")
    assert keep(other, tmp_path / "store").read_bytes() == other.read_bytes()


def test_texts_in_other_encodings_are_read_too(tmp_path: Path) -> None:
    log, wide = tmp_path / "run.log", tmp_path / "wide.txt"
    log.write_bytes(b"caf\xe9 password: hunter2\n")  # one odd byte hid nothing of the file
    assert keep(log, tmp_path / "store").read_bytes() == b"caf\xe9 password: ***\n"
    wide.write_text("password: hunter2", encoding="utf-16")
    assert keep(wide, tmp_path / "store").read_text(encoding="utf-16") == "password: ***"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("a.json", '{"a": "password:", "b": 1}', {"a": "password:", "b": 1}),
        ("a.json", '{"use_auth_token": true, "token": 12}', {"use_auth_token": True, "token": 12}),
        ("a.json", '{"api_keys": ["one", "two"], "n": 1}', {"api_keys": ["***", "***"], "n": 1}),
        ("a.jsonl", '{"q": "say password=\\"x y\\"!"}', {"q": 'say password="***"!'}),
        ("a.jsonl", '{"q": "two\u2028lines", "password": "x y"}', {"q": "two\u2028lines", "password": "***"}),
        ("a.yaml", "db: {password: abc, n: 1}  # ours", {"db": {"password": "***", "n": 1}}),
        ("a.yaml", "password: correct horse staple\nn: 1", {"password": "***", "n": 1}),
        ("a.yml", "key: &a |\n  -----BEGIN PRIVATE KEY-----\n  QUJD\nn: 1", {"key": "***", "n": 1}),
        ("a.yaml", "key: |\n  -----BEGIN PRIVATE KEY-----\n  QUJD\nn: 1", {"key": "***", "n": 1}),
        ("a.lock", "- token: abcdef", [{"token": "***"}]),
    ],
)
def test_what_programs_read_stays_readable(tmp_path: Path, name: str, text: str, value: object) -> None:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    kept = keep(file, tmp_path / "store").read_text(encoding="utf-8")
    assert yaml.safe_load(kept) == value
    assert keep(file, tmp_path / "store").read_text(encoding="utf-8") == kept


def test_layout_and_comments_stay_where_nothing_is_hidden_in_them(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    text = "seed: 1   # as in the paper\nurl: 's3://me:hunter2@b/x'\n"
    file.write_text(text)
    assert keep(file, tmp_path / "store").read_text() == text.replace("me:hunter2", "***")


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
