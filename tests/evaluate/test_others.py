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
from videollava.evaluate.stage import evaluate, run
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
    shards = workspace / "data/index/shards.json"
    listed = json.loads(shards.read_text())
    # Clips that are stored as frames are no matter to who asks about pictures.
    shards.write_text(json.dumps([{**one, "frames": [99, 8]} for one in listed]))
    commit = "0123456789" * 4
    snapshot = shutil.copytree(model_folder, workspace / "cache" / commit)
    monkeypatch.setattr(others, "find_model", lambda name, _: Origin(name, snapshot, commit))
    chosen = params(benchmarks=["easy_vqa"], blind=False, zero_shot=["esc-50", "toy_pairs"])
    evaluate_other(chosen, workspace, "LanguageBind/Video-LLaVA-7B")
    told = capsys.readouterr().out
    assert f"LanguageBind/Video-LLaVA-7B ({commit})" in told
    page = (workspace / "evaluations/LanguageBind-Video-LLaVA-7B/report.html").read_text()
    assert "LanguageBind/Video-LLaVA-7B" in page
    left_out = "evaluate.zero_shot: left out (esc-50, toy_pairs): a model alone has no text encoder to ask"
    assert left_out in told  # and on the page, where it is read later
    assert left_out in page


def test_encoders_that_can_not_be_asked_are_told_before_the_model_is(
    workspace: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    (workspace / "params.yaml").write_text(YAML)
    monkeypatch.chdir(workspace)
    monkeypatch.setattr(others, "find_model", lambda *_: pytest.fail("the model was looked for"))

    def refused(*words: str) -> str:
        assert main(["evaluate", *words]) == 2
        return str(capsys.readouterr().err)

    model = ("--model", str(model_folder))
    asked = ("--benchmarks", "easy_vqa,esc-50.zero_shot,toy_pairs.audio")
    told = refused(*model, *asked)
    assert (
        f"esc-50, toy_pairs asks encoders by themselves, and {model_folder} is a model alone: --encoders"
        in told
    )
    assert "and pretrain is a model alone: leave it out" in refused("--checkpoint", "pretrain", *asked)
    assert "--encoders nowhere: no folder; name one with encoders in image" in refused(
        *model, "--encoders", "nowhere"
    )
    (tmp_path / "empty").mkdir()
    assert "empty: holds no encoder; name one" in refused(*model, "--encoders", str(tmp_path / "empty"))

    (workspace / "pictures/image").mkdir(parents=True)
    (workspace / "pictures/image/config.json").write_text("{}")
    (workspace / "data/zero_shot/esc-50").mkdir(parents=True)
    chosen = params(benchmarks=["easy_vqa"], zero_shot=["esc-50"])
    said = "pictures: evaluate.zero_shot: esc-50 asks an encoder of audio, and there are image: take it off"
    with pytest.raises(InputError, match=said):
        evaluate(chosen, workspace, model_folder, tmp_path / "out", encoders=workspace / "pictures")
    with pytest.raises(InputError, match=r"models/encoders: not there, .*: run `videollava align`"):
        run(params(benchmarks=[], zero_shot=["esc-50"]), workspace)


def test_without_data_it_says_how_to_get_some(workspace: Path, model_folder: Path) -> None:
    with pytest.raises(InputError, match=r"has data here; `videollava benchmarks` tells"):
        evaluate_other(params(benchmarks=["gqa", "pope"]), workspace, str(model_folder))
    with pytest.raises(
        InputError, match=r"esc-50: encoders .* evaluate\.zero_shot \(--benchmarks esc-50\.zero_shot\)"
    ):
        evaluate_other(params(benchmarks=["esc-50"]), workspace, str(model_folder), chosen=True)
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
