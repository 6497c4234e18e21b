"""Depth, thermal pictures and sounds bound to language beside pictures and clips, in one run of `align`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import MACHINE, ROOT, micro
from safetensors.torch import load_file
from torch import Tensor

from videollava.data.load.pairs import plan_pairs
from videollava.data.modalities import KINDS
from videollava.errors import InputError
from videollava.evaluate.results import read_results
from videollava.evaluate.stage import evaluate
from videollava.gate import primary
from videollava.gate.pairs import read_pairs
from videollava.model import checkpoint
from videollava.model.encoders import LanguageBind, pair_config, resize_positions
from videollava.model.formats.encoder import load_encoder
from videollava.params import Encoder, Model, Params
from videollava.tracking import track
from videollava.train import align, loop
from videollava.train.contrast.beginnings import begin_other
from videollava.train.measure import keys_of

SENSES = "senses: [depth, thermal, audio]"
CLIPS = f"sources={{clips: {{kind: generated, format: clips, train: 24, test: 8, seed: 1, {SENSES}}}}}"
RARELY = MACHINE.replace(checkpoint_minutes=15.0)  # a part that has ended keeps one all the same
SOUND = ("model.audio_bins=32", "model.audio_frames=64")
SMALL = "{epochs: 1, batch_size: 8}"
PLACES = "vision_model.embeddings.position_embedding.weight"


def five(*changes: str) -> Params:
    towers = f"align.towers={{depth: {SMALL}, thermal: {{epochs: 0}}, audio: {SMALL}}}"
    return micro(CLIPS, *SOUND, *(changes if any("towers" in one for one in changes) else (towers, *changes)))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from videollava.data.acquire import fetch
    from videollava.data.prepare import index, shards

    folder = tmp_path_factory.mktemp("five")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, folder)
    for stage in (fetch, shards, index):
        stage.run(five(), folder, MACHINE)
    return folder


@pytest.fixture(scope="module")
def whole(prepared: Path) -> Path:
    """With models/encoders of all five; read only."""
    align.run(five(), prepared, RARELY)
    return prepared


@pytest.fixture
def work(prepared: Path, tmp_path: Path) -> Path:
    left = shutil.ignore_patterns("raw", "encoders", "checkpoints", "runs")
    return Path(shutil.copytree(prepared, tmp_path / "work", ignore=left))


def weights(folder: Path, kind: str) -> dict[str, Tensor]:
    return load_file(folder / f"models/encoders/{kind}/model.safetensors")


def test_all_five_are_bound_to_one_text_space(whole: Path) -> None:
    found = {kind: weights(whole, kind) for kind in KINDS}
    for kind, state in found.items():
        assert all(torch.equal(state[n], w) for n, w in found["image"].items() if n.startswith("text_")), kind
    # Sounds have a grid of their own; what learns no epoch is the encoder of pictures.
    assert found["audio"][PLACES].shape[0] == 1 + (32 // 8) * (64 // 8)
    assert all(torch.equal(found["thermal"][name], weight) for name, weight in found["image"].items())
    assert not torch.equal(found["depth"][PLACES], found["image"][PLACES])
    read = checkpoint.load(whole / "models/encoders/audio").model
    assert isinstance(read, LanguageBind)
    assert read.config.vision_config.modality == "audio"


def test_a_run_killed_at_the_last_tower_goes_on_there_and_learns_the_same_bits(
    whole: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned, done = loop._learn, list[str]()

    def killed(job: loop.Job, *given: Any) -> Any:
        if job.name == "align-audio" and given[1].number == 1:
            raise KeyboardInterrupt
        return learned(job, *given)

    def noted(job: loop.Job, *given: Any) -> Any:
        done.append(job.name)
        return learned(job, *given)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_learn", killed)
        with pytest.raises(KeyboardInterrupt):
            align.run(five(), work, RARELY)
    monkeypatch.setattr(loop, "_learn", noted)
    align.run(five(), work, RARELY)
    assert set(done) == {"align-audio"}  # what came before it was there
    for kind in KINDS:
        found = weights(whole, kind)
        assert all(torch.equal(weight, found[name]) for name, weight in weights(work, kind).items()), kind
    assert not list((work / "checkpoints").glob("align-*/step-*"))


@pytest.mark.slow
def test_which_towers_learn_changes_no_other(whole: Path, work: Path) -> None:
    align.run(five(f"align.towers={{audio: {SMALL}}}"), work, RARELY)
    assert sorted(place.name for place in (work / "models/encoders").iterdir()) == ["audio", "image", "video"]
    for kind in ("image", "video", "audio"):
        found = weights(whole, kind)
        assert all(torch.equal(weight, found[name]) for name, weight in weights(work, kind).items()), kind


def test_a_tower_begins_as_a_named_encoder_on_its_own_grid(whole: Path, tmp_path: Path) -> None:
    made = whole / "models/encoders"
    image, tokenizer = load_encoder(made / "image")
    sound = weights(whole, "audio")
    begun = {
        kind: begin_other(five(), kind, tokenizer, image, str(made / "audio")).state_dict()
        for kind in ("audio", "depth")
    }
    assert all(torch.equal(begun["audio"][n], w) for n, w in sound.items() if n.startswith("vision_model"))
    torch.testing.assert_close(begun["depth"][PLACES], resize_positions(sound[PLACES], (4, 8), (4, 4)))
    wide = Model(image_size=32, vision=Encoder(width=64, layers=2, heads=2, mlp=64))
    checkpoint.save(LanguageBind(pair_config(wide, "image", 300)), tokenizer, tmp_path / "wide")
    with pytest.raises(InputError, match=r"towers\.depth\.encoder: .*wide is not as `model` describes"):
        begin_other(five(), "depth", tokenizer, image, str(tmp_path / "wide"))


def test_published_towers_are_taken_as_they_are(whole: Path, work: Path) -> None:
    made = whole / "models/encoders"
    names = [f"bases.{kind}_encoder={made / kind}" for kind in ("image", "video")]
    named = f"align.towers={{audio: {{encoder: {made / 'audio'}}}}}"
    align.run(five(named, *names, "align.train=false"), work, MACHINE)
    assert all(torch.equal(weights(work, "audio")[name], w) for name, w in weights(whole, "audio").items())
    with pytest.raises(InputError, match=r"align\.towers\.thermal\.encoder must name an encoder"):
        align.run(five("align.towers={thermal: {}}", *names, "align.train=false"), work, MACHINE)


@pytest.mark.slow
def test_what_each_tower_is_asked_as_it_ends_is_what_evaluate_asks_it(work: Path, tmp_path: Path) -> None:
    asking = ("align.zero_shot=[toy_pairs]", "align.validations=1")
    with track("align", five(*asking), work):
        align.run(five(*asking), work, RARELY)
    (journal,) = (work / "runs/align").glob("*.jsonl")
    told: dict[str, float] = {}
    for line in journal.read_text().splitlines():
        told |= json.loads(line).get("values", {}) if '"metric"' in line else {}
    chosen = five("evaluate.benchmarks=[]", "evaluate.zero_shot=[toy_pairs]")
    encoders = work / "models/encoders"
    wanted = evaluate(chosen, work, work / "no", tmp_path / "asked", "a-key", encoders=encoders)
    for kind in ("video", "depth", "audio"):  # thermal learns no epoch
        for figure in ("text_to_media_r1", "media_to_text_r5", "text_to_media_mean_rank", "chance"):
            assert told[f"toy_pairs.{kind}.{figure}"] == pytest.approx(wanted[f"toy_pairs.{kind}"][figure])
    assert not [name for name in told if "thermal" in name and "toy_pairs" in name]


def test_mistakes_name_the_towers_keys() -> None:
    with pytest.raises(InputError, match=r"align\.towers\.depth\.batch_size is 99, but there are 24 pairs"):
        plan_pairs(24, 99, 1, 0, 0, "depth")
    with pytest.raises(InputError, match="smell"):
        five("align.towers={smell: {}}")
    assert keys_of("align-depth") == ("align.towers.depth.epochs", "align.towers.depth.learning_rate")
    assert keys_of("align-video") == ("align.video_epochs", "align.video_learning_rate")
    assert keys_of("align-image") == ("align.image_epochs", "align.learning_rate")
    assert keys_of("finetune") == ("finetune.epochs", "finetune.learning_rate")


def test_the_stage_evaluate_asks_the_encoders_and_the_gate_can_compare_their_hits(
    whole: Path, tmp_path: Path
) -> None:
    chosen = five("evaluate.benchmarks=[]", "evaluate.zero_shot=[toy_pairs]")
    asked: dict[str, Any] = {"key": "a-key", "encoders": whole / "models/encoders"}
    metrics = evaluate(chosen, whole, whole / "models/videollava", tmp_path / "evaluation", **asked)
    assert set(metrics) == {f"toy_pairs.{part}" for part in (*KINDS[1:], "across")}  # no picture of them
    scenes = metrics["toy_pairs.audio"]["n"]
    assert scenes == 8
    assert metrics["toy_pairs.audio"]["chance"] == pytest.approx(100 / scenes)
    assert metrics["toy_pairs.across"]["n"] == 4 * 3 * scenes
    results = read_results(tmp_path / "evaluation", metrics)
    for name, figures in metrics.items():
        assert results[name].score.value == pytest.approx(figures[figures["headline"]])
        assert primary(figures) == pytest.approx(figures[figures["headline"]])
    page = (tmp_path / "evaluation/report.html").read_text()
    assert "Encoders by themselves" in page
    assert "audio → depth" in page
    pairs, unlike = read_pairs(tmp_path / "evaluation", [tmp_path / "evaluation"])
    assert set(pairs) == set(metrics)
    assert not unlike
    with pytest.raises(InputError, match="data/index has no split test-smells"):
        evaluate(five("evaluate.zero_shot=[smells]"), whole, whole, tmp_path / "no", **asked)
