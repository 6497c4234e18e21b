"""align.spaces: separate is the shared run with another language encoder behind the clips, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from micro import MACHINE, micro
from safetensors.torch import load_file
from transformers import AutoTokenizer

from videollava.origin import Pins
from videollava.train import align
from videollava.train.contrast import beginnings

Weights = dict[str, torch.Tensor]


def weights(folder: Path, kind: str) -> Weights:
    return load_file(folder / f"models/encoders/{kind}/model.safetensors")


def part(tensors: Weights, *starts: str) -> Weights:
    return {name: weight for name, weight in tensors.items() if name.startswith(starts)}


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(weight, other[name]) for name, weight in one.items()
    )


def test_only_the_text_space_of_the_clips_is_another(
    made: Path, workspace: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = workspace("separate")
    shutil.rmtree(folder / "models/encoders")
    plans: dict[str, list[list[int]]] = {}
    real = align.train

    def train(job: align.Job) -> None:
        plans[job.name] = [packs.plan.samples.tolist() for packs in job.packs]
        real(job)

    monkeypatch.setattr(align, "train", train)
    params = micro()
    align.run(params.replace(align=params.align.replace(spaces="separate")), folder, MACHINE)

    # Pictures are bit-equal to those of the shared run, their language encoder too.
    assert same(weights(made, "image"), weights(folder, "image"))
    shared, separate = weights(made, "video"), weights(folder, "video")
    assert shared.keys() == separate.keys()
    assert {name: w.shape for name, w in shared.items()} == {name: w.shape for name, w in separate.items()}
    texts = ("text_model.", "text_projection.")
    assert same(part(shared, *texts), part(weights(made, "image"), *texts))  # one language encoder for both
    other = part(separate, *texts)
    assert not any(
        torch.equal(w, part(shared, *texts)[name])
        for name, w in other.items()
        if w.ndim > 1 and "position" not in name
    )
    # The second line sees the pairs of the first in the same order; its language encoder reads as many captions,
    # otherwise shuffled.
    assert plans["align-image-apart"] == plans["align-image"]
    told, apart = plans["align-text"], plans["align-text-apart"]
    assert [len(epoch) for epoch in apart] == [len(epoch) for epoch in told]
    assert apart != told
    assert list(plans) == [
        "align-text",
        "align-image",
        "align-text-apart",
        "align-image-apart",
        "align-video",
    ]


def test_the_second_line_begins_with_the_same_eyes(made: Path) -> None:
    params = micro()
    tokenizer = AutoTokenizer.from_pretrained(made / "data/index/tokenizer")
    torch.manual_seed(params.seed)
    first = beginnings.begin_image(params, tokenizer, Pins(made, "align").locate(""), None)
    apart = beginnings.begin_apart(params, tokenizer, "")
    one, other = first.state_dict(), apart.state_dict()
    assert same(
        part(one, "vision_model", "visual_projection"), part(other, "vision_model", "visual_projection")
    )
    assert not torch.equal(one["text_projection.weight"], other["text_projection.weight"])
