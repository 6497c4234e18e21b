"""What the stages would do and why, asked of real DVC in a workspace whose stages have run."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from flows.history.status import StageState, look
from flows.places.git import run_git
from flows.stages.stage import run_stage
from flows.team.entries import take_entries
from videollava.cli import main
from videollava.errors import InputError
from videollava.tracking.journal import Journal

REPOSITORY = Path(__file__).resolve().parents[3]


def told(root: Path, target: str = "") -> dict[str, tuple[str, list[str]]]:
    return {one.stage: (one.state, [reason.text for reason in one.reasons]) for one in look(root, target)}


def change(file: Path, was: str, now: str) -> None:
    text = file.read_text()
    assert was in text
    file.write_text(text.replace(was, now))


def test_all_is_current_and_who_made_it_is_known(finished: Path) -> None:
    states = look(finished)
    assert [(one.stage, one.state, one.reasons) for one in states] == [
        (name, "current", ()) for name in ("fetch", "finetune", "evaluate")
    ]
    for one in states:
        assert one.made is not None
        assert one.made.host == os.uname().nodename
        assert 0 < one.made.seconds < 600
        assert time.time() - 3600 < one.made.ended <= time.time()
        assert len(one.made.commit) == 40


def test_a_parameter_a_command_and_code_are_named(finished: Path) -> None:
    change(finished / "params.yaml", "epochs: 2", "epochs: 3")
    assert told(finished) == {
        "fetch": ("current", []),
        "finetune": ("runs", ["finetune.epochs: 2 -> 3"]),
        "evaluate": ("open", ["finetune runs"]),
    }
    assert list(told(finished, "fetch")) == ["fetch"]
    change(finished / "params.yaml", "epochs: 3", "epochs: 2")
    change(finished / "params.yaml", "\nseed: 0", "\nseed: 1")
    assert told(finished)["evaluate"] == ("runs", ["seed: 0 -> 1", "finetune runs"])
    change(finished / "params.yaml", "\nseed: 1", "\nseed: 0")
    (finished / "stage.py").write_text((finished / "stage.py").read_text() + "# more\n")
    assert told(finished)["fetch"] == ("runs", ["code stage.py changed"])
    change(finished / "dvc.yaml", "${run} fetch", "${run}  fetch")
    assert told(finished)["fetch"][1][0] == "its command in dvc.yaml is another one"


def test_known_inputs_are_restored_and_lost_outputs_are_told(finished: Path) -> None:
    change(finished / "params.yaml", "epochs: 2", "epochs: 4")
    assert run_stage(finished, "evaluate").outcome == "ran"
    change(finished / "params.yaml", "epochs: 4", "epochs: 2")
    assert told(finished)["finetune"] == ("restored", ["finetune.epochs: 4 -> 2"])
    assert told(finished)["evaluate"] == ("open", ["finetune is restored"])
    assert run_stage(finished, "finetune").outcome == "restored"
    shutil.rmtree(finished / "models/videollava")
    states = told(finished)
    assert states["finetune"] == ("restored", ["its output models/videollava is gone"])
    (finished / "models/videollava").mkdir()
    (finished / "models/videollava/mine").touch()
    assert told(finished)["finetune"] == (
        "restored",
        ["its output models/videollava is not what the stage wrote"],
    )
    shutil.rmtree(finished / "models/videollava")
    shutil.rmtree(finished / ".dvc/cache")
    assert told(finished)["finetune"][0] == "absent"


def test_in_a_fresh_clone_outputs_are_elsewhere_and_one_change_is_one_change(finished: Path) -> None:
    run_git(finished, "add", "-f", "dvc.lock")
    run_git(finished, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "locked")
    clone = finished.parent / "clone"
    run_git(finished.parent, "clone", "-q", str(finished), str(clone))
    states = look(clone)
    assert {one.state for one in states} == {"absent"}
    assert {one.made for one in states} == {None}
    change(clone / "params.yaml", "epochs: 2", "epochs: 3")
    assert {name: state for name, (state, _) in told(clone).items()} == {
        "fetch": "absent",
        "finetune": "runs",
        "evaluate": "open",
    }


def test_a_stage_at_work_is_running(finished: Path) -> None:
    with Journal(finished / "runs/finetune/now-001.jsonl", "id") as journal:
        journal.start("finetune", {}, {})
        assert told(finished)["finetune"][0] == "running"
        assert told(finished)["evaluate"] == ("open", ["finetune is running"])
    assert told(finished)["finetune"][0] == "current"


@pytest.mark.parametrize("there", [True, False])
def test_without_a_git_nothing_is_written_for_it(
    finished: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(finished.parent))
    if not there:
        shutil.rmtree(finished / ".git")
    before = sorted(path.name for path in (finished / ".dvc").iterdir())
    assert {state for state, _ in told(finished).values()} == {"current"}
    assert sorted(path.name for path in (finished / ".dvc").iterdir()) == before


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("dvc.yaml", "stages: [", "not valid YAML"),
        ("dvc.yaml", "stages:\n  a: {cmd: x, depss: [y], outs: [z]}\n", "depss"),
        ("params.yaml", "a: [", "not valid YAML"),
        ("params.yaml", None, "not found; write one"),
        ("dvc.lock", "schema: '2.0'\nstages: [", "dvc.lock"),
        ("dvc.lock", "<<<<<<< HEAD\n", "dvc.lock"),
        (".dvc/config", "[core", "DVC cannot be asked"),
        (".dvc", None, "no .dvc folder"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    text: str | None,
    message: str,
) -> None:
    monkeypatch.chdir(finished)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(finished.parent))
    path = finished / name
    if text is None:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    else:
        path.write_text(text)
    assert main(["status"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("videollava status: ")
    assert "Traceback" not in said


def test_the_table_fits_and_the_json_has_all(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    change(finished / "params.yaml", "epochs: 2", "epochs: 3")
    assert main(["status"]) == 0
    table = capsys.readouterr().out
    assert max(map(len, table.splitlines())) <= 110
    assert "\nfinetune  will run" in table
    assert "    finetune.epochs: 2 -> 3\n" in table
    assert main(["status", "finetune", "--json"]) == 0
    held = json.loads(capsys.readouterr().out)
    assert [one["stage"] for one in held["stages"]] == ["fetch", "finetune"]
    (reason,) = held["stages"][1]["reasons"]
    assert (reason["kind"], reason["what"], reason["was"], reason["now"]) == (
        "parameter",
        "finetune.epochs",
        "2",
        "3",
    )
    with pytest.raises(InputError, match="no stage 'finetun'"):
        look(finished, "finetun")


def test_in_this_repository_no_stage_ever_ran(tmp_path: Path) -> None:
    """And dvc.yaml, params.yaml and compute.lock are what DVC takes."""
    for name in ("dvc.yaml", "params.yaml", "compute.lock"):
        shutil.copy(REPOSITORY / name, tmp_path)
    (tmp_path / ".dvc").mkdir()
    shutil.copy(REPOSITORY / ".dvc/config", tmp_path / ".dvc")
    states: list[StageState] = look(tmp_path)
    assert {one.state for one in states} == {"runs"}
    assert {one.reasons[0].kind for one in states} == {"never"}


def test_what_never_ran_here_is_held_against_another_lock(finished: Path) -> None:
    entries = take_entries(finished)
    (finished / "dvc.lock").unlink()
    file = finished / "params.yaml"
    file.write_text(file.read_text().replace("epochs: 2", "epochs: 3"))
    never = {state.stage: [reason.kind for reason in state.reasons] for state in look(finished)}
    assert never["finetune"] == ["never", "earlier"]
    told = {
        state.stage: [reason.text for reason in state.reasons] for state in look(finished, before=entries)
    }
    assert told == {
        "fetch": [],
        "finetune": ["finetune.epochs: 2 -> 3"],
        "evaluate": ["finetune runs"],
    }
    assert not (finished / "dvc.lock").exists()
