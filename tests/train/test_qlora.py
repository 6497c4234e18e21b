"""QLoRA for real, in bitsandbytes' NF4 on whatever device there is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from micro import MACHINE, micro
from safetensors.torch import load_file, save_file
from torch import Tensor

from videollava.evaluate.batches import Sample
from videollava.evaluate.generate import generate_each
from videollava.model import checkpoint
from videollava.train import finetune, instruct
from videollava.train.loop import Job, train
from videollava.train.saving.saver import Saver

LORA = "finetune.lora={r: 4, alpha: 8, dropout: 0.0}"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BASE = "base_model.model.model.language_model.layers"


def _loss(job: Job) -> float:
    with torch.no_grad():
        losses = [job.forward(job.model, job.packs[0][number], 1.0) for number in range(len(job.packs[0]))]
    return float(sum(losses))


def _weights(model: Any) -> dict[str, Tensor]:
    return {name: weight.detach().cpu().clone() for name, weight in model.named_parameters()}


@pytest.fixture(scope="module")
def tuned(made: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A workspace after `finetune` with qlora on a base of float16, and what it was seen to do."""
    folder = tmp_path_factory.mktemp("qlora") / "work"
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns("raw", "checkpoints", "runs"))
    language = folder / "models/bases/language/model.safetensors"
    save_file(
        {name: weight.half() for name, weight in load_file(language).items()}, language, {"format": "pt"}
    )
    seen = SimpleNamespace(folder=folder)

    def spy(job: Job) -> None:
        job.model.train()
        seen.before, seen.first = _weights(job.model), _loss(job)
        train(job)
        seen.after, seen.last = _weights(job.model), _loss(job)
        seen.types = {type(module).__name__ for module in job.model.modules()}

    params = micro("finetune.adapter=qlora", LORA, "finetune.epochs=4", "finetune.learning_rate=1.0e-2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(instruct, "train", spy)
        finetune.run(params, folder, MACHINE)
    return seen


def test_the_base_is_held_in_4_bits_and_stays_as_it_was(tuned: SimpleNamespace) -> None:
    assert "Linear4bit" in tuned.types
    packed = {name for name, weight in tuned.before.items() if weight.dtype == torch.uint8}
    assert len(packed) == 2 * len(PROJECTIONS)
    assert all(
        name.startswith(BASE) and name.endswith("_proj.base_layer.weight") for name in packed
    )  # neither head, projector nor encoders
    changed = {name for name, weight in tuned.after.items() if not torch.equal(weight, tuned.before[name])}
    assert not packed & changed
    assert {name for name in changed if "lora_" not in name} == {
        f"base_model.model.model.multi_modal_projector.modules_to_save.default.linear_{number}.{part}"
        for number in (1, 2)
        for part in ("weight", "bias")
    }
    assert {name for name in tuned.after if "lora_" in name} <= changed


def test_the_loss_falls(tuned: SimpleNamespace) -> None:
    assert tuned.last < 0.8 * tuned.first


def test_it_is_merged_into_the_base_at_the_bases_own_precision(tuned: SimpleNamespace) -> None:
    target = tuned.folder / "models/videollava"
    base = load_file(tuned.folder / "models/bases/language/model.safetensors")
    merged = load_file(target / "model.safetensors")
    adapter = load_file(target / "adapter/adapter_model.safetensors")
    found = 0
    for name, weight in base.items():
        ours = merged[
            name if name == "lm_head.weight" else name.replace("model.", "model.language_model.", 1)
        ]
        assert ours.dtype == weight.dtype == torch.float16
        pair = name.replace("model.", "base_model.model.model.language_model.", 1).removesuffix("weight")
        if f"{pair}lora_B.weight" not in adapter:
            assert torch.equal(ours, weight)
            continue
        update = 2.0 * adapter[f"{pair}lora_B.weight"] @ adapter[f"{pair}lora_A.weight"]
        assert not torch.equal(ours, weight)
        torch.testing.assert_close(ours.float(), weight.float() + update, rtol=2**-10, atol=1e-6)
        found += 1
    assert found == 2 * len(PROJECTIONS)


def test_the_result_loads_and_answers(tuned: SimpleNamespace) -> None:
    whole = checkpoint.load(tuned.folder / "models/videollava")
    config = whole.model.config
    clip = torch.randint(0, 256, (config.video_config.num_frames, 3, 32, 32), dtype=torch.uint8)
    prompt = [3, *[config.video_token_id] * config.video_tokens(), 7]
    ((_, ids),) = generate_each(whole.model, whole.tokenizer, [Sample(prompt, videos=[clip])], 5)
    assert len(ids) == 5 or ids[-1] == whole.tokenizer.eos_token_id


def test_it_goes_on_after_a_kill_bit_equal(workspace: Callable[[str], Path]) -> None:
    """The adapter resumes on a base that is quantised anew, the same way."""
    found = []
    for name in ("whole", "cut"):
        folder = workspace(name)
        params = micro("finetune.adapter=qlora", LORA)
        if name == "cut":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Saver, "save", _save_and_stop)
                with pytest.raises(KeyboardInterrupt):
                    finetune.run(params, folder, MACHINE)
        finetune.run(params, folder, MACHINE)
        found.append(load_file(folder / "models/videollava/adapter/adapter_model.safetensors"))
    whole, cut = found
    assert all(torch.equal(cut[name], weight) for name, weight in whole.items())


def _save_and_stop(saver: Saver, step: int, told: Any, wait: bool = False, save: Any = Saver.save) -> None:
    save(saver, step, told, wait)
    if step == 2:
        raise KeyboardInterrupt
