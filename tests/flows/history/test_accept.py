"""A code change that changes no result: accepted with a reason, and refused where anything else changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from flows.history.accept import accept
from flows.history.status import look
from flows.places.git import run_git
from flows.places.lock import hold
from flows.stages.stage import run_stage
from videollava.cli import main
from videollava.errors import InputError
from videollava.tracking.accepted import ACCEPTED, read_accepted, standing
from videollava.tracking.commit import read_commit
from videollava.tracking.spent import read_made

BECAUSE = "a comment was added"


def edit(root: Path, more: str = "# a comment\n") -> None:
    with (root / "stage.py").open("a") as stream:
        stream.write(more)


def states(root: Path) -> dict[str, str]:
    return {one.stage: one.state for one in look(root)}


def outs(root: Path) -> dict[str, list[dict[str, object]]]:
    held = yaml.safe_load((root / "dvc.lock").read_text())["stages"]
    return {name: entry["outs"] for name, entry in held.items()}


def test_accepted_code_runs_nothing_and_is_written_down(finished: Path) -> None:
    run_git(finished, "config", "user.name", "Ada")
    run_git(finished, "config", "user.email", "ada@example.org")
    before, made = outs(finished), read_made(finished, "finetune")
    edit(finished)
    assert set(states(finished).values()) == {"runs"}
    for stage in ("fetch", "finetune", "evaluate"):
        done = accept(finished, stage, f"  {BECAUSE}\n ")
    assert done.record() == {
        "stage": "evaluate",
        "because": BECAUSE,
        "who": "Ada <ada@example.org>",
        "when": done.when,
        "files": ["stage.py"],
    }
    assert set(states(finished).values()) == {"current"}
    assert [run_stage(finished, stage).outcome for stage in before] == ["unchanged"] * 3
    assert outs(finished) == before
    assert [one.stage for one in standing(finished)] == ["fetch", "finetune", "evaluate"]
    # Whose outputs these are is still known, after a second change too.
    assert read_made(finished, "finetune") == made is not None
    edit(finished, "# another\n")
    accept(finished, "finetune", "again only words")
    assert read_made(finished, "finetune") == made
    assert [one.because for one in standing(finished, "finetune")] == [BECAUSE, "again only words"]
    # It is a note of what ran, like dvc.lock: no edit of the code.
    run_git(finished, "add", "-A")
    run_git(finished, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "accepted")
    accept(finished, "fetch", "once more")
    assert read_commit(finished).dirty is False


def test_other_outputs_need_no_acceptance(finished: Path) -> None:
    edit(finished)
    accept(finished, "fetch", BECAUSE)
    accept(finished, "finetune", BECAUSE)
    file = finished / "params.yaml"
    file.write_text(file.read_text().replace("epochs: 2", "epochs: 3"))
    assert run_stage(finished, "finetune").outcome == "ran"
    assert [one.stage for one in standing(finished)] == ["fetch"]
    assert len(read_accepted(finished)) == 2
    made = read_made(finished, "finetune")
    assert made is not None
    # What was accepted is known to the run-cache too: going back restores it.
    file.write_text(file.read_text().replace("epochs: 3", "epochs: 2"))
    assert run_stage(finished, "finetune").outcome == "restored"
    assert [one.stage for one in standing(finished)] == ["fetch", "finetune"]


@pytest.mark.parametrize(
    ("file", "was", "now", "message"),
    [
        (
            "params.yaml",
            "epochs: 2",
            "epochs: 3",
            r"only code can be accepted, and finetune\.epochs: 2 -> 3: let it run",
        ),
        ("dvc.yaml", "${run} finetune", "${run}  finetune", "its command in dvc.yaml is another one"),
        ("data/raw/toy", "toy", "other", "data data/raw changed"),
        (
            "models/videollava/config.json",
            "{}",
            "{ }",
            "its output models/videollava is not what the stage wrote",
        ),
    ],
)
def test_what_is_more_than_code_is_refused(
    finished: Path, file: str, was: str, now: str, message: str
) -> None:
    edit(finished)
    path = finished / file
    text = path.read_text()
    assert was in text
    path.chmod(0o644)
    path.unlink()  # it may be a link into DVC's cache
    path.write_text(text.replace(was, now))
    before = (finished / "dvc.lock").read_text()
    with pytest.raises(InputError, match=message):
        accept(finished, "finetune", BECAUSE)
    assert (finished / "dvc.lock").read_text() == before
    assert not (finished / ACCEPTED).exists()


def test_nothing_to_accept_no_reason_no_stage_a_retraining_at_work(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="there is nothing to accept"):
        accept(finished, "finetune", BECAUSE)
    edit(finished)
    with pytest.raises(InputError, match="say why no result changes"):
        accept(finished, "finetune", " \n")
    with pytest.raises(InputError, match="no stage 'finetun'; there are"):
        accept(finished, "finetun", BECAUSE)
    with hold(finished), pytest.raises(InputError, match="another retraining"):
        accept(finished, "finetune", BECAUSE)
    monkeypatch.chdir(finished)
    with pytest.raises(SystemExit):
        main(["accept", "finetune"])
    assert "--because" in capsys.readouterr().err
    assert main(["accept", "finetune", "--because", BECAUSE]) == 0
    assert "finetune: accepted stage.py" in capsys.readouterr().out


def test_a_broken_line_is_named(finished: Path) -> None:
    (finished / ACCEPTED).write_text(json.dumps({"stage": "x"}) + "\n")
    with pytest.raises(InputError, match=r"accepted\.jsonl: line 1: no acceptance"):
        read_accepted(finished)
