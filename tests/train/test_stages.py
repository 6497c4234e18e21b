"""Who learns in which stage, the schedule, and that the loss falls on real clips."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from micro import MACHINE, micro
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from videollava.model import checkpoint
from videollava.train import finetune, pretrain
from videollava.train.loop import learning_rate


def test_stage_1_changes_the_projector_alone_and_stage_2_not_the_encoders(
    workspace: Callable[[str], Path],
) -> None:
    folder, params = workspace("work"), micro()
    language = checkpoint.quiet and (folder / "models/bases/language/model.safetensors").read_bytes()
    pretrain.run(params, folder, MACHINE)
    assert {p.name for p in (folder / "models/projector").iterdir()} == {
        "projector.json",
        "projector.safetensors",
    }
    assert (folder / "models/bases/language/model.safetensors").read_bytes() == language
    finetune.run(params, folder, MACHINE)
    whole = checkpoint.load(folder / "models/videollava").model
    for kind in ("image", "video"):
        tower = checkpoint.load(folder / "models/encoders" / kind).model.vision_model.state_dict()
        ours = getattr(whole.model, f"{kind}_tower").state_dict()
        assert all(torch.equal(ours[name], value) for name, value in tower.items())


def test_cached_features_train_as_decoded_media_do(workspace: Callable[[str], Path]) -> None:
    losses = []
    for cached in ("true", "false"):
        folder = workspace(f"cached-{cached}")
        params = micro(f"pretrain.cache_features={cached}")
        pretrain.run(params, folder, MACHINE)
        learned = load_file(folder / "models/projector/projector.safetensors")
        losses.append(torch.cat([learned[name].flatten() for name in sorted(learned)]))
    # Features are kept in bfloat16.
    assert torch.allclose(losses[0], losses[1], atol=5e-3)


def test_frozen_encoders_drop_nothing_in_either_stage(workspace: Callable[[str], Path]) -> None:
    """Bit-equal projectors, though one run's encoders carry dropouts for training, as released ones do."""
    found = []
    for rate in (0.0, 0.5):
        folder = workspace(f"dropout-{rate}")
        for kind in ("image", "video"):
            file = folder / "models/encoders" / kind / "config.json"
            config = json.loads(file.read_text())
            for name in ("patch_dropout", "attention_dropout"):
                config["vision_config"][name] = rate
            file.write_text(json.dumps(config))
        # Features that are kept are made before the model is told to train.
        plain = [f"{stage}.cache_features=false" for stage in ("pretrain", "finetune")]
        pretrain.run(micro(*plain), folder)
        first = load_file(folder / "models/projector/projector.safetensors")
        adapted = micro(*plain, "finetune.adapter=lora", "finetune.lora={r: 4, alpha: 8, dropout: 0.0}")
        finetune.run(adapted, folder)
        second = load_file(folder / "models/videollava/model.safetensors")
        found.append([*first.values(), second["model.multi_modal_projector.linear_1.weight"]])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_the_schedule_is_the_originals() -> None:
    rates = [learning_rate(step, 100, 0.03) for step in range(100)]
    assert rates[:4] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert rates[-1] == pytest.approx(0.0, abs=1e-3)
    assert rates[3:] == sorted(rates[3:], reverse=True)


def test_lora_learns_the_language_model_alone_and_comes_out_merged(workspace: Callable[[str], Path]) -> None:
    folder = workspace("lora")
    params = micro("finetune.adapter=lora", "finetune.lora={r: 4, alpha: 8, dropout: 0.1}")
    pretrain.run(params, folder, MACHINE)
    finetune.run(params, folder, MACHINE)
    target = folder / "models/videollava"
    merged = checkpoint.load(target).model
    base = AutoModelForCausalLM.from_pretrained(folder / "models/bases/language")
    ours, theirs = merged.model.language_model.state_dict(), base.model.state_dict()
    changed = {name for name, value in theirs.items() if not torch.equal(ours[name], value)}
    assert changed
    assert all(name.endswith("_proj.weight") for name in changed)
    names = load_file(target / "adapter/adapter_model.safetensors").keys()
    assert any("multi_modal_projector" in name for name in names)
    assert not any("tower" in name for name in names)
