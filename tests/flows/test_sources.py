"""Sources come and go in fresh clones that have nothing but a remote; they make what a run from scratch makes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).resolve().parents[2]


def source(seed: int) -> dict[str, object]:
    return {"kind": "generated", "format": "clips", "train": 6, "test": 3, "seed": seed}


def run(root: Path, *words: str) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": str(root),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(words, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def git(root: Path, *words: str) -> str:
    return run(root, "git", "-c", "user.name=t", "-c", "user.email=t@t", *words)


def have(root: Path, **sources: dict[str, object]) -> None:
    """Make these the sources, as a person would who edits the file by hand."""
    file = root / "params.yaml"
    values = {**yaml.safe_load(file.read_text()), "sources": sources}
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    run(root, sys.executable, "-m", "videollava", "data", "join")


def index(root: Path) -> tuple[list[str], dict[str, str]]:
    """Which stages ran for the index, and the sums of what it holds."""
    said = run(root, sys.executable, "-m", "dvc", "repro", "--pull", "--allow-missing", "index")
    ran = [line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage '")]
    files = sorted((root / "data/index").rglob("*.arrow"))
    return ran, {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def clone(origin: Path, to: Path) -> Path:
    git(origin.parent, "clone", "--quiet", str(origin), str(to))
    return to


def test_in_a_fresh_clone_a_source_comes_and_goes_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    first = tmp_path / "first"
    for name in git(REPOSITORY, "ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (REPOSITORY / name).is_file() and name != "dvc.lock":
            (first / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, first / name)
    git(first, "init", "--quiet")
    (tmp_path / "remote").mkdir()
    have(first, a=source(1), b=source(2))
    run(first, sys.executable, "-m", "videollava", "remote", "set", str(tmp_path / "remote"))
    _, two = index(first)
    git(first, "add", "-A")
    git(first, "commit", "--quiet", "-m", "two sources")
    run(first, sys.executable, "-m", "dvc", "push", "--run-cache")

    fresh = clone(first, tmp_path / "fresh")
    assert index(fresh) == ([], {})  # nothing to do, so nothing is brought
    have(fresh, a=source(1), b=source(2), c=source(3))
    ran, three = index(fresh)
    assert ran == ["fetch@c", "shards@c", "index"]

    scratch = clone(first, tmp_path / "scratch")
    for name in ("dvc.lock", ".dvc/config"):
        (scratch / name).unlink()
    have(scratch, a=source(1), b=source(2), c=source(3))
    ran, again = index(scratch)
    assert (len(ran), again) == (7, three)

    have(fresh, a=source(1), b=source(2))
    ran, left = index(fresh)
    assert (ran, left) == ([], two)  # the index of then, from the runs that are known
