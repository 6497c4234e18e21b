"""A version as a folder: whole, readable without registry or network, or not there at all. And its card."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from videollava.cli import main
from videollava.errors import InputError
from videollava.params import Params
from videollava.registry import open_store, register
from videollava.registry.whole import export as module
from videollava.registry.whole.export import export

CARD = {
    "sources": {
        "birds": {
            "licence": "CC BY 4.0",
            "records": {"finetune": 1200, "test-birds": 10},
            "media": {"image": 1100},
            "quarantined": {"no such image": 7},
            "members_refused": {"leaves its folder": 1},
        }
    },
    "forgotten": {"birds": {"media": 2, "records": 3}},
    "overlap": {"easy_vqa": {"media": 4, "of_media": 100, "both": 5, "of_questions": 200}},
}


@pytest.fixture
def version(workspace: Path, params: Params, trained) -> str:
    """A registered version whose data, answers and bases are known."""
    trained("weights of it", 50.0)
    place = workspace / "evaluation" / "predictions"
    place.mkdir(parents=True)
    (workspace / "evaluation" / "card.json").write_text(json.dumps(CARD))
    rows = [
        {"question_id": str(n), "kind": "k", "question": "q", "answer": "a", "prediction": "a"}
        | {"correct": n % 2 == 0, "media": [n]}
        for n in range(100)
    ]
    (place / "easy_vqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (workspace / "locks" / "models").mkdir(parents=True)
    (workspace / "locks" / "models" / "bases.json").write_text(json.dumps({"lmsys/vicuna": "abc123"}))
    bases = params.bases.model_copy(update={"language": "lmsys/vicuna", "image_encoder": "/secret/place/eye"})
    made, _ = register(workspace, params.replace(bases=bases))
    return made.reference


def test_the_card_says_what_a_model_is_made_of_and_where_it_fails(
    workspace: Path, params: Params, version: str
) -> None:
    store = open_store(workspace, params.tracking)
    item = store.client.get_model_version("videollava", version.rpartition("/")[2])
    card = Path(store.client.download_artifacts(item.run_id, "card.md", str(workspace))).read_text()
    for line in (
        "| easy_vqa | accuracy | - | 50.00 [40.00, 60.00] | 20.00 | - | - |",
        "| birds | CC BY 4.0 | 1,200 finetune, 10 test-birds | 1,100 image |",
        "- birds: 7 records left out: no such image",
        "- birds: 1 files left out: leaves its folder",
        "- birds: 2 media with 3 records taken out on request",
        "- easy_vqa: 4 of its 100 media are trained on, 5 of its 200 questions with their medium",
        "- language: lmsys/vicuna at abc123",
        "- image encoder: eye",
        "Unknown: the journals of its stages are not here.",
    ):
        assert line in card
    assert "secret/place" not in card
    assert item.description == "easy_vqa 50.00 [40.00, 60.00]\nData: birds. Card: artifacts/card.md"


def test_an_export_is_whole_and_its_sums_hold(
    workspace: Path, params: Params, version: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(workspace)
    target = tmp_path / "out"
    assert main(["export", "1", str(target)]) == 0
    assert "README.md says how to load it" in capsys.readouterr().out
    (wheel,) = (target / "code").iterdir()
    sums = dict(reversed(line.split("  ")) for line in (target / "SHA256SUMS").read_text().splitlines())
    files = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert files == {*sums, "SHA256SUMS"}
    assert files >= {"config.json", "model.safetensors", "README.md", "LICENSE", "LICENCES.md"}
    assert all(
        hashlib.sha256((target / name).read_bytes()).hexdigest() == told for name, told in sums.items()
    )
    assert not (target / "model.safetensors").is_symlink()
    assert (target / "model.safetensors").stat().st_nlink == 1
    assert (target / "model.safetensors").stat().st_mode & 0o200
    needs = (target / "requirements.txt").read_text().splitlines()
    assert needs[0] == f"./code/{wheel.name}"
    assert not [line for line in needs[1:] if "videollava" in line or "==" not in line]
    text = (target / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: videollava\n")
    assert "lmsys/vicuna at abc123" in text
    assert "Apache License" in (target / "LICENSE").read_text()


def test_nothing_is_overwritten_and_half_an_export_is_none(
    workspace: Path, params: Params, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something; name a new folder"):
        export(version, target, workspace, params.tracking)
    assert [path.name for path in target.iterdir()] == ["mine.txt"]
    empty = tmp_path / "empty"
    empty.mkdir()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_write_sums", fail)
        with pytest.raises(InputError, match=r"empty: not written: .*No space"):
            export(version, empty, workspace, params.tracking)
    assert list(empty.iterdir()) == []
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".empty")]
    assert export(version, empty, workspace, params.tracking) == []
    assert (empty / "SHA256SUMS").is_file()
    with pytest.raises(InputError, match="not in the registry"):
        export("9", tmp_path / "nine", workspace, params.tracking)
    assert not (tmp_path / "nine").exists()


def test_what_a_killed_export_left_is_taken_away_and_nobody_is_put_out_of_their_folder(
    workspace: Path, params: Params, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    killed, running = (
        out / f".new.{socket.gethostname()}.{process}.tmp" for process in (gone.pid, os.getppid())
    )
    for half in (killed, running):
        half.mkdir()
        (half / "model.safetensors").write_text("half")
    export(version, out / "new", workspace, params.tracking)
    assert sorted(path.name for path in out.iterdir()) == sorted([running.name, "new"])
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for name in (".", "..", str(here)):
        with pytest.raises(InputError, match="name a new"):
            export(version, Path(name), workspace, params.tracking)


@pytest.mark.slow
def test_an_export_answers_by_its_card_with_nothing_but_its_wheel(
    workspace: Path, params: Params, model_folder: Path, keep, tmp_path: Path
) -> None:
    from PIL import Image

    from videollava.serve.assistant import load

    keep(model_folder, "first")
    version, _ = register(workspace, params)
    target = tmp_path / "out"
    export(version.reference, target, workspace, params.tracking)
    shutil.rmtree(workspace)  # no registry, no cache
    Image.new("RGB", (20, 20), (200, 30, 30)).save(target / "picture.png")
    snippet = (target / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    snippet += "import videollava\nprint(videollava.__file__)\n"
    quiet = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MLFLOW"))}
    done = subprocess.run(
        [sys.executable, "-P", "-c", snippet],
        cwd=target,
        env=quiet,
        capture_output=True,
        text=True,
        check=True,
    )
    *answer, code = done.stdout.rstrip("\n").split("\n")
    expected = load(model_folder).answer("what is to be seen?", images=target / "picture.png")
    assert "\n".join(answer).strip() == expected.strip()
    assert code.startswith("code/videollava-0.1.0+c")
