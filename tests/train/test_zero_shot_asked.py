"""Zero-shot sets asked while encoders learn: the figures of `videollava zero-shot`, and what is refused and said."""

from __future__ import annotations

import csv
import json
import wave
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from micro import MACHINE, micro, write_machine
from numpy.typing import NDArray
from PIL import Image
from test_align_ranks import align as align_on

from videollava.data.load.batches import Layout
from videollava.data.modalities import MediumKind
from videollava.data.text.vocabulary import load_tokenizer, train_tokenizer
from videollava.embedding.encoders import load_encoders, text_tower
from videollava.embedding.zero_shot.sets import find_sets
from videollava.errors import InputError
from videollava.evaluate.zero_shot.run import evaluate_zero_shot
from videollava.model import checkpoint
from videollava.model.encoders import LanguageBind, pair_config
from videollava.params import Align, Encoder, Evaluate, Model, Params
from videollava.tracking import track, write_curves
from videollava.train import align
from videollava.train.contrast import gallery, zero_shot
from videollava.train.contrast.beginnings import POSITIONS
from videollava.train.contrast.zero_shot import ask_sets, read_asked

SMALL = Encoder(width=16, layers=2, heads=2, mlp=32)
SHAPE = Model(
    image_size=16,
    patch_size=8,
    frames=2,
    embed_dim=16,
    audio_bins=32,
    audio_frames=64,
    vision=SMALL,
    text=SMALL,
)
ONE: Any = SimpleNamespace(
    ranks=1,
    rank=0,
    first=True,
    device=torch.device("cpu"),
    autocast=nullcontext,
    gather=lambda tensor: tensor,
)
ESC = "filename,fold,target,category,esc10,src_file,take\n"


def write_pictures(folder: Path) -> None:
    """Sets `classes` (a folder a class) and `captions`, each with a picture that is none."""
    draw = np.random.default_rng(0)
    rows = []
    for number in range(10):
        inside = folder / f"classes/val/{('red_fox', 'owl', 'newt')[number % 3]}"
        inside.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(draw.integers(0, 256, (20, 24, 3), np.uint8))
        picture.save(inside / f"{number}.png")
        (folder / "captions").mkdir(exist_ok=True)
        picture.rotate(90).save(folder / f"captions/{number}.png")
        said = [f"a thing of number {number}", "a square"][: 1 + number % 2]
        rows.append(json.dumps({"media": f"{number}.png", "captions": said}))
    (folder / "classes/val/owl/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "captions/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    rows.insert(3, json.dumps({"media": "broken.png", "captions": ["nothing"]}))
    (folder / "captions/captions.jsonl").write_text("\n".join(rows))


def write_sounds(folder: Path) -> None:
    """ESC-50 as it is published, with six sounds; one that its table names is not there."""
    lines = [ESC]
    (folder / "esc-50/meta").mkdir(parents=True)
    (folder / "esc-50/audio").mkdir()
    for number in range(7):
        name = f"1-{number}-A-{number % 3}.wav"
        lines.append(f"{name},1,{number % 3},{('dog', 'sea_waves', 'rain')[number % 3]},False,{number},A\n")
        if number < 6:
            write_sound(folder / "esc-50/audio" / name, np.sin(np.arange(8000) * (0.02 + 0.05 * number)))
    (folder / "esc-50/meta/esc50.csv").write_text("".join(lines))


def write_sound(file: Path, samples: NDArray[np.float64]) -> None:
    with wave.open(str(file), "wb") as written:
        written.setparams((1, 2, 16_000, 0, "NONE", ""))
        written.writeframes((samples * 20_000).astype("<i2").tobytes())


def begin(folder: Path, kind: MediumKind) -> tuple[LanguageBind, Any]:
    train_tokenizer(["a photo of a red fox.", "an owl", "the sound of rain"], 300, folder)
    tokenizer = load_tokenizer(folder)
    tokenizer.pad_token = tokenizer.eos_token
    torch.manual_seed(1)
    pair = LanguageBind(pair_config(SHAPE, kind, len(tokenizer), POSITIONS))
    with torch.no_grad():
        for weight in pair.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return pair, tokenizer


def params(*names: str, **changes: Any) -> Params:
    chosen = Align(validations=1, zero_shot=names, **changes)
    return Params(model=SHAPE, align=chosen, evaluate=Evaluate(folders={name: name for name in names}))


@pytest.mark.parametrize(
    ("kind", "write", "names"),
    [("image", write_pictures, ("classes", "captions")), ("audio", write_sounds, ("esc-50",))],
)
def test_the_figures_are_those_of_the_saved_encoder(
    kind: MediumKind,
    write: Callable[[Path], None],
    names: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(tmp_path)
    pair, tokenizer = begin(tmp_path / "tokenizer", kind)
    layout = Layout.of(SHAPE, len(tokenizer), template="plain", image_aspect="crop")
    sets = read_asked(params(*names), tmp_path, {kind})
    asked = ask_sets(sets, text_tower(pair, tokenizer), layout, tmp_path, ONE, 4, 0, kind)
    found = asked.ask(pair.train())
    assert pair.training
    checkpoint.save(pair, tokenizer, tmp_path / "saved")
    chosen = find_sets([f"{name}={tmp_path / name}" for name in names])
    evaluate_zero_shot(load_encoders(tmp_path / "saved"), chosen, tmp_path / "evaluation", say=lambda _: None)
    wanted = json.loads((tmp_path / "evaluation/metrics.json").read_text())["benchmarks"]
    for name in names:
        ours = {key.removeprefix(f"{name}.zero_shot."): value for key, value in found.items() if name in key}
        assert {"chance", wanted[name]["headline"]} < ours.keys()
        assert ours == pytest.approx({key: wanted[name][key] for key in ours})
    heads = [wanted[name][wanted[name]["headline"]] for name in names]
    assert found[f"{kind}_zero_shot"] == pytest.approx(sum(heads) / len(heads))
    assert set(asked.shown) <= found.keys()
    said = capsys.readouterr().out
    assert said.count("left out") == len(names)  # what is broken, or not there
    assert asked.ask(pair) == found  # of what was kept
    assert not capsys.readouterr().out


def test_media_are_drawn_by_seed_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pictures(tmp_path)
    (tmp_path / "captions/broken.png").unlink()
    (first,), (second,), (other,) = (
        read_asked(params("captions", zero_shot_media=4).replace(seed=seed), tmp_path, {"image"})
        for seed in (3, 3, 4)
    )
    assert "align: captions.zero_shot: 4 media of 10, drawn by seed 3\n" in capsys.readouterr().out
    assert first == second
    assert first.media != other.media
    said = {file.stem: captions for file, captions in zip(first.media, first.said, strict=True)}  # type: ignore[union-attr]
    assert all(captions[0] == f"a thing of number {name}" for name, captions in said.items())
    (whole,) = read_asked(params("captions", zero_shot_media=0), tmp_path, {"image"})
    assert len(whole.media) == 10
    assert not read_asked(params("captions"), tmp_path, {"audio"})
    assert "no encoder of image learns here: it is not asked" in capsys.readouterr().out


def test_what_cannot_be_asked_is_refused_at_the_start(tmp_path: Path) -> None:
    for name, message in {
        "esc50": "esc50: no zero-shot benchmark.*there are msr-vtt, ",
        "esc-50": "esc-50: no such folder; esc-50 is meta/esc50.csv",
        "esc-50=here": r"align\.zero_shot: esc-50=here: give names, and folders in evaluate\.folders",
    }.items():
        with pytest.raises(InputError, match=message):
            read_asked(params(name), tmp_path, {"audio"})
    (tmp_path / "esc-50/meta").mkdir(parents=True)
    (tmp_path / "esc-50/meta/esc50.csv").write_text(f"{ESC}a.wav,1,0,dog,False,1,A\n")
    with pytest.raises(InputError, match="none of its 1 media is in it, such as a"):
        read_asked(params("esc-50"), tmp_path, {"audio"})
    with pytest.raises(ValueError, match="validations is 0, so that none would be asked"):
        Align(zero_shot=("esc-50",))


def test_few_media_are_decoded_once_and_many_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sounds(tmp_path)
    (asked,) = read_asked(params("esc-50"), tmp_path, {"audio"})
    layout = Layout.of(SHAPE, 300, template="plain", image_aspect="crop")
    read, decode = list[Path](), zero_shot.decode

    def noted(source: Any, *rest: Any) -> torch.Tensor:
        read.append(source)
        return decode(source, *rest)

    def model(pixel_values: torch.Tensor) -> Any:
        return SimpleNamespace(image_embeds=torch.nn.functional.normalize(pixel_values[:, 0, :3, 0]))

    monkeypatch.setattr(zero_shot, "decode", noted)
    monkeypatch.setattr(zero_shot, "class_vectors", lambda *_: np.eye(3, dtype=np.float32))
    monkeypatch.setattr(gallery, "without_dropout", lambda *_: nullcontext())
    for kept, times in ((6, 1), (5, 2)):
        read.clear()
        monkeypatch.setattr(zero_shot, "KEPT", kept * 3 * 32 * 64 * 4)
        question = ask_sets([asked], None, layout, tmp_path, ONE, 3, 0, "audio")  # type: ignore[arg-type]
        assert question.ask(model) == question.ask(model)  # type: ignore[arg-type]
        assert len(read) == 6 * times


@pytest.mark.slow
def test_two_ranks_and_one_tell_the_same_and_learn_what_they_learn_unasked(
    workspace: Callable[[str], Path],
) -> None:
    """Of each step's figures; the last are those of the encoder that was written, asked by itself."""
    set_ = ("align.zero_shot=[classes, captions]", "evaluate.folders={classes: classes, captions: captions}")
    told, learned = [], []
    for ranks, changes in ((1, ()), (1, set_), (2, set_)):
        folder = workspace(f"ranks-{ranks}-{len(changes)}")
        write_pictures(folder)
        learned.append(align_on(folder, ranks, "align.validations=2", *changes)[1])
        with open(folder / "plots/align/zero_shot/image.csv") as file:
            told.append(list(csv.DictReader(file)))
    assert told[0] == []
    assert len(told[1]) == 2
    assert [{k: pytest.approx(float(v), abs=1e-4) for k, v in row.items()} for row in told[1]] == [
        {k: float(v) for k, v in row.items()} for row in told[2]
    ]
    assert all(torch.equal(learned[0][name], weight) for name, weight in learned[1].items())
    chosen = find_sets([f"{name}={folder / name}" for name in ("classes", "captions")])
    evaluate_zero_shot(load_encoders(folder / "models/encoders/image"), chosen, folder / "asked")
    wanted = json.loads((folder / "asked/metrics.json").read_text())["benchmarks"]
    assert float(told[2][-1]["classes.zero_shot.top1"]) == pytest.approx(wanted["classes"]["top1"])
    for key in ("text_to_media_r1", "media_to_text_r5", "text_to_media_median_rank"):
        assert float(told[2][-1][f"captions.zero_shot.{key}"]) == pytest.approx(wanted["captions"][key])


@pytest.mark.slow
def test_a_stage_tells_them_beside_held_out_retrieval(workspace: Callable[[str], Path]) -> None:
    folder = workspace("work")
    write_pictures(folder)
    write_machine(folder)
    chosen = micro("align.validations=2", "align.zero_shot=[classes]", "evaluate.folders={classes: classes}")
    with track("align", chosen, folder):
        align.run(chosen, folder, MACHINE)
        write_curves(folder / "plots", "align")
    (journal,) = (folder / "runs/align").glob("*.jsonl")
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    both = [one["values"] for one in events if "classes.zero_shot.top1" in one.get("values", ())]
    assert len(both) == 2
    assert all("text_to_image_r1" in values for values in both)
    for kind, rows in (("image", 2), ("video", 0), ("audio", 0)):
        head, *found = (folder / f"plots/align/zero_shot/{kind}.csv").read_text().splitlines()
        assert head.startswith(f"step,{kind}_zero_shot")
        assert len(found) == rows
