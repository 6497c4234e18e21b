"""A checkpoint of a run under way is a model that can be asked: what it learned, in the parts it began from."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import MACHINE, micro
from safetensors.torch import load_file

from videollava.errors import InputError
from videollava.model import checkpoint
from videollava.train import finetune, instruct, pretrain
from videollava.train.look_in import find, write_model


class Killed(BaseException):
    """Stands for kill -9: nothing in the program catches it."""


def stop_before_the_end(monkeypatch: pytest.MonkeyPatch, stage: Any, folder: Path, *changes: str) -> None:
    """Every step is done and kept, the result is not written."""

    def save(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(instruct, "_save", save)
        patch.setattr(instruct, "Job", partial(instruct.Job, followed=True))
        with pytest.raises(Killed):
            stage.run(micro(*changes), folder, MACHINE)


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_of_the_last_step_it_is_the_finished_model(
    workspace: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, adapter: str
) -> None:
    """Bit-equal, each weight."""
    folder, change = workspace("run"), f"finetune.adapter={adapter}"
    pretrain.run(micro(), folder, MACHINE)
    stop_before_the_end(monkeypatch, finetune, folder, change)
    seen = find("finetune", folder, MACHINE, folder)
    assert seen.whole.step == seen.whole.about["steps"]
    write_model(seen, micro(change), folder / "models", tmp_path / "seen")
    finetune.run(micro(change), folder, MACHINE)
    ours, made = (
        load_file(one / "model.safetensors") for one in (tmp_path / "seen", folder / "models/videollava")
    )
    assert ours.keys() == made.keys()
    assert all(torch.equal(ours[name], made[name]) for name in made)
    assert checkpoint.load(tmp_path / "seen").tokenizer is not None


def test_stage_1_can_be_asked_too(
    workspace: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = workspace("run")
    stop_before_the_end(monkeypatch, pretrain, folder)
    write_model(find("pretrain", folder, MACHINE, folder), micro(), folder / "models", tmp_path / "seen")
    pretrain.run(micro(), folder, MACHINE)
    made = load_file(folder / "models/projector/projector.safetensors")
    seen = load_file(tmp_path / "seen/model.safetensors")
    found = {
        name.rpartition("multi_modal_projector.")[2]: value
        for name, value in seen.items()
        if "projector" in name
    }
    assert found.keys() == made.keys()
    assert all(torch.equal(found[name].float(), made[name]) for name in made)


def test_what_is_none_or_of_another_run_is_said(
    workspace: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = workspace("run")
    with pytest.raises(InputError, match=r"no checkpoint of finetune where machine.yaml has them stand"):
        find("finetune", folder, MACHINE, folder)
    with pytest.raises(InputError, match=r"--checkpoint nowhere: not a whole checkpoint"):
        find("nowhere", folder, MACHINE, folder)
    pretrain.run(micro(), folder, MACHINE)
    stop_before_the_end(monkeypatch, finetune, folder)
    seen = find("finetune", folder, MACHINE, folder)
    with pytest.raises(InputError, match=r"has no place in the model that params.yaml and models/ describe"):
        write_model(seen, micro("finetune.adapter=lora"), folder / "models", tmp_path / "seen")
    manifest = Path(seen.whole.where) / "manifest.json"
    told = json.loads(manifest.read_text())
    told["about"]["stage"] = "align-image"
    manifest.write_text(json.dumps(told))
    with pytest.raises(InputError, match="it is of align-image; pretrain and finetune have a model to ask"):
        find(seen.whole.where, folder, MACHINE, folder)
