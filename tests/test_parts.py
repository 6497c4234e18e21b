"""A source's media opened in parts by Ray: the shards are those of one process, byte for byte."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videollava.cli import main

PARAMS = """
sources: {bench: {kind: archive, format: jsonl, use: finetune, urls: ['file://FOLDER/media.tar'],
  annotations: 'file://FOLDER/records.jsonl'}}
"""


def fill(folder: Path, count: int) -> None:
    """A tar of pictures, and a record each."""
    folder.mkdir()
    with tarfile.open(folder / "media.tar", "w") as tar, (folder / "records.jsonl").open("w") as lines:
        for number in range(count):
            out, name = io.BytesIO(), f"{number}.png"
            Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(out, "PNG")
            member = tarfile.TarInfo(name)
            member.size = out.tell()
            out.seek(0)
            tar.addfile(member, out)
            lines.write(json.dumps({"image": name, "question": "which?", "answer": str(number)}) + "\n")
    (folder / "params.yaml").write_text(PARAMS.replace("FOLDER", str(folder)))


@pytest.mark.slow
def test_ray_opens_the_parts_and_the_shards_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'videollava[ray]'")
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray keeps a token there
    monkeypatch.setenv("VIDEOLLAVA_FOLLOWED", "1")
    kept = {}
    for name, words in (("ray", ["--ray", "3"]), ("here", [])):
        folder = tmp_path / name
        fill(folder, 20)
        monkeypatch.chdir(folder)
        assert main(["fetch", "bench"]) == 0
        assert main(["shards", "bench", *words]) == 0
        files = sorted((folder / "data/shards/bench").iterdir())
        kept[name] = {file.name: file.read_bytes() for file in files if file.suffix in (".tar", ".arrow")}
    assert "20 media opened in 3 parts by Ray" in capfd.readouterr().out
    assert kept["ray"] == kept["here"]
