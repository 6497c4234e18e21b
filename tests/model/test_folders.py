"""Checkpoint folders as people really have them, and what they point at."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from videollava.errors import InputError
from videollava.model import checkpoint, convert
from videollava.model.convert import probe
from videollava.model.formats.files import write_shards

TRAINER = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin")


@pytest.fixture
def run(make_model: Callable[..., Any], tokenizer: Any, tmp_path: Path) -> Path:
    """What HF's Trainer leaves of our model: checkpoints with everything beside it, none of its own."""
    model = make_model()
    for step in (500, 1000, 90):
        folder = checkpoint.save(model, tokenizer, tmp_path / f"run/checkpoint-{step}")
        for name in TRAINER:
            (folder / name).write_bytes(b"not a tensor")
    return tmp_path / "run"


def test_a_trainers_checkpoint_is_a_model(run: Path, model: Any) -> None:
    folder = run / "checkpoint-500"
    loaded = checkpoint.load(folder)
    assert torch.equal(probe(loaded.model), probe(model))
    assert loaded.tokenizer is not None
    # Torch's file, whole and in shards, with DeepSpeed's state beside it.
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "global_step500").mkdir()
    (folder / "zero_to_fp32.py").write_text("raise SystemExit('never run')")
    torch.save(tensors, folder / "pytorch_model.bin")
    assert torch.equal(probe(checkpoint.load(folder).model), probe(model))
    (folder / "pytorch_model.bin").unlink()
    names = sorted(tensors)
    places: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save({name: tensors[name] for name in part}, folder / file)
        places |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert torch.equal(probe(checkpoint.load(folder).model), probe(model))


def test_a_trainers_checkpoint_of_transformers_model(make_model: Callable[..., Any], tmp_path: Path) -> None:
    """save_pretrained of their class, by either names."""
    from transformers import VideoLlavaForConditionalGeneration

    model = make_model(temporal=False)
    convert.convert(checkpoint.save(model, None, tmp_path / "m"), tmp_path / "hf", "transformers")
    theirs = VideoLlavaForConditionalGeneration.from_pretrained(tmp_path / "hf")
    inputs = convert.probe_inputs(model.config, torch.float32)
    for number, options in enumerate(({}, {"save_original_format": False})):
        folder = tmp_path / f"run/checkpoint-{number}"
        theirs.save_pretrained(folder, **options)
        (folder / "trainer_state.json").write_text("{}")
        loaded = checkpoint.load(folder).model
        assert torch.equal(loaded(**inputs).logits[..., :64], model(**inputs).logits)


def test_sharded_state_alone_says_how_to_write_the_weights(run: Path) -> None:
    folder = run / "checkpoint-500"
    tensors = load_file(folder / "model.safetensors")
    save_file({name: torch.zeros(0) for name in tensors}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"Empty weights .* ZeRO-3 leaves.*zero_to_fp32"):
        checkpoint.load(folder)
    (folder / "model.safetensors").unlink()
    (folder / "global_step500").mkdir()
    with pytest.raises(
        InputError, match=r"no weights.*global_step500 is DeepSpeed's .*python zero_to_fp32.py"
    ):
        checkpoint.load(folder)
    (folder / "global_step500").rename(folder / "pytorch_model_fsdp_0")
    with pytest.raises(InputError, match=r"FSDP's sharded state: `accelerate merge-weights`"):
        checkpoint.load(folder)


def test_a_checkpoint_of_our_own_stages_is_no_model(tmp_path: Path) -> None:
    folder = tmp_path / "finetune-0123/step-00000120"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    torch.save({}, folder / "state.pt")
    with pytest.raises(InputError, match="a checkpoint of a training stage here: run the stage again"):
        checkpoint.load(folder)


def test_several_checkpoints_and_no_model_asks_for_one(run: Path, model: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        checkpoint.load(run)
    assert "(checkpoint-90, checkpoint-500, checkpoint-1000): name one" in str(caught.value)
    assert f"the newest is {run / 'checkpoint-1000'}" in str(caught.value)
    with pytest.raises(InputError, match="name one"):
        convert.convert(run, tmp_path / "x", "ours")
    # A finished run has a model of its own beside them.
    for file in (run / "checkpoint-500").iterdir():
        shutil.copy(file, run)
    assert torch.equal(probe(checkpoint.load(run).model), probe(model))
    shutil.copytree(run, tmp_path / "outer/run")
    with pytest.raises(InputError, match=r"it holds .*outer/run: name the one you mean"):
        checkpoint.load(tmp_path / "outer")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_of_the_folder_means_the_folder(saved: Path, model: Any, name: str) -> None:
    assert torch.equal(probe(checkpoint.load(saved / name).model), probe(model))
    assert torch.equal(probe(checkpoint.load(str(saved / name)).model), probe(model))


def test_a_shard_means_the_folder_and_a_stray_file_nothing(saved: Path, model: Any, tmp_path: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    (saved / "model.safetensors").unlink()
    write_shards(tensors, saved, 100_000)
    shard = sorted(saved.glob("*.safetensors"))[1]
    assert torch.equal(probe(checkpoint.load(shard).model), probe(model))
    save_file(tensors, saved / "mine.safetensors")
    with pytest.raises(InputError, match=r"not the weight file that .* is loaded from"):
        checkpoint.load(saved / "mine.safetensors")
    save_file(tensors, tmp_path / "alone.safetensors")
    with pytest.raises(InputError, match=r"put its config\.json beside it"):
        checkpoint.load(tmp_path / "alone.safetensors")
    with pytest.raises(InputError, match="a file; give the checkpoint's folder"):
        checkpoint.load(__file__)


def test_a_hub_cache_folder_means_its_snapshot(saved: Path, model: Any, tmp_path: Path) -> None:
    cache = tmp_path / "models--somebody--Video-LLaVA"
    shutil.copytree(saved, cache / "snapshots/aaa")
    for place in (cache, cache / "snapshots", cache / "snapshots/aaa"):
        assert torch.equal(probe(checkpoint.load(place).model), probe(model))
    (cache / "snapshots/bbb").mkdir()
    with pytest.raises(InputError, match=r"2 snapshots and no refs/main"):
        checkpoint.load(cache)
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text("aaa\n")
    assert torch.equal(probe(checkpoint.load(cache).model), probe(model))


def test_two_saves_in_one_folder_and_which_file_comes_first(saved: Path, model: Any) -> None:
    tensors = load_file(saved / "model.safetensors")
    # The hub's usual pair: safetensors are read, torch's are not.
    torch.save(
        {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}, saved / "pytorch_model.bin"
    )
    (saved / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"x": "gone.bin"}}))
    assert torch.equal(probe(checkpoint.load(saved).model), probe(model))
    (saved / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {}}))
    with pytest.raises(InputError, match="so two saves in one folder"):
        checkpoint.load(saved)


def test_what_a_clone_without_lfs_or_a_broken_download_leaves(saved: Path, tmp_path: Path) -> None:
    (saved / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )
    with pytest.raises(InputError, match=r"a Git LFS pointer, not the weights: run `git lfs pull`"):
        checkpoint.load(saved)
    (saved / "model.safetensors").unlink()
    (saved / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}})
    )
    with pytest.raises(InputError, match=r"names files that are not there: model-00001-of-00002"):
        checkpoint.load(saved)


def test_weights_or_a_projector_without_their_config(saved: Path, tmp_path: Path) -> None:
    (saved / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config\.json: .*put the config\.json of the same model beside"):
        checkpoint.load(saved)
    folder = tmp_path / "run/checkpoint-20"  # stage 1 of the original, interrupted
    folder.mkdir(parents=True)
    torch.save({"model.mm_projector.0.weight": torch.zeros(2, 2)}, folder / "mm_projector.bin")
    with pytest.raises(InputError, match="holds a projector alone and no config"):
        checkpoint.load(folder)


def test_an_adapter_beside_a_whole_model_is_refused(saved: Path) -> None:
    (saved / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="holds a whole model and an adapter"):
        checkpoint.load(saved)


def test_code_in_a_torch_file_never_runs(saved: Path, tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    (saved / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Code()}, saved / "pytorch_model.bin")
    with pytest.raises(InputError, match="holds more than tensors and is refused"):
        checkpoint.load(saved)
    assert not (tmp_path / "ran").exists()
