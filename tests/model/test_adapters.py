"""Adapters as people have them: made on transformers' Video-LLaVA by any release, left by interrupted runs, moved."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from equality import FLOAT32
from safetensors.torch import load_file, save_file
from torch import Tensor

from videollava.cli import main
from videollava.errors import InputError
from videollava.model import checkpoint, convert
from videollava.model.convert import merge, probe

LANGUAGE = r".*language_model.*\.(self_attn\.[qkvo]_proj|mlp\.\w+_proj)"
NEW, OLD = "model.language_model.layers", "language_model.model.layers"


@dataclass(frozen=True)
class Made:
    """A model in two formats, an adapter on the one of transformers, and the logits of peft's own merge of them."""

    ours: Path
    hf: Path
    adapter: Path
    expected: Tensor


MADE: list[Made] = []


@pytest.fixture
def made(
    make_model: Callable[..., Any], tokenizer: Any, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Made:
    """Made once; the adapter is a copy to change, and its base is named by an absolute path."""
    if not MADE:
        root = tmp_path_factory.mktemp("made")
        ours = checkpoint.save(make_model(temporal=False), tokenizer, root / "ours")
        convert.convert(ours, root / "hf", "transformers", check=False)
        config = json.loads((root / "hf/config.json").read_text())
        del config["videollava"]  # as the hub has it: nothing of ours in it
        (root / "hf/config.json").write_text(json.dumps(config))
        MADE.append(Made(ours, root / "hf", root / "adapter", _make(root / "hf", root / "adapter")))
    shutil.copytree(MADE[0].adapter, tmp_path / "adapter")
    return dataclasses.replace(MADE[0], adapter=tmp_path / "adapter")


def _make(hf: Path, folder: Path, **settings: Any) -> Tensor:
    """A PEFT adapter on transformers' own class in `folder`; peft's own merge's logits on the probe's inputs."""
    import inspect

    from peft import LoraConfig, get_peft_model
    from transformers import VideoLlavaForConditionalGeneration

    model = VideoLlavaForConditionalGeneration.from_pretrained(hf)
    inputs = convert.probe_inputs(checkpoint.load(hf).model.config, torch.float32)
    torch.manual_seed(1)
    chosen = {"r": 2, "lora_alpha": 8, "target_modules": LANGUAGE, "init_lora_weights": False, **settings}
    adapted = get_peft_model(model, LoraConfig(**chosen))
    for name, weight in adapted.named_parameters():
        if "modules_to_save" in name:
            weight.data += 0.1 * torch.randn_like(weight)
    adapted.save_pretrained(folder)
    merged = adapted.merge_and_unload().eval()
    if "pixel_values" in inspect.signature(merged.forward).parameters:
        inputs["pixel_values"] = inputs.pop("pixel_values_images")
    with torch.inference_mode():
        return merged(**inputs).logits


def _rename(folder: Path, change: Callable[[str], str]) -> None:
    file = folder / "adapter_model.safetensors"
    save_file({change(name): tensor.clone() for name, tensor in load_file(file).items()}, file)


def _set(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def _holds(folder: Path, expected: Tensor, target: Path, **options: Any) -> None:
    """load and merge give the model whose logits peft's own merge has."""
    loaded = checkpoint.load(folder, **options)
    torch.testing.assert_close(probe(loaded.model), expected, rtol=0, atol=FLOAT32)
    assert loaded.tokenizer is not None
    done = merge(folder, target / "merged", **options)
    assert done.difference is not None
    assert done.difference < 1e-4
    assert torch.equal(probe(checkpoint.load(target / "merged").model), probe(loaded.model))


WAYS: dict[str, Callable[[str], str]] = {
    "today": lambda name: name,
    "today without prefix": lambda name: name.removeprefix("base_model.model."),
    "before 4.52": lambda name: name.replace(NEW, OLD),
    "before 4.52 without prefix": lambda name: name.replace(NEW, OLD).removeprefix("base_model.model."),
    "of a compiled model": lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."),
    "with the adapter's name": lambda name: name.replace(".weight", ".default.weight"),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_adapter_on_transformers_model_merges_by_any_names(made: Made, tmp_path: Path, way: str) -> None:
    _rename(made.adapter, WAYS[way])
    _holds(made.adapter, made.expected, tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"q_proj": 5, r"layers.1.mlp.up_proj": 2}},
        {"alpha_pattern": {r"model\.language_model\.layers\.0\.self_attn\.k_proj": 1}},
        {"modules_to_save": ["multi_modal_projector"]},
        {"modules_to_save": ["lm_head", "embed_tokens"]},
        {"target_modules": ["q_proj", "v_proj", "fc1", "linear_2"]},  # encoders and projector too
        {"target_modules": "all-linear"},
        {"target_modules": ["embed_tokens", "q_proj"]},
    ],
    ids=["rslora", "patterns", "full name", "projector", "tables", "towers", "all-linear", "embedding"],
)
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
def test_what_peft_can_set_is_merged_as_peft_does(
    made: Made, tmp_path: Path, settings: dict[str, Any]
) -> None:
    expected = _make(made.hf, tmp_path / "set", **settings)
    merge(tmp_path / "set", tmp_path / "merged")
    loaded = checkpoint.load(tmp_path / "merged").model
    torch.testing.assert_close(probe(loaded), expected, rtol=0, atol=2e-5)


def test_towers_and_projector_of_before_4_52(made: Made, tmp_path: Path) -> None:
    expected = _make(made.hf, tmp_path / "towers", target_modules=["q_proj", "linear_2"])

    def older(name: str) -> str:
        name = name.replace("base_model.model.model.", "base_model.model.").replace(
            "language_model.", "language_model.model."
        )
        return name.replace("_tower.encoder", "_tower.vision_model.encoder")

    _rename(tmp_path / "towers", older)
    names = load_file(tmp_path / "towers/adapter_model.safetensors")
    assert any("image_tower.vision_model" in name for name in names)
    loaded = checkpoint.load(tmp_path / "towers").model
    torch.testing.assert_close(probe(loaded), expected, rtol=0, atol=FLOAT32)


def test_torchs_file_and_the_command_line(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = made.adapter / "adapter_model.safetensors"
    torch.save(load_file(file), made.adapter / "adapter_model.bin")
    file.unlink()
    assert main(["merge", str(made.adapter), str(tmp_path / "out")]) == 0
    assert "logits differ by" in capsys.readouterr().out
    loaded = checkpoint.load(tmp_path / "out").model
    torch.testing.assert_close(probe(loaded), made.expected, rtol=0, atol=FLOAT32)


def test_on_our_base_and_unmerged_to_the_original(made: Made, tmp_path: Path) -> None:
    """The same adapter on our copy of its base, and its way to the original's folder by older names."""
    folder = tmp_path / "with-projector"
    expected = _make(made.hf, folder, modules_to_save=["multi_modal_projector"])
    convert.convert(made.hf, tmp_path / "mine", "ours")
    merge(folder, tmp_path / "merged", base=tmp_path / "mine")
    torch.testing.assert_close(
        probe(checkpoint.load(tmp_path / "merged").model), expected, rtol=0, atol=FLOAT32
    )
    _rename(folder, lambda name: name.replace(NEW, OLD))
    convert.convert(folder, tmp_path / "llava-lora", "original")
    names = torch.load(tmp_path / "llava-lora/adapter_model.bin", weights_only=True)
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in names
    convert.convert(made.hf, tmp_path / "base", "original")
    loaded = checkpoint.load(tmp_path / "llava-lora", base=tmp_path / "base").model
    torch.testing.assert_close(probe(loaded), expected, rtol=0, atol=FLOAT32)
    convert.convert(folder, tmp_path / "again", "transformers")
    torch.testing.assert_close(
        probe(checkpoint.load(tmp_path / "again").model), expected, rtol=0, atol=FLOAT32
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"use_dora": True}, "use_dora: true, which cannot be merged here"),
        ({"peft_type": "IA3"}, "adapter of type 'IA3'"),
        ({"lora_bias": True}, "biases of its own"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"init_lora_weights": "pissa_niter_4"}, "base whose weights that start changed"),
        ({"init_lora_weights": "olora"}, "path_initial_model_for_weight_conversion"),
        ({"modules_to_save": ["multi_modal_projector"]}, "lost in this save"),
    ],
)
def test_what_cannot_be_merged_says_so(made: Made, tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    _set(made.adapter, **changes)
    with pytest.raises(InputError, match=why):
        merge(made.adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_of_another_base_or_left_empty(made: Made, tmp_path: Path, shared: Path) -> None:
    folder = made.adapter
    with pytest.raises(InputError, match="belongs to another base model"):
        checkpoint.load(folder, base=shared / "reference/video_llava")
    _rename(folder, lambda name: name.replace("layers.1", "layers.7"))
    with pytest.raises(InputError, match=r"adapts weights that the base model lacks: .*layers\.7"):
        merge(folder, tmp_path / "merged")
    file = folder / "adapter_model.safetensors"
    shutil.copy(MADE[0].adapter / file.name, file)
    resized = {"base_model.model.lm_head.weight": torch.zeros(80, 48)}  # peft saves resized tables by itself
    save_file({**load_file(file), **resized}, file)
    with pytest.raises(InputError, match="trained with other tokens in the vocabulary"):
        checkpoint.load(folder)
    save_file({name: torch.zeros(0) for name in load_file(file)}, file)
    with pytest.raises(InputError, match=r"tensors are empty .*ZeRO-3"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    "named", ["C:\\models\\hf", "..\\hf", "/home/somebody/runs/hf/", "somebody/hf", "./hf"]
)
def test_a_base_named_on_another_machine_is_found_beside(made: Made, tmp_path: Path, named: str) -> None:
    shutil.copytree(made.hf, tmp_path / "hf")
    folder = tmp_path / "run/checkpoint-20"
    shutil.copytree(made.adapter, folder)
    _set(folder, base_model_name_or_path=named)
    loaded = checkpoint.load(folder).model
    torch.testing.assert_close(probe(loaded), made.expected, rtol=0, atol=FLOAT32)


def test_what_zero_to_fp32_writes_beside_an_adapter_is_told_apart(made: Made) -> None:
    torch.save(load_file(made.adapter / "adapter_model.safetensors"), made.adapter / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"as zero_to_fp32\.py writes them: save those with lora_"):
        checkpoint.load(made.adapter)


def test_a_base_named_by_another_machines_hub_cache_is_the_hub_id(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "hub/models--somebody--Video-LLaVA-hf"
    shutil.copytree(made.hf, cache / "snapshots/0123")
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text("0123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for named in (
        "/home/somebody/.cache/huggingface/hub/models--somebody--Video-LLaVA-hf/snapshots/9",
        "somebody/Video-LLaVA-hf",
    ):
        _set(made.adapter, base_model_name_or_path=named)
        loaded = checkpoint.load(made.adapter).model
        torch.testing.assert_close(probe(loaded), made.expected, rtol=0, atol=FLOAT32)


def test_a_base_named_like_the_adapter_itself_is_not_it(made: Made) -> None:
    for named in ("somewhere/adapter", None, ""):
        _set(made.adapter, base_model_name_or_path=named)
        with pytest.raises(InputError, match=r"its base .* is not here"):
            checkpoint.load(made.adapter)


@pytest.fixture
def interrupted(made: Made, tmp_path: Path) -> Path:
    """checkpoint-500 of the original's trainer: an adapter on its names, and what HF's Trainer puts beside."""
    folder = tmp_path / "run/checkpoint-500"
    shutil.copytree(made.adapter, folder)
    _rename(folder, lambda name: name.replace("model.language_model.", "model."))
    _set(folder, base_model_name_or_path="lmsys/vicuna-7b-v1.5", target_modules=["q_proj"])
    for name in ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (folder / name).write_bytes(b"{}")
    return folder


def test_an_interrupted_runs_adapter_says_what_is_missing_and_where(
    interrupted: Path, made: Made, tmp_path: Path
) -> None:
    for call in (
        lambda: checkpoint.load(interrupted),
        lambda: checkpoint.load(interrupted, base=made.ours),
        lambda: merge(interrupted, tmp_path / "x", base=made.hf),
        lambda: convert.convert(interrupted, tmp_path / "x", "ours"),
    ):
        with pytest.raises(InputError) as caught:
            call()
        told = str(caught.value)
        assert "without config.json and without non_lora_trainables.bin (the projector)" in told
        assert f"into the run's folder ({interrupted.parent})" in told
        assert "did not end" in told
    (interrupted / "global_step500").mkdir()
    with pytest.raises(InputError, match=r"the projector of this step is in global_step500 .*zero_to_fp32"):
        checkpoint.load(interrupted)
    (interrupted.parent / "config.json").write_text("{}")
    torch.save({}, interrupted.parent / "non_lora_trainables.bin")
    with pytest.raises(
        InputError, match=r"config.json and non_lora_trainables.bin can be had, of the run's last"
    ):
        checkpoint.load(interrupted)


def test_with_the_missing_files_beside_it_the_interrupted_run_loads(
    interrupted: Path, made: Made, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """config.json of the original's layout and the projector; the base is the language model alone."""
    convert.convert(made.hf, tmp_path / "original", "original")
    tensors = load_file(tmp_path / "original/model.safetensors")
    config = json.loads((tmp_path / "original/config.json").read_text())
    base = tmp_path / "vicuna-7b-v1.5"
    base.mkdir()
    save_file({n: t for n, t in tensors.items() if "mm_projector" not in n}, base / "model.safetensors")
    language = {n: v for n, v in config.items() if not n.startswith("mm_") and "tower" not in n}
    (base / "config.json").write_text(
        json.dumps({**language, "model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    )
    with pytest.raises(InputError, match="of the original's trainer"):
        checkpoint.load(interrupted, base=base)
    (interrupted / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"without non_lora_trainables.bin"):
        checkpoint.load(interrupted, base=base)
    projector = {f"base_model.model.{n}": t for n, t in tensors.items() if "mm_projector" in n}
    torch.save(projector, interrupted / "non_lora_trainables.bin")
    torch.testing.assert_close(probe(checkpoint.load(interrupted).model), made.expected, rtol=0, atol=FLOAT32)
    # With a config, a whole base gives its projector, and that is said.
    (interrupted / "non_lora_trainables.bin").unlink()
    with caplog.at_level(logging.WARNING):
        loaded = checkpoint.load(interrupted, base=tmp_path / "original").model
    assert "the projector is the base model's" in caplog.text
    torch.testing.assert_close(probe(loaded), made.expected, rtol=0, atol=FLOAT32)
