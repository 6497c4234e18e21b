"""`videollava evaluate --model`: the same scores as the pipeline's, in a folder of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evaluation_files import params, picture

from videollava.cli import main
from videollava.errors import InputError
from videollava.evaluate import others
from videollava.evaluate.others import evaluate_other, folder_of
from videollava.evaluate.stage import run
from videollava.origin import Origin

Prepare = Callable[..., Path]
YAML = "profile: tiny\nevaluate: {benchmarks: [easy_vqa, gqa], max_new_tokens: 6, precision: fp32}\n"


@pytest.fixture
def workspace(prepare: Prepare) -> Path:
    """Six pictures that training has, and six that a question each is about."""
    media = [("image", picture(n)) for n in range(12)]
    learned = [("t", [["human", "<image>\nwhat color is it?"], ["gpt", "red"]], [0])]
    asked = [
        (f"q{n}", [["human", f"<image>\nwhat color is {n}?"], ["gpt", "red"]], [6 + n]) for n in range(6)
    ]
    return prepare(media, {"finetune": learned, "test-easy_vqa": asked})


def test_a_folder_scores_as_the_pipeline_does(
    workspace: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    shutil.copytree(model_folder, workspace / "models/videollava")
    (workspace / "dvc.yaml").write_text("stages: {evaluate: {cmd: x, params: [evaluate], deps: []}}")
    run(params(benchmarks=["easy_vqa"], max_new_tokens=6, precision="fp32"), workspace)
    (workspace / "params.yaml").write_text(YAML)
    (workspace / "machine.yaml").write_text("gpus: 0\n")
    before = (workspace / "evaluation/report.html").read_bytes()
    monkeypatch.chdir(workspace)
    assert main(["evaluate", "--model", "models/videollava"]) == 0
    assert "no data here for gqa: left out" in capsys.readouterr().out
    out = workspace / "evaluations/models-videollava"
    assert json.loads((out / "metrics.json").read_text()) == json.loads(
        (workspace / "metrics.json").read_text()
    )
    for name in ("predictions/easy_vqa.jsonl", "predictions/easy_vqa.blind.jsonl"):
        assert (out / name).read_bytes() == (workspace / "evaluation" / name).read_bytes()
    assert (workspace / "evaluation/report.html").read_bytes() == before
    assert "models/videollava" in (out / "report.html").read_text()


def test_a_hub_id_is_named_in_the_report_and_its_folder_not(
    workspace: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    commit = "0123456789" * 4
    snapshot = shutil.copytree(model_folder, workspace / "cache" / commit)
    monkeypatch.setattr(others, "find_model", lambda name, _: Origin(name, snapshot, commit))
    chosen = params(benchmarks=["easy_vqa"], blind=False)
    evaluate_other(chosen, workspace, "LanguageBind/Video-LLaVA-7B")
    assert f"LanguageBind/Video-LLaVA-7B ({commit})" in capsys.readouterr().out
    page = (workspace / "evaluations/LanguageBind-Video-LLaVA-7B/report.html").read_text()
    assert "LanguageBind/Video-LLaVA-7B" in page


def test_without_data_it_says_how_to_get_some(workspace: Path, model_folder: Path) -> None:
    with pytest.raises(InputError, match=r"has data here; `videollava benchmarks` tells"):
        evaluate_other(params(benchmarks=["gqa", "pope"]), workspace, str(model_folder))
    with pytest.raises(InputError, match=r"set evaluate\.folders\.gqa"):  # asked for by name, it is an error
        evaluate_other(params(benchmarks=["gqa"]), workspace, str(model_folder), chosen=True)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("models:/videollava@champion", "models-videollava-champion"),
        ("../elsewhere/m", "elsewhere-m"),
        ("/", "model"),
    ],
)
def test_the_folder_is_named_as_the_model(name: str, folder: str) -> None:
    assert folder_of(name) == Path("evaluations") / folder
