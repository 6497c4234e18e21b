"""Folders as LanguageBind publishes them, of all five kinds: `align` begins with what the original computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from equality import ORIGINAL
from micro import MACHINE, micro
from safetensors.torch import load_file
from torch import Tensor

from videollava.data.modalities import KINDS
from videollava.data.text.vocabulary import train_tokenizer
from videollava.embedding.encoders import load_encoders
from videollava.errors import InputError
from videollava.model.encoders import LanguageBind
from videollava.model.formats.languagebind import frames_first
from videollava.origin import Pins
from videollava.params import Params
from videollava.train import align
from videollava.train.contrast.beginnings import begin_image, begin_other, begin_video, take_language

NAMES = {
    "image": "image",
    "video": "video",
    **{kind: f"{kind}_lora" for kind in ("depth", "thermal", "audio")},
}
SHAPE = (
    "model.image_size=56",
    "model.patch_size=14",
    "model.frames=8",
    "model.embed_dim=32",
    "model.audio_bins=28",
    "model.audio_frames=70",
    "model.vision={width: 64, layers: 4, heads: 4, mlp: 128}",
)


@pytest.fixture(scope="module")
def published(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By kind: config.json as published, pytorch_model.bin with the buffers of its time, LoRA beside what it adapts."""
    root = tmp_path_factory.mktemp("published")
    reference = shared / "reference"
    texts = load_file(reference / "languagebind_image/model.safetensors")
    texts = {name: tensor for name, tensor in texts.items() if name.startswith("text_")}
    for kind, name in NAMES.items():
        weights = load_file(reference / f"languagebind_{name}/model.safetensors") | texts
        for part in ("vision_model", "text_model"):
            places = weights.get(f"{part}.embeddings.position_embedding.weight", torch.zeros(17, 1))
            weights[f"{part}.embeddings.position_ids"] = torch.arange(len(places))[None]
        folder = root / kind
        folder.mkdir()
        (folder / "config.json").write_text((reference / f"languagebind_{name}/config.json").read_text())
        torch.save(weights, folder / "pytorch_model.bin")
        train_tokenizer(("a lion climbs a tree", "a parakeet on a ladder"), 300, folder)
    return root


def recipe(published: Path, *changes: str) -> Params:
    """Micro parameters in the encoders' shape, with all five named; changes take the place of what they change."""
    towers = ", ".join(f"{kind}: {{encoder: {published / kind}, epochs: 0}}" for kind in KINDS[2:])
    items = (
        *SHAPE,
        *(f"bases.{kind}_encoder={published / kind}" for kind in KINDS[:2]),
        f"align.language={published / 'image'}",
        f"align.towers={{{towers}}}",
    )
    changed = {change.partition("=")[0] for change in changes}
    return micro(*(item for item in items if item.partition("=")[0] not in changed), *changes)


def case(shared: Path, kind: str) -> tuple[Tensor, Tensor]:
    """Pixels as ours are, and the original's embeddings."""
    found = load_file(shared / f"reference/languagebind_{NAMES[kind]}/case.safetensors")
    pixels = found["pixel_values"]
    return frames_first(pixels) if pixels.ndim == 5 else pixels, found["image_embeds"]


@torch.no_grad()
def check(pair: LanguageBind, shared: Path, kind: str) -> None:
    pixels, expected = case(shared, kind)
    torch.testing.assert_close(pair.eval()(pixel_values=pixels).image_embeds, expected, rtol=0, atol=ORIGINAL)


def test_all_five_load_into_one_space(shared: Path, published: Path) -> None:
    encoders = load_encoders(*(published / kind for kind in KINDS), device="cpu")
    assert list(encoders.towers) == list(KINDS)
    for kind in KINDS:
        pixels, expected = case(shared, kind)
        torch.testing.assert_close(
            torch.from_numpy(encoders.encode(kind, pixels)), expected, rtol=0, atol=ORIGINAL
        )


def test_align_begins_with_each_as_it_is(shared: Path, published: Path, tmp_path: Path) -> None:
    params = recipe(published)
    given, tokenizer = take_language(params.align.language, Pins(tmp_path, "align"))
    image = begin_image(params, tokenizer, params.bases.image_encoder, given)
    check(image, shared, "image")
    check(begin_video(params, tokenizer, image, params.bases.video_encoder), shared, "video")
    for kind, tower in params.align.towers.items():
        pair = begin_other(params, kind, tokenizer, image, tower.encoder)
        check(pair, shared, kind)
        assert torch.equal(pair.text_projection.weight, given.text_projection.weight)


def test_another_text_space_keeps_the_projection_of_its_own(published: Path, tmp_path: Path) -> None:
    """A language encoder that is learned here: only what sees is taken."""
    params = recipe(published, "align.language=learned")
    _, tokenizer = take_language(str(published / "image"), Pins(tmp_path, "align"))
    image = begin_image(params, tokenizer, params.bases.image_encoder, None)
    video = begin_video(params, tokenizer, image, params.bases.video_encoder)
    assert torch.equal(video.visual_projection.weight, image.visual_projection.weight)
    taken = torch.load(published / "video/pytorch_model.bin")
    name = "encoder.layers.1.temporal_attn.out_proj.weight"
    assert torch.equal(video.vision_model.state_dict()[name], taken[f"vision_model.{name}"])


def test_they_are_taken_as_they_are(shared: Path, published: Path, tmp_path: Path) -> None:
    params = recipe(published, "align.train=false")
    align.run(params, tmp_path, MACHINE)
    encoders = load_encoders(tmp_path / "models/encoders", device="cpu")
    for kind in KINDS:
        pixels, expected = case(shared, kind)
        found: Any = torch.from_numpy(encoders.encode(kind, pixels))
        torch.testing.assert_close(found, expected, rtol=0, atol=ORIGINAL)


def test_what_sees_keeps_the_activation_that_it_learned_with(published: Path, tmp_path: Path) -> None:
    """OpenAI's CLIP has quick_gelu, which no parameter says; whoever begins as its encoder of pictures has it too."""
    folder = tmp_path / "quick"
    folder.mkdir()
    config = json.loads((published / "image/config.json").read_text())
    config["vision_config"]["hidden_act"] = "quick_gelu"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "pytorch_model.bin").symlink_to(published / "image/pytorch_model.bin")
    params = recipe(published, f"bases.image_encoder={folder}", 'bases.video_encoder=""')
    given, tokenizer = take_language(params.align.language, Pins(tmp_path, "align"))
    image = begin_image(params, tokenizer, str(folder), given)
    pairs = [image, begin_video(params, tokenizer, image), begin_other(params, "depth", tokenizer, image, "")]
    assert [pair.config.vision_config.hidden_act for pair in pairs] == ["quick_gelu"] * 3
    pixels = torch.randint(0, 256, (2, 3, 56, 56), dtype=torch.uint8)
    with torch.no_grad():
        seen = image.eval()(pixel_values=pixels).image_embeds
    taken = load_encoders(folder, device="cpu").encode("image", pixels)
    torch.testing.assert_close(seen, torch.from_numpy(taken), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("model.frames=4", r"bases\.video_encoder: .* is not as `model` describes encoders: .*temporal"),
        ("model.temporal_attention=false", r"bases\.video_encoder: .*: it has .*temporal.* more\)"),
        (
            "model.vision={width: 32, layers: 4, heads: 4, mlp: 128}",
            r"bases\.image_encoder: .* size mismatch",
        ),
        ("model.vision={width: 64, layers: 5, heads: 4, mlp: 128}", r"bases\.image_encoder: .*: it lacks "),
    ],
)
def test_encoders_of_another_shape_name_their_key(
    published: Path, tmp_path: Path, change: str, told: str
) -> None:
    params = recipe(published, change)
    video = params.bases.video_encoder
    given, tokenizer = take_language(params.align.language, Pins(tmp_path, "align"))
    with pytest.raises(InputError, match=told):
        begin_video(
            params, tokenizer, begin_image(params, tokenizer, params.bases.image_encoder, given), video
        )
