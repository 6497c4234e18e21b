"""A version's encoders, by reference like its model: loaded by its name, and asked later what it was not before."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from videollava import embed, load_encoders
from videollava.cli import main
from videollava.errors import InputError
from videollava.evaluate.stage import run
from videollava.params import Params, load_params
from videollava.registry import Store, examine, find_version, open_store, promote, register, resolve_encoders

CAPTIONS = ("a red square", "a blue circle", "two green dots", "a wide grey wall", "one small tree")
NAME = "captions.zero_shot"
YAML = """\
seed: 1
evaluate: {benchmarks: [], zero_shot: [captions], precision: fp32}
"""
GATE = "videollava: {minimum_gain: -100.0, allowed_regression: 100.0}\n"
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Micro encoders of pictures and sounds, which share a text tower."""
    from transformers import AutoTokenizer

    from videollava.data.text.vocabulary import train_tokenizer
    from videollava.model import checkpoint
    from videollava.model.encoders import LanguageBind, LanguageBindConfig
    from videollava.model.encoders import LanguageBindTextConfig as Text
    from videollava.model.encoders import LanguageBindVisionConfig as Vision

    root = tmp_path_factory.mktemp("pairs")
    train_tokenizer(CAPTIONS, 300, root / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(root / "tokenizer")
    words = Text(**SIZES, vocab_size=len(tokenizer), max_position_embeddings=24, pooling="highest")
    texts: dict[str, torch.Tensor] = {}
    for seed, kind in enumerate(("image", "audio")):
        torch.manual_seed(seed)
        seen = Vision(**SIZES, image_size=16, patch_size=8, modality=kind)
        pair = LanguageBind(LanguageBindConfig(vision_config=seen, text_config=words, projection_dim=16))
        with torch.no_grad():
            for weight in pair.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
        texts = texts or {name: one for name, one in pair.state_dict().items() if name.startswith("text_")}
        pair.load_state_dict({**pair.state_dict(), **texts})
        checkpoint.save(pair.eval(), tokenizer, root / "encoders" / kind)
    return root / "encoders"


@pytest.fixture
def asked(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workspace with five pictures, their captions, and a question to encoders about them in params.yaml."""
    (workspace / "params.yaml").write_text(YAML)
    (workspace / "gate.yaml").write_text(GATE)
    (workspace / "machine.yaml").write_text("gpus: 0\n")
    (workspace / "dvc.yaml").write_text("stages: {evaluate: {cmd: x, params: [evaluate], deps: []}}\n")
    folder = workspace / "data/zero_shot/captions"
    folder.mkdir(parents=True)
    drawn = np.random.default_rng(3)
    lines = []
    for number, caption in enumerate(CAPTIONS):
        shades = drawn.integers(0, 255, (20, 24, 3)) * drawn.random(3)
        Image.fromarray(shades.astype(np.uint8)).save(folder / f"{number}.png")
        lines.append(json.dumps({"media": f"{number}.png", "captions": [caption]}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    monkeypatch.chdir(workspace)
    return workspace


Keep = Callable[..., Any]


@pytest.fixture
def kept(workspace: Path, trained: Callable[..., Any], store_object: Callable[..., str]) -> Keep:
    """Register what a retraining would leave: a model, and these encoders as the output of `align`."""

    def store(folder: Path) -> str:
        cache = workspace / ".dvc/cache"
        rows = [
            {"md5": store_object(cache, file.read_bytes()), "relpath": str(file.relative_to(folder))}
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        ]
        return store_object(cache, json.dumps(rows).encode(), ".dir")

    def keep(weights: str, encoders: Path | None, metrics: dict[str, Any] | None = None) -> Any:
        trained(weights, 90.0)
        lock = yaml.safe_load((workspace / "dvc.lock").read_text())
        if encoders:
            outs = [{"path": "models/encoders", "md5": store(encoders)}]
            lock["stages"]["align"] = {"cmd": "a", "outs": outs}
        if metrics:
            out = lock["stages"]["evaluate"]["outs"][0]
            (workspace / "metrics.json").write_text(json.dumps(metrics))
            out["md5"] = store(workspace / "evaluation")
        (workspace / "dvc.lock").write_text(yaml.safe_dump(lock))
        return register(workspace, Params(), places=[Store(str(workspace / ".dvc/cache"))])[0]

    return keep


def ask_own(workspace: Path, pairs: Path) -> dict[str, Any]:
    """As the stage does in the retraining that made these encoders; metrics.json."""
    shutil.copytree(pairs, workspace / "models/encoders")
    run(load_params(workspace / "params.yaml"), workspace)
    shutil.rmtree(workspace / "models/encoders")
    return dict(json.loads((workspace / "metrics.json").read_text()))


def test_a_champion_asked_later_says_what_it_would_have_said_then(
    asked: Path, pairs: Path, kept: Keep, capsys: pytest.CaptureFixture[str]
) -> None:
    old = kept("first", pairs)  # of before the question was thought of
    assert promote(asked, Params(), "1").move
    then = ask_own(asked, pairs)
    assert set(then) == {NAME}
    new = kept("second", pairs, then)
    decision = examine(new, old, Params(), asked)
    assert decision.unanswered == (NAME,)
    assert f"--model models:/videollava/1 --benchmarks {NAME} --keep" in decision.notes[-1]

    command = ["evaluate", "--model", "models:/videollava/1", "--benchmarks", NAME, "--keep", "--out", "out"]
    assert main(command) == 0
    later = json.loads((asked / "out/metrics.json").read_text())
    assert later == then
    answers = Path("predictions") / f"{NAME}.jsonl"
    assert (asked / "out" / answers).read_bytes() == (asked / "evaluation" / answers).read_bytes()
    old = find_version(asked, Params().tracking, "1")
    assert list(old.later.values()) == [then]

    decision = examine(new, old, Params(), asked)
    row = next(row for row in decision.rows if row.benchmark == NAME)
    assert (row.score, row.champion, row.gain) == (row.score, row.score, 0.0)
    assert decision.unanswered == ()
    assert not [reason for reason in decision.reasons if NAME in reason]


def test_without_names_a_version_is_asked_what_params_yaml_says(
    asked: Path, pairs: Path, kept: Keep, capsys: pytest.CaptureFixture[str]
) -> None:
    kept("first", pairs)
    assert main(["evaluate", "--model", "models:/videollava@1"]) != 0  # no such alias
    assert main(["evaluate", "--model", "models:/videollava/1"]) == 0
    assert set(json.loads((asked / "evaluations/models-videollava-1/metrics.json").read_text())) == {NAME}
    kept("second", None)
    capsys.readouterr()
    for words in (["--benchmarks", NAME], []):
        assert main(["evaluate", "--model", "models:/videollava/2", *words]) == 2
        assert "its encoders cannot be had: it was registered without them" in capsys.readouterr().err


def test_encoders_by_a_versions_name_are_those_of_the_folder(
    asked: Path, pairs: Path, kept: Keep, capsys: pytest.CaptureFixture[str]
) -> None:
    kept("first", pairs)
    assert promote(asked, Params(), "1").move
    files = sorted((asked / "data/zero_shot/captions").glob("*.png"))
    mine, theirs = load_encoders(pairs), load_encoders("models:/videollava@champion")
    assert list(theirs.towers) == list(mine.towers) == ["image", "audio"]
    assert {tower.name for tower in theirs.towers.values()} == {"models:/videollava/1"}
    assert theirs.space == mine.space
    np.testing.assert_array_equal(embed(theirs, files), embed(mine, files))
    np.testing.assert_array_equal(embed(theirs, texts=CAPTIONS), embed(mine, texts=CAPTIONS))
    alone = load_encoders("image=models:/videollava/1")
    assert list(alone.towers) == ["image"]
    with pytest.raises(InputError, match=r"videollava/1: holds no encoder of depth, but of image, audio"):
        load_encoders({"depth": "models:/videollava/1"})

    # The table remembers the version, not a folder of this machine, and `search` finds it again.
    command = ["embed", *map(str, files), "--to", "t.parquet", "--model", "models:/videollava@champion"]
    assert main(command) == 0
    capsys.readouterr()
    assert main(["search", "--like", str(files[2]), "--index", "t.parquet", "--top", "1"]) == 0
    assert capsys.readouterr().out.endswith("2.png\n")
    zero = ["zero-shot", "captions=data/zero_shot/captions", "--model", "models:/videollava/1", "--to", "z"]
    assert main(zero) == 0
    told = json.loads((asked / "z/metrics.json").read_text())["model"]["encoders"]
    assert told["image"]["name"] == "models:/videollava/1"


def test_no_weights_are_copied_and_a_store_alone_is_enough(
    workspace: Path, pairs: Path, kept: Keep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = kept("first", pairs)
    folder = resolve_encoders("models:/videollava/1", workspace)
    weights = folder / "image/model.safetensors"
    assert weights.stat().st_nlink == 2  # the cache's own file by another name
    assert load_file(weights).keys() == load_file(pairs / "image/model.safetensors").keys()
    before = weights.stat()
    assert resolve_encoders("models:/videollava/1", workspace) == folder
    assert weights.stat() == before
    # Elsewhere: no cache, nothing unfolded, one store with the objects.
    shutil.move(workspace / ".dvc/cache", tmp_path / "remote")
    monkeypatch.setenv("VIDEOLLAVA_CACHE", str(tmp_path / "elsewhere"))
    with pytest.raises(InputError, match=r"cannot be had: .* is in none of .*flows.storage 1 --encoders"):
        resolve_encoders("models:/videollava/1", workspace)
    there = Store(str(tmp_path / "remote"))
    found = resolve_encoders("models:/videollava/1", workspace, places=[there])
    assert (found / "audio/config.json").read_bytes() == (pairs / "audio/config.json").read_bytes()
    # What a store holds damaged is not taken.
    shutil.rmtree(tmp_path / "elsewhere")
    md5 = hashlib.md5((pairs / "audio/model.safetensors").read_bytes()).hexdigest()
    damaged = tmp_path / "remote/files/md5" / md5[:2] / md5[2:]
    damaged.chmod(0o644)
    damaged.write_bytes(b"short")
    with pytest.raises(InputError, match=md5):
        resolve_encoders("models:/videollava/1", workspace, places=[there])
    assert version.encoders.endswith(".dir")


def test_what_cannot_be_asked_is_said_in_a_sentence(
    asked: Path, pairs: Path, kept: Keep, tmp_path: Path
) -> None:
    """By an earlier release, without an encoder of the kind, without a text tower, gone from all stores."""
    old = kept("first", None)
    figures = {"headline": "text_to_media_r1", "text_to_media_r1": 40.0, "asked": "encoders", "n": 5}
    (asked / "evaluation/predictions").mkdir(parents=True)
    names = ("toy_pairs.image", "toy_pairs.audio", "toy_pairs.across", "esc-50.zero_shot", NAME)
    for name in names:
        row = {"question_id": "1", "question": "x", "answer": "a", "prediction": "a", "correct": True}
        (asked / f"evaluation/predictions/{name}.jsonl").write_text(json.dumps(row) + "\n")
    (asked / "evaluation/metrics.json").write_text(json.dumps(dict.fromkeys(names, figures)))
    new = kept("second", pairs, dict.fromkeys(names, figures))

    decision = examine(new, old, Params(), asked)
    assert decision.unanswered == ()
    said = f"{NAME}: no comparison with the champion: the champion was never asked, and cannot be asked now: "
    said += "models:/videollava/1: its encoders cannot be had: it was registered without them, by an earlier release; "
    assert f"{said}`without_comparison: true` for it in gate.yaml lets this one pass" in decision.reasons
    (asked / "gate.yaml").write_text(GATE.replace("}", ", without_comparison: true}"))
    assert not [reason for reason in examine(new, old, Params(), asked).reasons if "zero_shot" in reason]
    (asked / "gate.yaml").write_text(GATE)

    pictures = shutil.copytree(pairs / "image", tmp_path / "pictures/image").parent
    third = kept("third", pictures)
    decision = examine(new, third, Params(), asked)
    assert set(decision.unanswered) == {"toy_pairs.image", NAME}
    lacks = [reason for reason in decision.reasons if "has no encoder of audio (it has image)" in reason]
    assert {reason.partition(":")[0] for reason in lacks} == {names[1], names[2], names[3]}

    config = json.loads((pictures / "image/config.json").read_text())
    (pictures / "image/config.json").write_text(json.dumps(config | {"model_type": "languagebind_vision"}))
    fourth = kept("fourth", pictures)
    assert "(it has none with a text tower)" in " ".join(examine(new, fourth, Params(), asked).reasons)

    fifth = kept("fifth", pairs)
    client = open_store(asked, Params().tracking).client
    client.set_model_version_tag("videollava", str(fifth.number), "encoders", f"{'0' * 32}.dir")
    gone = find_version(asked, Params().tracking, str(fifth.number))
    decision = examine(new, gone, Params(), asked)
    assert "00.dir is in none of" in " ".join(decision.reasons)
    assert decision.unanswered == ()
