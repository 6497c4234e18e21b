from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import yaml
from made import archive_source, lines, llava, png, tar

from videollava.cli import main
from videollava.data.acquire.lock import read_lock


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    archive = tar(tmp_path / "from/media.tar", {"1.png": png()})
    notes = lines(tmp_path / "from/notes.jsonl", [llava("a", image="1.png")])
    source = archive_source(archive, notes).replace(annotations="", sha256=())
    entry = source.model_dump(mode="json", include={"kind", "format", "urls", "use"})
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"sources": {"mine": entry}}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_mirror_gives_the_same_files(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mirror", "mine", "own"]) == 0
    said = capsys.readouterr().out
    assert "own: 2 files sent, 0 were there" in said
    entry = yaml.safe_load(said.splitlines()[-1])["mine"]
    assert entry == {"kind": "folder", "path": "own", "format": "llava", "use": "finetune"}
    before = read_lock(workspace, "mine")
    assert before is not None
    assert (workspace / "own/.SHA256SUMS").read_text() == "".join(
        f"{file.sha256}  {file.name}\n" for file in sorted(before.files, key=lambda one: one.name)
    )
    (workspace / "params.yaml").write_text(yaml.safe_dump({"sources": {"mine": entry}}))
    shutil.rmtree(workspace / "from")
    shutil.rmtree(workspace / "data")
    assert main(["fetch", "mine"]) == 0
    after = read_lock(workspace, "mine")
    assert after is not None
    assert {file.name: file.sha256 for file in after.files} == {
        file.name: file.sha256 for file in before.files
    }
    (workspace / "own/media.tar").write_bytes(bytes((workspace / "own/media.tar").stat().st_size))
    assert main(["fetch", "mine"]) == 2
    assert "media.tar: it was changed since it was locked" in capsys.readouterr().err


def test_what_is_there_is_not_sent_again_and_what_broke_is(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["mirror", "mine", "own"])
    main(["mirror", "mine", "own"])
    assert "0 files sent, 2 were there" in capsys.readouterr().out
    media = workspace / "own/media.tar"
    media.write_bytes(bytes(media.stat().st_size))
    main(["mirror", "mine", "own"])
    assert "1 files sent, 1 were there" in capsys.readouterr().out
    held = (workspace / "data/raw/mine/media.tar").read_bytes()
    assert hashlib.sha256(media.read_bytes()).digest() == hashlib.sha256(held).digest()


def test_what_cannot_be_mirrored_is_said(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, said in (
        (["mirror", "other", "own"], "no 'other'"),
        (["mirror", "mine", "https://host/x/"], "a mirror is s3://BUCKET/PREFIX/ or a folder"),
    ):
        assert main(command) == 2
        assert said in capsys.readouterr().err
