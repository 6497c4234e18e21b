"""Plain CLIP and OpenCLIP encoders, and language models from a folder, a GGUF file or a package."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from videollava.errors import InputError
from videollava.model import checkpoint
from videollava.model.attention import packed_kwargs
from videollava.model.encoders import (
    LanguageBind,
    LanguageBindConfig,
    LanguageBindTextConfig,
    LanguageBindVisionConfig,
)
from videollava.model.formats.encoder import load_encoder, load_tower
from videollava.model.formats.language import find_language_model, load_language_model

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture
def clip(tmp_path: Path) -> tuple[Path, Any]:
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    config = CLIPConfig(
        vision_config={**SIZES, "image_size": 16, "patch_size": 8, "projection_dim": 16},
        text_config={
            **SIZES,
            "vocab_size": 50,
            "eos_token_id": 49,
            "bos_token_id": 0,
            "max_position_embeddings": 9,
        },
        projection_dim=16,
    )
    model = CLIPModel(config).eval()
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip/config.json").write_text(json.dumps(config.to_dict()))
    tensors = dict(model.state_dict()) | {"vision_model.embeddings.position_ids": torch.arange(5)[None]}
    save_file(tensors, tmp_path / "clip/model.safetensors")
    return tmp_path / "clip", model


def test_clip_is_a_start_for_alignment(clip: tuple[Path, Any]) -> None:
    folder, theirs = clip
    pair, _ = load_encoder(folder, "depth")
    pixels, ids = torch.randn(2, 3, 16, 16), torch.tensor([[0, 5, 6, 49], [0, 7, 49, 49]])
    expected = theirs(input_ids=ids, pixel_values=pixels)
    out = pair(pixels, ids)
    torch.testing.assert_close(out.image_embeds, expected.image_embeds)
    torch.testing.assert_close(out.text_embeds, expected.text_embeds)
    torch.testing.assert_close(out.logits_per_image, expected.logits_per_image)
    tower = load_tower(folder)
    torch.testing.assert_close(tower(pixels).pooler_output, pair.vision_model(pixels).pooler_output)


def test_a_clip_vision_model_has_no_text_to_pair_with(clip: tuple[Path, Any], tmp_path: Path) -> None:
    folder, theirs = clip
    (tmp_path / "vision").mkdir()
    config = theirs.config.vision_config.to_dict()
    (tmp_path / "vision/config.json").write_text(json.dumps(config))
    save_file(
        {f"vision_model.{n}": t for n, t in theirs.vision_model.state_dict().items()},
        tmp_path / "vision/model.safetensors",
    )
    pixels = torch.randn(1, 3, 16, 16)
    expected = load_tower(folder)(pixels).pooler_output
    torch.testing.assert_close(load_tower(tmp_path / "vision")(pixels).pooler_output, expected)
    torch.testing.assert_close(checkpoint.load(tmp_path / "vision").model(pixels).pooler_output, expected)
    with pytest.raises(InputError, match="without the text encoder that a pair needs"):
        load_encoder(tmp_path / "vision", "image")


def test_encoders_must_be_there_and_of_the_right_kind(shared: Path) -> None:
    with pytest.raises(InputError, match="no such folder, and not a hub id"):
        load_encoder("/nowhere/at/all", "image")
    with pytest.raises(InputError, match="an encoder of video, where one of image is needed"):
        load_encoder(shared / "reference/languagebind_video", "image")


def _openclip_names(pair: LanguageBind) -> dict[str, Tensor]:
    """A pair's weights as OpenCLIP names and stacks them."""
    tops = {
        "vision_model.embeddings.class_embedding": "visual.class_embedding",
        "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
        "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
        "vision_model.pre_layrnorm": "visual.ln_pre",
        "vision_model.post_layernorm": "visual.ln_post",
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.final_layer_norm": "ln_final",
    }
    inner = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "self_attn.out_proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    weights = dict(pair.state_dict())
    found = {"logit_scale": weights["logit_scale"], "attn_mask": torch.zeros(9, 9)}
    found["visual.proj"] = weights["visual_projection.weight"].T.contiguous()
    found["text_projection"] = weights["text_projection.weight"].T.contiguous()
    for ours, theirs in tops.items():
        found |= {theirs + name.removeprefix(ours): t for name, t in weights.items() if name.startswith(ours)}
    for root, stem in (("vision_model", "visual.transformer"), ("text_model", "transformer")):
        for layer in range(2):
            place, block = f"{root}.encoder.layers.{layer}", f"{stem}.resblocks.{layer}"
            for kind in ("weight", "bias"):
                found[f"{block}.attn.in_proj_{kind}"] = torch.cat(
                    [weights[f"{place}.self_attn.{n}_proj.{kind}"] for n in "qkv"]
                )
                found |= {
                    f"{block}.{theirs}.{kind}": weights[f"{place}.{ours}.{kind}"]
                    for ours, theirs in inner.items()
                }
    return found


def test_openclip_is_a_start_for_alignment(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {**SIZES, "intermediate_size": 128, "num_attention_heads": 4}
    pair = LanguageBind(
        LanguageBindConfig(
            vision_config=LanguageBindVisionConfig(**sizes, image_size=16, patch_size=8),
            text_config=LanguageBindTextConfig(
                **sizes, vocab_size=50, max_position_embeddings=9, pooling="highest"
            ),
            projection_dim=16,
        )
    ).eval()
    torch.save(_openclip_names(pair), tmp_path / "open_clip_pytorch_model.bin")
    vision = {"width": 32, "layers": 2, "head_width": 8, "image_size": 16, "patch_size": 8}
    text = {"width": 32, "layers": 2, "heads": 4, "context_length": 9, "vocab_size": 50}
    model = {"model_cfg": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(model))
    pixels, ids = torch.randn(2, 3, 16, 16), torch.tensor([[0, 5, 6, 49], [0, 7, 49, 3]])
    found = load_encoder(tmp_path, "image")[0](pixels, ids)
    expected = pair(pixels, ids)
    torch.testing.assert_close(found.logits_per_image, expected.logits_per_image)
    torch.testing.assert_close(
        load_tower(tmp_path)(pixels).pooler_output, expected.vision_output.pooler_output
    )


# open_clip's own model in a process of its own, without torchvision, which its transforms alone need.
OPENCLIP = """
import importlib.machinery, importlib.util, json, sys, types
class Absent(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})
for name in ("", ".ops", ".ops.misc", ".transforms", ".transforms.functional"):
    module = sys.modules["torchvision" + name] = Absent("torchvision" + name)
    module.__path__, module.__spec__ = [], importlib.machinery.ModuleSpec(module.__name__, None)
sys.modules["transformers"] = None
places = list(importlib.util.find_spec("open_clip").submodule_search_locations)
package = sys.modules["open_clip"] = types.ModuleType("open_clip")
package.__path__ = places
import torch
from open_clip import model
kind, quick, folder = sys.argv[1], sys.argv[2] == "quick_gelu", sys.argv[3]
torch.manual_seed(0)
shape = {
    "embed_dim": 24, "quick_gelu": quick, "custom_text": kind != "CLIP",
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 100, "width": 32, "heads": 2, "layers": 2},
}
made = {name: value for name, value in shape.items() if name != "custom_text"}
clip = getattr(model, kind)(**made).eval()
pixels, ids = torch.randn(3, 3, 32, 32), torch.randint(1, 98, (3, 16))
ids[:, 9], ids[:, 10:] = 99, 0
with torch.no_grad():
    found = clip.encode_image(pixels, normalize=True), clip.encode_text(ids, normalize=True)
torch.save(clip.state_dict(), folder + "/open_clip_pytorch_model.bin")
torch.save((pixels, ids, *found), folder + "/case.pt")
with open(folder + "/open_clip_config.json", "w") as file:
    json.dump({"model_cfg": shape, "preprocess_cfg": {}}, file)
"""


@pytest.mark.parametrize(("kind", "act"), [("CLIP", "quick_gelu"), ("CustomTextCLIP", "gelu")])
def test_openclips_own_models_are_read_as_they_compute(tmp_path: Path, kind: str, act: str) -> None:
    if importlib.util.find_spec("open_clip") is None:
        pytest.skip("open_clip_torch is not installed: pip install --no-deps open_clip_torch")
    subprocess.run([sys.executable, "-c", OPENCLIP, kind, act, str(tmp_path)], check=True)
    pixels, ids, images, texts = torch.load(tmp_path / "case.pt")
    (tmp_path / "case.pt").unlink()
    pair, _ = load_encoder(tmp_path)
    with torch.no_grad():
        found = pair(pixel_values=pixels, input_ids=ids)
    torch.testing.assert_close(found.image_embeds, images, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.text_embeds, texts, rtol=0, atol=1e-6)


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    """A Llama of two layers with a byte-level tokenizer, as llama.cpp stores it."""
    writer_of = pytest.importorskip("gguf", reason="the gguf package is not installed")
    generator = torch.Generator().manual_seed(0)
    file = tmp_path / "tiny.gguf"
    writer = writer_of.GGUFWriter(file, "llama")
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(8)
    tokens = ["<unk>", "<s>", "</s>", "a", "b", "c", "Ġ", "ab", "ca"]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([2, 3, 3, 1, 1, 1, 1, 1, 1])
    writer.add_token_merges(["a b", "c a"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    shapes = {"token_embd": (9, 32), "output_norm": (32,), "output": (9, 32)}
    for layer in range(2):
        names = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32)}
        names |= {
            "ffn_gate": (64, 32),
            "ffn_up": (64, 32),
            "ffn_down": (32, 64),
            "attn_norm": (32,),
            "ffn_norm": (32,),
        }
        shapes |= {f"blk.{layer}.{name}": size for name, size in names.items()}
    for name, size in shapes.items():
        writer.add_tensor(f"{name}.weight", torch.randn(size, generator=generator).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_a_gguf_file_is_a_language_model(gguf: Path) -> None:
    model, tokenizer = load_language_model(gguf)
    assert model.config.model_type == "llama"
    assert model.config.num_key_value_heads == 2
    assert tokenizer.convert_ids_to_tokens(tokenizer("abc", add_special_tokens=False)["input_ids"]) == [
        "ab",
        "c",
    ]
    rows = [torch.tensor([1, 3, 4]), torch.tensor([1, 7, 5, 6])]
    # The file's weights are drawn large: in float32 their rounding, which depends on threads, would show.
    model = model.double()
    packed = model(torch.cat(rows)[None], **packed_kwargs([3, 4])).logits[0]
    alone = torch.cat([model(row[None]).logits[0] for row in rows])
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-10)


def test_a_gguf_model_is_saved_as_any_other(gguf: Path, tmp_path: Path) -> None:
    """transformers calls it quantised, and would neither save it nor let it learn."""
    model, tokenizer = load_language_model(gguf)
    model.save_pretrained(tmp_path / "language")
    tokenizer.save_pretrained(tmp_path / "language")
    assert "quantization_config" not in (tmp_path / "language/config.json").read_text()
    again, _ = load_language_model(tmp_path / "language")
    ids = torch.arange(9)[None]
    assert torch.equal(again(ids).logits, model(ids).logits)


def test_a_package_may_ship_the_gguf_file(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shipped_llm").mkdir()
    (tmp_path / "shipped_llm/__init__.py").touch()
    gguf.rename(tmp_path / "shipped_llm/model.gguf")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_language_model("package:shipped-llm") == (str(tmp_path / "shipped_llm"), "model.gguf")
    with pytest.raises(InputError, match="package:absent-llm: this package is not installed"):
        find_language_model("package:absent-llm")
    sys.modules.pop("shipped_llm", None)


def test_language_models_are_found_or_refused(tmp_path: Path) -> None:
    assert find_language_model("lmsys/vicuna-7b-v1.5") == ("lmsys/vicuna-7b-v1.5", None)
    with pytest.raises(InputError, match="no such folder, and not a hub id"):
        find_language_model("/nowhere/vicuna")
    with pytest.raises(InputError, match="no such GGUF file"):
        find_language_model(tmp_path / "x.gguf")
    for name in ("a", "b"):
        (tmp_path / f"{name}.gguf").touch()
    with pytest.raises(InputError, match="holds 2 GGUF files; name one"):
        find_language_model(tmp_path)


def test_a_folder_that_is_no_llama_is_refused(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2))
    (tmp_path / "config.json").write_text(
        json.dumps(model.config.to_dict() | {"architectures": ["GPT2LMHeadModel"]})
    )
    save_file(
        {n: t.clone() for n, t in model.state_dict().items() if n != "lm_head.weight"},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(InputError, match=r"cannot be loaded|Llama architectures alone"):
        load_language_model(tmp_path)
