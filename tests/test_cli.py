"""The command line: what a person types, what comes back, what a mistake looks like."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from videollava import cli
from videollava.params import load_params


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = cli.main(arguments)
    said = capsys.readouterr()
    return status, said.out, said.err


def test_help_names_every_stage_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert all(f"  {name}" in said for name in cli.COMMANDS)


def test_profile_lists_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "profile", "tiny")[0] == 0
    assert load_params("params.yaml").profile == "tiny"
    _, listed, _ = run(capsys, "profile")
    assert any(line.startswith("* tiny") for line in listed.splitlines())
    status, _, error = run(capsys, "profile", "tinny")
    assert status == 2
    assert "did you mean 'tiny'" in error


def test_a_mistake_is_one_line_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, error = run(capsys, "finetune")
    assert (status, out) == (2, "")
    assert error.splitlines() == [
        "videollava finetune: params.yaml: not found; write one with `videollava profile tiny`"
    ]


def test_score_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = tmp_path / "answers.jsonl"
    rows = [("1", "red", "Red."), ("2", "blue", "green")]
    lines = [{"question_id": i, "kind": "color", "answer": a, "prediction": p} for i, a, p in rows]
    answers.write_text("".join(json.dumps(line) + "\n" for line in lines))
    status, out, _ = run(capsys, "score", "easy_vqa", "--answers", str(answers), "--json")
    assert status == 0
    assert json.loads(out)["accuracy"] == 50.0


def test_normalise_filters_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("The Red Shapes.\nTwo\n"))
    _, out, _ = run(capsys, "normalise", "--rule", "vqa")
    assert out.splitlines() == ["red shapes", "2"]
