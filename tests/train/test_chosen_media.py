"""A stage that learns from pictures alone, or clips alone; and stage 1 left out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from micro import MACHINE, micro
from safetensors.torch import load_file

from videollava.data.prepare.tables import load_split
from videollava.errors import InputError
from videollava.train import finetune, instruct, pretrain
from videollava.train.lengths import learned_rows

Workspaces = Callable[[str], Path]


def counts(folder: Path, split: str, kind: str) -> list[int]:
    return load_split(folder / "data/index", split)[f"{kind}s"].to_pylist()


def test_rows_with_other_kinds_of_media_are_left_out(made: Path) -> None:
    index = made / "data/index"
    for split in ("pretrain", "finetune"):
        images, videos = counts(made, split, "image"), counts(made, split, "video")
        assert any(images)
        assert any(videos)
        assert learned_rows(index, split).tolist() == list(range(len(images)))
        assert learned_rows(index, split, ("image", "video")).tolist() == list(range(len(images)))
        assert learned_rows(index, split, ("image",)).tolist() == [i for i, n in enumerate(videos) if not n]
        assert learned_rows(index, split, ("video",)).tolist() == [i for i, n in enumerate(images) if not n]


@pytest.mark.parametrize("kind", ["image", "video"])
def test_a_stage_sees_each_sample_of_the_chosen_kind_once_and_no_other(
    kind: str, workspace: Workspaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = workspace("alone")
    seen: list[int] = []
    validated: list[int] = []

    def look(job: instruct.Job) -> None:
        for packs in job.packs:
            for number in range(len(packs)):
                seen.extend(packs[number].records)
        held_out = job.validation.packs if job.validation else ()
        for number in range(len(held_out)):
            validated.extend(held_out[number].records)
        raise InputError("seen")

    monkeypatch.setattr(instruct, "train", look)
    with pytest.raises(InputError, match="seen"):
        pretrain.run(micro(f"pretrain.media=[{kind}]"), folder, MACHINE)
    wanted = [row for row, count in enumerate(counts(folder, "pretrain", kind)) if count]
    assert sorted(seen) == wanted
    assert sorted(validated) == [r for r, count in enumerate(counts(folder, "pretrain-valid", kind)) if count]


def test_without_stage_1_the_second_begins_with_a_projector_that_has_learned_nothing(
    workspace: Workspaces,
) -> None:
    folder = workspace("without")
    params = micro("pretrain.epochs=0", "finetune.learning_rate=1e-9")
    pretrain.run(params, folder, MACHINE)
    assert list((folder / "models/projector").iterdir()) == []
    finetune.run(params, folder, MACHINE)
    name = "model.multi_modal_projector.linear_1.weight"
    new = load_file(folder / "models/videollava/model.safetensors")[name]
    shutil.rmtree(folder / "models/videollava")

    other = workspace("with")
    taught = micro("pretrain.learning_rate=0.01", "finetune.learning_rate=1e-9")
    pretrain.run(taught, other, MACHINE)
    finetune.run(taught, other, MACHINE)
    old = load_file(other / "models/videollava/model.safetensors")[name]
    assert torch.isfinite(new).all()
    assert not torch.allclose(new, old, atol=1e-3)
    # As a linear layer begins: evenly drawn, within one over the root of its width.
    assert new.abs().max() <= new.shape[1] ** -0.5 + 1e-6


def test_no_record_of_the_chosen_kind_is_said(workspace: Workspaces, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = workspace("none")
    monkeypatch.setattr(instruct, "learned_rows", lambda *_: learned_rows(*_)[:0])
    with pytest.raises(InputError, match="no records with the kinds of media"):
        pretrain.run(micro("pretrain.media=[image]"), folder, MACHINE)
