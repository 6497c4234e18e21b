from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from equality import FLOAT32
from safetensors.torch import load_file, save_file

from videollava.errors import InputError
from videollava.model import checkpoint, convert
from videollava.model.convert import merge, probe
from videollava.model.formats.files import find_weights


def _same(one: Path, other: Path) -> None:
    """Weights, bit by bit, and config.json."""
    ours, theirs = find_weights(one).read(), find_weights(other).read()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        assert torch.equal(tensor, theirs[name]), name
    configs = [json.loads((folder / "config.json").read_text()) for folder in (one, other)]
    assert configs[0] == configs[1]


def test_original_to_ours_and_back_is_bit_identical(shared: Path, tmp_path: Path) -> None:
    source = shared / "reference/video_llava"
    assert convert.convert(source, tmp_path / "ours", "ours").difference == 0
    assert convert.convert(tmp_path / "ours", tmp_path / "back", "original").difference == 0
    _same(source, tmp_path / "back")  # computed buffers, which the original saves, included


def test_what_changed_since_is_in_the_export(shared: Path, tmp_path: Path) -> None:
    model = checkpoint.load(shared / "reference/video_llava").model
    model.set_frames(4)
    model.config.vision_feature_layer = -1
    convert.convert(checkpoint.save(model, None, tmp_path / "ours"), tmp_path / "back", "original")
    config = json.loads((tmp_path / "back/config.json").read_text())
    assert config["video_tower_config"]["vision_config"]["num_frames"] == 4
    assert config["mm_vision_select_layer"] == -1
    assert config["mm_hidden_size"] == 64
    assert torch.equal(probe(checkpoint.load(tmp_path / "back").model), probe(model))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ours_to_transformers_and_back_is_bit_identical(
    make_model: Callable[..., Any], tokenizer: Any, tmp_path: Path, tied: bool, dtype: torch.dtype
) -> None:
    folder = checkpoint.save(make_model(temporal=False, tied=tied).to(dtype), tokenizer, tmp_path / "ours")
    assert convert.convert(folder, tmp_path / "hf", "transformers").difference is not None
    convert.convert(tmp_path / "hf", tmp_path / "back", "ours")
    _same(folder, tmp_path / "back")


def test_ours_to_original_and_back_is_bit_identical(saved: Path, tmp_path: Path) -> None:
    convert.convert(saved, tmp_path / "original", "original")
    names = load_file(tmp_path / "original/model.safetensors").keys()
    assert {
        "model.embed_tokens.weight",
        "model.image_tower.image_tower.pre_layrnorm.weight",
        "model.video_tower.video_tower.encoder.layers.2.temporal_embedding",
        "model.mm_projector.2.bias",
        "model.layers.1.mlp.up_proj.weight",
        "lm_head.weight",
    } <= names
    convert.convert(tmp_path / "original", tmp_path / "back", "ours")
    assert torch.equal(probe(checkpoint.load(tmp_path / "back").model), probe(checkpoint.load(saved).model))
    ours, back = load_file(saved / "model.safetensors"), load_file(tmp_path / "back/model.safetensors")
    assert ours.keys() == back.keys()
    assert all(torch.equal(tensor, back[name]) for name, tensor in ours.items())


def test_transformers_loads_an_export_with_equal_logits(
    make_model: Callable[..., Any], tokenizer: Any, tmp_path: Path
) -> None:
    import inspect

    from transformers import AutoTokenizer, VideoLlavaForConditionalGeneration

    model = make_model(temporal=False)
    folder = checkpoint.save(model, tokenizer, tmp_path / "ours")
    convert.convert(folder, tmp_path / "hf", "transformers")
    theirs, report = VideoLlavaForConditionalGeneration.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    inputs = convert.probe_inputs(model.config, torch.float32)
    expected = model(**inputs).logits
    if "pixel_values" in inspect.signature(theirs.forward).parameters:
        inputs["pixel_values"] = inputs.pop("pixel_values_images")
    logits = theirs.eval()(**inputs).logits
    torch.testing.assert_close(logits[..., :64], expected, rtol=0, atol=FLOAT32)
    # Rows added for the placeholders never win over row 0.
    assert torch.equal(logits[..., 64:], logits[..., :1].expand(-1, -1, 2))
    marks = AutoTokenizer.from_pretrained(tmp_path / "hf").convert_tokens_to_ids(["<image>", "<video>"])
    assert marks == [64, 65]


@pytest.mark.parametrize("layout", ["hub", "newer"])
def test_their_own_folders_are_read_in_every_layout(
    make_model: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture, layout: str
) -> None:
    model = make_model(temporal=False)
    convert.convert(checkpoint.save(model, None, tmp_path / "ours"), tmp_path / "hf", "transformers")
    config = json.loads((tmp_path / "hf/config.json").read_text())
    config.pop("videollava")  # what a folder that never was ours lacks
    (tmp_path / "hf/config.json").write_text(json.dumps(config))
    if layout == "newer":  # as transformers 5 names them inside
        tensors = load_file(tmp_path / "hf/model.safetensors")
        inner = ("language_model.model.", "language_model."), ("_tower.vision_model.", "_tower.")
        for name in list(tensors):
            new = "model." + name.replace(*inner[0]).replace(*inner[1])
            tensors[new.replace("model.language_model.lm_head", "lm_head")] = tensors.pop(name)
        save_file(tensors, tmp_path / "hf/model.safetensors")
    with caplog.at_level(logging.WARNING):
        loaded = checkpoint.load(tmp_path / "hf").model
    assert "drops the video encoder's temporal attention" in caplog.text
    assert "motion is seen by the language model alone" in caplog.text
    assert (loaded.config.image_token_id, loaded.config.text_config.vocab_size) == (64, 66)
    assert loaded.config.video_config.num_frames == 4
    inputs = convert.probe_inputs(model.config, torch.float32)
    torch.testing.assert_close(
        loaded(**inputs).logits[..., :64], model(**inputs).logits, rtol=0, atol=FLOAT32
    )


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"temporal": True}, "video encoder has temporal attention"),
        ({"temporal": False, "towers": ["image"]}, "needs both encoders"),
        ({"temporal": False, "projector_type": "mlp3x_gelu"}, "transformers' projector is mlp2x_gelu"),
    ],
)
def test_what_transformers_cannot_hold_goes_under_our_class_and_says_so(
    make_model: Callable[..., Any], tmp_path: Path, fields: dict[str, Any], why: str
) -> None:
    from transformers import AutoModelForImageTextToText

    folder = checkpoint.save(make_model(**fields), None, tmp_path / "ours")
    result = convert.convert(folder, tmp_path / "hf", "transformers")
    assert why in result.note
    assert "exported under this package's class" in result.note
    config = json.loads((tmp_path / "hf/config.json").read_text())
    assert config["model_type"] == "videollava"  # transformers alone knows no such type: nothing loads half
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "hf")
    assert torch.equal(probe(model.eval()), probe(checkpoint.load(folder).model))
    convert.convert(tmp_path / "hf", tmp_path / "back", "ours")
    _same(folder, tmp_path / "back")


@pytest.mark.parametrize("name", ["image", "audio_lora"])
def test_languagebind_to_ours(shared: Path, tmp_path: Path, name: str) -> None:
    source = shared / f"reference/languagebind_{name}"
    assert (convert.convert(source, tmp_path / "ours", "ours").difference or 0) < 1e-6
    ours, theirs = (checkpoint.load(folder).model.state_dict() for folder in (tmp_path / "ours", source))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())
    with pytest.raises(InputError, match=r"an encoder alone \(languagebind\) is not exported to original"):
        convert.convert(tmp_path / "ours", tmp_path / "x", "original")


def test_a_result_that_differs_is_not_written(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(tensors: Any, config: Any) -> Any:
        renamed = genuine(tensors, config)
        return {n: t + 0.1 if n.endswith("norm.weight") else t for n, t in renamed.items()}

    genuine = convert.original_export.from_ours
    monkeypatch.setattr(convert.original_export, "from_ours", spoil)
    with pytest.raises(InputError, match="logits before and after differ by"):
        convert.convert(saved, tmp_path / "original", "original")
    assert not (tmp_path / "original").exists()
    assert not list(tmp_path.glob(".*"))


@pytest.fixture
def adapter(saved: Path, model: Any, tmp_path: Path) -> Path:
    """A LoRA folder of ours on `saved`, with a projector of its own."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    settings = LoraConfig(
        r=2,
        lora_alpha=8,
        target_modules=r".*language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.\w+_proj)",
        modules_to_save=["multi_modal_projector"],
        init_lora_weights=False,
    )
    model.config.name_or_path = str(saved)
    adapted = get_peft_model(model, settings)
    adapted.base_model.model.model.multi_modal_projector.modules_to_save.default.linear_1.bias.data += 0.1
    adapted.peft_config["default"].base_model_name_or_path = str(saved)
    adapted.save_pretrained(tmp_path / "adapter")
    torch.save(probe(adapted.eval().get_base_model()), tmp_path / "expected.pt")
    return tmp_path / "adapter"


def test_merging_equals_the_adapter_beside_its_base(adapter: Path, tmp_path: Path) -> None:
    result = merge(adapter, tmp_path / "merged")
    assert result.difference is not None
    assert result.difference < 1e-4
    loaded = checkpoint.load(tmp_path / "merged")
    torch.testing.assert_close(
        probe(loaded.model), torch.load(tmp_path / "expected.pt"), rtol=0, atol=FLOAT32
    )
    assert loaded.tokenizer is not None


def test_an_unmerged_adapter_goes_to_the_original_and_merges_there(
    adapter: Path, saved: Path, tmp_path: Path
) -> None:
    convert.convert(adapter, tmp_path / "llava-lora", "original")
    written = torch.load(tmp_path / "llava-lora/adapter_model.bin", weights_only=True)
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in written
    others = torch.load(tmp_path / "llava-lora/non_lora_trainables.bin", weights_only=True)
    assert "base_model.model.model.mm_projector.0.weight" in others
    convert.convert(saved, tmp_path / "base", "original")
    merge(tmp_path / "llava-lora", tmp_path / "merged", base=tmp_path / "base")
    loaded = checkpoint.load(tmp_path / "merged").model
    torch.testing.assert_close(probe(loaded), torch.load(tmp_path / "expected.pt"), rtol=0, atol=FLOAT32)


def test_adapters_that_do_not_fit_are_refused(adapter: Path, saved: Path, tmp_path: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    key = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file(
        {**tensors, key.replace("layers.0", "layers.9"): tensors[key].clone()},
        adapter / "adapter_model.safetensors",
    )
    with pytest.raises(InputError, match=r"without their other half .*layers\.9"):
        merge(adapter, tmp_path / "merged")
    save_file({**tensors, key: torch.zeros(2, 40)}, adapter / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"is for a weight of \[48, 40\], the base has \[48, 48\]"):
        merge(adapter, tmp_path / "merged")
    save_file(tensors, adapter / "adapter_model.safetensors")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, "use_dora": True}))
    with pytest.raises(InputError, match="use_dora: true, which cannot be merged"):
        merge(adapter, tmp_path / "merged")
    shutil.rmtree(saved)
    with pytest.raises(InputError, match=r"its base .* is not here"):
        merge(adapter, tmp_path / "merged")


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_folder_that_holds_something_is_not_written_over(
    saved: Path, adapter: Path, tmp_path: Path, kind: str
) -> None:
    """The whole folder would go: `videollava convert model .` would take everything in it along."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("years of work")
    target = theirs
    if kind == "link":
        target = tmp_path / "link"
        target.symlink_to(theirs)
    for call in (lambda: convert.convert(saved, target, "ours"), lambda: convert.merge(adapter, target)):
        with pytest.raises(InputError, match="is there already and would be replaced whole"):
            call()
    assert (theirs / "thesis.txt").read_text() == "years of work"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert convert.convert(saved, empty, "ours").difference == 0.0


def test_a_projector_alone_goes_to_the_original(model: Any, tmp_path: Path) -> None:
    (tmp_path / "projector").mkdir()
    weights = dict(model.model.multi_modal_projector.state_dict())
    save_file(weights, tmp_path / "projector/projector.safetensors")
    (tmp_path / "projector/projector.json").write_text(json.dumps({"projector_type": "mlp2x_gelu"}))
    convert.convert(tmp_path / "projector", tmp_path / "out", "original")
    written = torch.load(tmp_path / "out/mm_projector.bin", weights_only=True)
    assert torch.equal(written["model.mm_projector.2.weight"], weights["linear_2.weight"])
    convert.convert(tmp_path / "out", tmp_path / "back", "ours")
    back = load_file(tmp_path / "back/projector.safetensors")
    assert back.keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in back.items())
    assert json.loads((tmp_path / "back/projector.json").read_text()) == {"projector_type": "mlp2x_gelu"}


@pytest.mark.parametrize("to", ["ours", "original"])
def test_a_base_that_would_not_be_used_is_refused(saved: Path, tmp_path: Path, to: convert.Target) -> None:
    with pytest.raises(
        InputError, match=r"has all weights of its own, and nothing of the base .* leave the base out"
    ):
        convert.convert(saved, tmp_path / "out", to, base=saved)
    assert not (tmp_path / "out").exists()
    (tmp_path / "projector").mkdir()
    (tmp_path / "projector/projector.json").write_text(json.dumps({"projector_type": "mlp2x_gelu"}))
    with pytest.raises(InputError, match="a projector alone stays one, without the base"):
        convert.convert(tmp_path / "projector", tmp_path / "out", to, base=saved)


MEASURE = """
import resource, sys
from videollava.model.convert import convert
import transformers.models.llama.modeling_llama
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for source, target, to in zip(*[iter(sys.argv[1:])] * 3):
    convert(source, target, to, check=False)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1024)
"""


def test_memory_stays_near_the_largest_shard(shared: Path, tmp_path: Path) -> None:
    """Models of zeros in the hub's layout, 3 shards of about 27 MiB: read, renamed and written one by one."""
    config = json.loads((shared / "reference/video_llava/config.json").read_text())
    tensors = load_file(shared / "reference/video_llava/model.safetensors")
    config |= {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
    }
    size = {96: 768, 192: 2048}
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if "rotary" not in name:
            wide = [d if "tower" in name else size.get(d, d) for d in tensor.shape]
            layer = name.split(".")[2] if name.startswith("model.layers.") else "0"
            groups.setdefault(f"model-{layer}", {})[name] = torch.zeros(wide)
    for suffix, index in (("safetensors", "model.safetensors"), ("bin", "pytorch_model.bin")):
        source = tmp_path / suffix
        source.mkdir()
        for file, group in groups.items():
            place = source / f"{file}.{suffix}"
            save_file(group, place) if suffix == "safetensors" else torch.save(group, place)
        places = {name: f"{file}.{suffix}" for file, group in groups.items() for name in group}
        (source / f"{index}.index.json").write_text(json.dumps({"weight_map": places}))
        (source / "config.json").write_text(json.dumps(config))
    largest = max(file.stat().st_size for file in (tmp_path / "bin").iterdir()) / 2**20
    ways = [("safetensors", "ours", "ours"), ("bin", "ours2", "ours"), ("ours", "back", "original")]
    arguments = [
        word for source, to, form in ways for word in (str(tmp_path / source), str(tmp_path / to), form)
    ]
    command = [sys.executable, "-c", MEASURE, *arguments]
    grown = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown < 1.5 * largest + 8, f"{grown:.0f} MiB for a largest shard of {largest:.0f} MiB"
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) == 3
    assert find_weights(tmp_path / "back").specs().keys() == places.keys()
