"""`videollava remote`: DVC's own settings hold it, by real DVC; nothing is set that cannot be written to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from videollava import cli
from videollava.data.versions.remote import read_remote, set_remote
from videollava.errors import InputError


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with a .dvc folder."""
    root = tmp_path / "ws"
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "global"))
    monkeypatch.chdir(root)
    return root


def test_a_folder_is_set_and_shown(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["remote"]) == 1
    assert "no remote" in capsys.readouterr().out
    place = workspace.parent / "a store"
    assert cli.main(["remote", "set", str(place)]) == 0
    assert f"store  {place}: can be written to; commit .dvc/config" in capsys.readouterr().out
    assert not list(place.iterdir())
    assert cli.main(["remote"]) == 0
    assert capsys.readouterr().out == f"store  {place}\n"
    (workspace / "x").write_text("x")
    for words in (["add", "x"], ["push"]):
        subprocess.run([sys.executable, "-m", "dvc", *words], cwd=workspace, check=True, capture_output=True)
    assert (place / "files/md5/9d/d4e461268c8034f5c8564e155c67a6").read_text() == "x"


def test_what_cannot_be_written_changes_nothing(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workspace / "file").write_text("")
    before = (workspace / ".dvc/config").read_text()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    closed = "http://127.0.0.1:9"
    for url, options, message in (
        ("file/store", {}, "nothing can be written there: Not a directory"),
        ("s3://key:secret@bucket/x", {}, "holds a password or a key; keys belong to your machine"),
        ("s3:///x", {}, "no bucket in it"),
        ("gs://bucket/x", {}, "gs is no kind that this sets"),
        ("store", {"region": "x"}, "a folder has no endpoint, profile or region"),
        ("s3://bucket", {"endpoint": "host:9000"}, "write its whole address"),
        ("s3://bucket", {"endpoint": closed, "region": "x"}, "is --endpoint right, and does the server run"),
    ):
        with pytest.raises(InputError, match=message):
            set_remote(workspace, url, **options)
    assert (workspace / ".dvc/config").read_text() == before
    assert read_remote(workspace) is None
