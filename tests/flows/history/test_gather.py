"""What made.json says, and who reads it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from flows.history.gather import gather, read_scores
from flows.history.made import Made, read_made, to_text
from flows.history.save import save
from flows.history.snapshot import take_snapshot
from videollava.errors import InputError
from videollava.params import Params, load_params


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=Ada", "-c", "user.email=t@t"]
    return subprocess.run(
        ["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True
    ).stdout


def params_of(root: Path) -> Params:
    return load_params(root / "params.yaml")


def test_hours_runs_and_scores_come_from_journals_and_the_lock(finished: Path) -> None:
    git(finished, "config", "user.name", "Ada")
    git(finished, "config", "user.email", "ada@example.org")
    asked: list[tuple[str, str]] = []

    def find(journal: str, key: str) -> str:
        asked.append((journal, key))
        return f"run of {journal[:4]}"

    made = gather(finished, params_of(finished), find, "whole")
    assert made.scores == {"easy_vqa": {"accuracy": 62.0, "blind_accuracy": 40.0}}
    assert set(made.hours) == set(made.runs) == {"fetch", "finetune", "evaluate"}
    assert all(0 <= hours < 0.1 for hours in made.hours.values())
    (file,) = (finished / "runs/finetune").glob("*.jsonl")
    identity = json.loads(file.read_text().splitlines()[0])["id"]
    stage = made.stages["finetune"]
    assert (stage.journal, stage.run, stage.ranks, stage.device) == (
        identity,
        f"run of {identity[:4]}",
        1,
        "cpu",
    )
    assert (made.model, made.retraining_run, made.who, made.packages) == (
        "videollava",
        "whole",
        "Ada <ada@example.org>",
        {},
    )
    assert {journal for journal, _ in asked} == {one.journal for one in made.stages.values()}


def test_stages_whose_journals_are_elsewhere_are_told_by_an_earlier_save(finished: Path) -> None:
    first = save(finished, lambda: gather(finished, params_of(finished)))
    hours = read_made(finished, first.commit).hours
    shutil.rmtree(finished / "runs")
    assert gather(finished, params_of(finished)).hours == hours
    assert {one.came_from for one in gather(finished, params_of(finished)).stages.values()} == {first.commit}
    git(finished, "update-ref", "-d", first.ref)
    made = gather(finished, params_of(finished))
    assert (made.hours, made.runs) == ({}, {})  # nobody knows: not made up


def test_scores_are_those_of_the_lock(finished: Path) -> None:
    file = finished / "metrics.json"
    told = read_scores(finished)
    file.write_text("{}")
    assert read_scores(finished) == told  # from DVC's cache
    file.unlink()
    assert read_scores(finished) == told
    shutil.rmtree(finished / ".dvc/cache")
    assert read_scores(finished) == {}


def test_no_credential_gets_in(finished: Path) -> None:
    secret = "s3cr3t-of-mine"
    text = to_text(Made(model="m", who=f"https://ada:{secret}@example.com/x", machine={"api_token": secret}))
    assert secret not in text


def test_what_cannot_be_read_is_said(finished: Path) -> None:
    saved = save(finished, lambda: Made(model="m"))
    assert read_made(finished, saved.ref) == Made(model="m")
    with pytest.raises(InputError, match="no saved retraining"):
        read_made(finished, "HEAD")
    (finished / "made.json").write_text('{"format": 2, "model": "m"}')
    git(finished, "add", "made.json")
    git(finished, "commit", "-qm", "of later")
    with pytest.raises(InputError, match=r"HEAD:made\.json: format: .*a newer release reads it"):
        read_made(finished, "HEAD")
    with pytest.raises(InputError, match="no saved retraining"):
        read_made(finished.parent, "HEAD")


def test_an_accepted_change_is_in_it(finished: Path) -> None:
    from flows.history.accept import accept

    code = finished / "stage.py"
    code.write_text(code.read_text() + "# a comment\n")
    for stage in ("fetch", "finetune", "evaluate"):
        accept(finished, stage, "a comment")
    saved = save(finished, lambda: gather(finished, params_of(finished)))
    made = read_made(finished, saved.commit)
    assert [(one.stage, one.because, one.files) for one in made.accepted] == [
        (stage, "a comment", ("stage.py",)) for stage in ("fetch", "finetune", "evaluate")
    ]
    assert git(finished, "show", f"{saved.commit}:stage.py").endswith("# a comment\n")
    assert set(made.hours) == {"fetch", "finetune", "evaluate"}


def test_notes_name_what_is_left_out(finished: Path) -> None:
    (finished / "nested").mkdir()
    git(finished / "nested", "init", "-q")
    (finished / "nested/x").write_text("x")
    for number in range(7):
        (finished / f"notes-{number}.txt").write_text("x")
    notes = take_snapshot(finished).notes
    assert "nested/ is a repository of its own and is not saved" in notes
    assert any("notes-0.txt" in note and "and 2 more" in note for note in notes)
