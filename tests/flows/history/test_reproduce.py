"""A version in a fresh folder: restored, made again, and the three verdicts. Real git and real DVC on a toy graph."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.history.find import Found, find_commit
from flows.history.made import Made
from flows.history.reproduce import reproduce
from flows.history.save import save
from videollava.errors import InputError
from videollava.params import Tracking


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    return subprocess.run(
        ["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True
    ).stdout


def dvc(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "dvc", *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def saved(finished: Path) -> Path:
    """The workspace with version 1 saved and tagged."""
    done = save(finished, lambda: Made(model="videollava"))
    git(finished, "update-ref", "refs/tags/model/videollava/1", done.commit)
    return finished


def test_a_version_is_restored(saved: Path, tmp_path: Path) -> None:
    found = find_commit(saved, Tracking(), "1")
    assert found == Found(git(saved, "rev-parse", "model/videollava/1").strip(), "videollava/1")
    before = git(saved, "status", "--porcelain")
    done = reproduce(saved, found, tmp_path / "there")
    assert (done.word, done.remade, done.differs, done.notes) == ("bit-equal", (), (), ())
    assert (tmp_path / "there/models/videollava/model.safetensors").read_text() == "weights after 2"
    assert git(tmp_path / "there", "status", "--porcelain") == ""
    assert git(saved, "status", "--porcelain") == before


def test_a_version_is_made_again_bit_equal(saved: Path, tmp_path: Path) -> None:
    said: list[str] = []
    done = reproduce(
        saved, find_commit(saved, Tracking(), "1"), tmp_path / "there", again=True, echo=said.append
    )
    assert done.word == "bit-equal"
    assert done.remade == ("fetch", "finetune", "evaluate")
    assert len(list((tmp_path / "there/runs").glob("*/*.jsonl"))) == 3  # they ran there
    assert not (tmp_path / "there/.mlflow").exists()


def test_what_is_nowhere_is_made_again(saved: Path, tmp_path: Path) -> None:
    shutil.rmtree(saved / ".dvc/cache")
    found = find_commit(saved, Tracking(), "1")
    with pytest.raises(InputError, match=r"neither DVC's cache nor its remote.*--again"):
        reproduce(saved, found, tmp_path / "there")
    done = reproduce(saved, found, tmp_path / "again", again=True)
    assert done.word == "bit-equal"
    assert len(done.notes) == 1
    assert "answers of then are in neither" in done.notes[0]


def test_a_folder_that_is_not_free(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is there already; give a new folder with --into"):
        reproduce(saved, find_commit(saved, Tracking(), "1"), tmp_path / "there")
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["mine.txt"]


# Luck decides what comes out, as other machines do.
STAGE = """
import json, os, pathlib, sys
right = int(os.environ.get("RIGHT", "60"))
if sys.argv[1] == "finetune":
    folder = pathlib.Path("models/videollava")
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text(f"weights {right}")
else:
    folder = pathlib.Path("evaluation/predictions")
    folder.mkdir(parents=True)
    rows = [
        {"question_id": str(n), "question": "?", "answer": "a", "prediction": "ab"[n >= right],
         "correct": n < right, "kind": "k", "media": [n]}
        for n in range(100)
    ]
    (folder / "easy_vqa.jsonl").write_text("".join(json.dumps(row) + chr(10) for row in rows))
    (folder.parent / "report.html").write_text(os.urandom(8).hex())  # it tells hours
    pathlib.Path("metrics.json").write_text(json.dumps({"easy_vqa": {"accuracy": float(right), "n": 100}}))
"""
DVC = """
stages:
  finetune:
    cmd: {python} stage.py finetune
    deps: [stage.py]
    outs: [models/videollava]
  evaluate:
    cmd: {python} stage.py evaluate
    deps: [models/videollava, stage.py]
    outs: [evaluation]
    metrics: [metrics.json]
"""


@pytest.mark.parametrize(
    ("right", "word", "p"),
    [(60, "bit-equal", None), (61, "equal by paired test", 1.0), (90, "different", 0.0)],
)
def test_the_three_verdicts(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: int, word: str, p: float | None
) -> None:
    (workspace / "stage.py").write_text(STAGE)
    (workspace / "dvc.yaml").write_text(DVC.format(python=sys.executable))
    dvc(workspace, "repro", "-q")
    done = save(workspace, lambda: Made(model="videollava"), "lucky")
    monkeypatch.chdir(workspace)
    monkeypatch.setenv("RIGHT", str(right))
    words = ["reproduce", "lucky", "--again", "--json", "--into", str(tmp_path / "there")]
    command = [
        sys.executable,
        "-P",
        "-c",
        "from videollava.cli import main; raise SystemExit(main())",
        *words,
    ]
    ran = subprocess.run(command, cwd=workspace, capture_output=True, text=True, check=False)
    assert ran.returncode == (word == "different"), ran.stderr
    told = json.loads(ran.stdout)
    assert (told["word"], told["commit"], told["remade"]) == (word, done.commit, ["finetune", "evaluate"])
    assert told["p"] == ({} if p is None else {"easy_vqa": pytest.approx(p, abs=1e-4)})
    assert ("models/videollava" in told["differs"]) == (right != 60)


def test_names_that_mean_a_commit(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(saved)
    commit = git(saved, "rev-parse", "model/videollava/1").strip()
    name = git(saved, "for-each-ref", "--format=%(refname:lstrip=4)", "refs/exps").strip()
    for word in ("1", "models:/videollava/1", "model/videollava/1", name, commit, commit[:12]):
        assert find_commit(saved, Tracking(), word).commit == commit
    with pytest.raises(InputError, match="no saved retraining"):
        find_commit(saved, Tracking(), "HEAD")
    with pytest.raises(InputError, match="not in the registry"):
        find_commit(saved, Tracking(), "7")
    git(saved, "update-ref", "refs/videollava/model/videollava/1", "HEAD")  # a private one of that number
    with pytest.raises(InputError, match="no saved retraining"):
        find_commit(saved, Tracking(), "1")  # the registry in use is private
