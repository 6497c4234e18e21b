"""Indexes of then, by real DVC: compared by tag; a forgotten picture named with the version that learned from it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from videollava import cli
from videollava.data.prepare.tables import media_schema, split_writer, write_media
from videollava.params import Tracking
from videollava.registry import open_store

pytestmark = pytest.mark.slow
DVC = """\
stages:
  index:
    cmd: mkdir -p data && cp -r made data/index
    deps: [made]
    outs: [data/index]
"""
SUMS = {name: name * 64 for name in "abc"}


def make_index(folder: Path, media: str) -> None:
    """An index whose media have these sums, each with a record."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    empty = dict.fromkeys(("shard", "offset", "size", "width", "height", "frames"), 0)
    blank = dict.fromkeys(media_schema().names, "")
    rows = [
        {**blank, **empty, "media_id": number, "kind": "image", "sha256": SUMS[name]}
        for number, name in enumerate(media)
    ]
    write_media(folder, rows)
    (folder / "shards.json").write_text('[{"source": "mine"}]')
    counts = dict.fromkeys(("text_tokens", "target_tokens", "images", "videos", "tokens"), 1)
    with split_writer(folder, "finetune") as writer:
        for number, name in enumerate(media):
            said = {"id": name, "source": "mine", "kind": "", "conversations": "[]", "media": [number]}
            writer.add({**said, **counts})


def git(root: Path, *words: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run(["git", *who, *words], cwd=root, check=True, capture_output=True)


def dvc(root: Path, *words: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *words], cwd=root, check=True, capture_output=True)


def test_tags_are_compared_and_versions_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, remote = tmp_path / "ws", tmp_path / "remote"
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc/config").write_text(
        f"[core]\n    remote = r\n    analytics = false\n['remote \"r\"']\n    url = {remote}\n"
    )
    (root / ".gitignore").write_text("/data/\n/made/\n/runs/\n/.mlflow/\n/.dvc/cache\n/.dvc/tmp\n")
    (root / "dvc.yaml").write_text(DVC)
    (root / "params.yaml").write_text("seed: 0\n")
    git(root, "init", "--quiet")
    store = open_store(root, Tracking())
    store.client.create_registered_model("videollava")
    for number, media in enumerate(("ab", "bc"), start=1):
        make_index(root / "made", media)
        dvc(root, "repro", "index")
        git(root, "add", "-A")
        git(root, "commit", "--quiet", "-m", media)
        git(root, "tag", f"model/videollava/{number}")
        outs = (root / "dvc.lock").read_text().split("outs:")[1]
        data = next(line.split()[-1] for line in outs.splitlines() if "md5:" in line)
        store.client.create_model_version("videollava", "x", tags={"data_hash": data, "key": "k"})
    dvc(root, "push", "--all-commits")
    shutil.rmtree(root / ".dvc/cache")  # only the remote has the first
    monkeypatch.chdir(root)
    assert cli.main(["data", "diff", "model/videollava/1"]) == 0
    assert "mine: records 1 added, 1 removed; media 1 added, 1 removed\n" in capsys.readouterr().out
    assert cli.main(["data", "where", SUMS["b"]]) == 0
    said = capsys.readouterr().out
    assert "  finetune: record b of mine\n" in said
    assert all(f"models:/videollava/{number}: TRAINED ON IT (1 in finetune)" in said for number in (1, 2))
    assert cli.main(["data", "forget", SUMS["a"], "--because", "its owner asked"]) == 0
    said = capsys.readouterr().out
    assert "  not in data/index\n" in said
    assert "to retrain once it is forgotten: models:/videollava/1\n" in said
    assert (root / "locks/forgotten.txt").read_text() == f"{SUMS['a']} its owner asked\n"
    assert cli.main(["data", "where", "f" * 64]) == 1
    assert "no registered version saw it (2 looked at)" in capsys.readouterr().out
