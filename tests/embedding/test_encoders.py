"""load_encoders, embed, similarity: held to the original's outputs, and to what may not be compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from equality import ORIGINAL
from safetensors.torch import load_file, save_file

from videollava import embed, load_encoders, similarity
from videollava.data.media.read import load_pixels
from videollava.embedding.kinds import kind_of
from videollava.errors import InputError
from videollava.model import checkpoint
from videollava.model.formats.languagebind import frames_first

PAIRS = ("image", "video", "video_no_time_attn", "depth_lora", "thermal_lora", "audio_lora")
CAPTIONS = ["Training a parakeet to climb up a ladder.", "A lion climbing a tree to catch a monkey."]


@pytest.mark.parametrize("name", PAIRS)
def test_published_folders_give_the_originals_embeddings(shared: Path, name: str) -> None:
    folder = shared / "reference" / f"languagebind_{name}"
    case = load_file(folder / "case.safetensors")
    pixels = case["pixel_values"]
    kind = name.split("_")[0]
    encoders = load_encoders(folder)
    found = encoders.encode(kind, frames_first(pixels) if pixels.ndim == 5 else pixels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, case["image_embeds"].numpy(), rtol=0, atol=ORIGINAL)
    with pytest.raises(InputError, match="holds no tokenizer"):
        embed(encoders, texts=["a lion"])


def test_genuine_media_of_five_modalities_and_a_similarity_table(shared: Path, encoder_folders: Path) -> None:
    encoders = load_encoders(encoder_folders)
    assert list(encoders.towers) == ["image", "video", "depth", "thermal", "audio"]
    media = shared / "media"
    texts = embed(encoders, texts=CAPTIONS)
    for kind, end in (
        ("image", "jpg"),
        ("video", "mp4"),
        ("depth", "png"),
        ("thermal", "jpg"),
        ("audio", "wav"),
    ):
        files = [media / kind / f"{kind}_{number}.{end}" for number in (0, 1)]
        found = embed(encoders, files=files, kind=kind)
        assert found.shape == (2, 32)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
        pair = checkpoint.load(encoder_folders / kind).model
        if kind != "audio":  # its grid is smaller than the published one, which load_pixels reads for
            with torch.no_grad():
                alone = pair.encode_vision(load_pixels(kind, files[1], 56)[None]).numpy()
            np.testing.assert_allclose(found[1:], alone, rtol=0, atol=ORIGINAL)
        table = similarity(texts, found)
        np.testing.assert_allclose(table, texts @ found.T, atol=1e-6)
        assert table.shape == (2, 2)
        assert np.abs(table).max() <= 1 + 1e-5


def test_files_of_several_kinds_stay_in_order(shared: Path, encoder_folders: Path) -> None:
    encoders = load_encoders(encoder_folders / "image", encoder_folders / "video")
    files = [
        shared / "media" / name for name in ("image/image_0.jpg", "video/video_0.mp4", "image/image_1.jpg")
    ]
    together = embed(encoders, files=files, batch=2)
    for place, file in enumerate(files):
        np.testing.assert_allclose(together[place], embed(encoders, files=[file])[0], atol=1e-5)
    with pytest.raises(InputError, match="no encoder of audio: there are image, video"):
        embed(encoders, files=[shared / "media/audio/audio_0.wav"])
    with pytest.raises(InputError, match=r"notes\.txt: its ending tells no modality"):
        embed(encoders, files=["notes.txt"])


def test_encoders_of_two_text_spaces_are_refused(shared: Path) -> None:
    reference = shared / "reference"
    with pytest.raises(InputError, match=r"bound to another text space .*37 of 37 text weights differ"):
        load_encoders(reference / "languagebind_image", reference / "languagebind_video")
    with pytest.raises(InputError, match="device 'tpu': not on this machine"):
        load_encoders(reference / "languagebind_image", device="tpu")
    with pytest.raises(InputError, match="a second encoder of image"):
        load_encoders(reference / "languagebind_image", reference / "languagebind_image")
    with pytest.raises(InputError, match="an encoder of video, where one of depth is needed"):
        load_encoders(f"depth={reference / 'languagebind_video'}")


def test_an_encoder_of_pictures_serves_other_modalities_when_it_is_said(shared: Path) -> None:
    folder = shared / "reference/languagebind_image"
    encoders = load_encoders(folder, {"depth": folder}, f"video={folder}")
    assert set(encoders.towers) == {"image", "depth", "video"}
    assert len({tower.hash for tower in encoders.towers.values()}) == 1
    clip = embed(encoders, files=[shared / "media/video/video_0.mp4"])
    assert clip.shape == (1, 32)


def test_the_same_text_gives_the_same_vector_alone_and_padded(encoder_folders: Path) -> None:
    encoders = load_encoders(encoder_folders / "image")
    both = embed(encoders, texts=["a lion", "a lion climbing"])
    np.testing.assert_allclose(both[:1], embed(encoders, texts=["a lion"]), atol=1e-6)
    with pytest.raises(InputError, match="a text is empty"):
        embed(encoders, texts=["a lion", " "])
    with pytest.raises(InputError, match="give files, or texts"):
        embed(encoders)


@pytest.mark.parametrize("named", ["CLIPTokenizer", "LanguageBindImageTokenizer", None])
def test_clips_words_are_read_whatever_class_a_folder_names(
    shared: Path, tmp_path: Path, named: str | None
) -> None:
    """The published folders have vocab.json and merges.txt; LanguageBind's own class is not transformers'."""
    from tokenizers.pre_tokenizers import ByteLevel

    source = shared / "reference/languagebind_image"
    for name in ("config.json", "model.safetensors"):
        shutil.copy(source / name, tmp_path)
    words = [*sorted(ByteLevel.alphabet())[:100], "l", "i", "li", "n</w>", "on</w>", "a</w>", "o"]
    words = [*dict.fromkeys(words), "<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nl i\no n</w>\n")
    ends = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    config = {**ends, "pad_token": "<|endoftext|>", **({"tokenizer_class": named} if named else {})}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = checkpoint.load(tmp_path)
    number = {word: place for place, word in enumerate(words)}
    expected = [number[w] for w in ("<|startoftext|>", "a</w>", "li", "on</w>", "<|endoftext|>")]
    assert loaded.tokenizer("A Lion")["input_ids"] == expected
    assert embed(load_encoders(tmp_path), texts=["a lion"]).shape == (1, 32)


def test_weights_of_another_type_are_the_same_space_where_their_values_are(
    shared: Path, tmp_path: Path
) -> None:
    source = shared / "reference/languagebind_image"
    weights = {name: t.half() for name, t in load_file(source / "model.safetensors").items()}
    for name, type_ in (("half", torch.float16), ("whole", torch.float32)):
        (tmp_path / name).mkdir()
        shutil.copy(source / "config.json", tmp_path / name)
        save_file({n: t.to(type_) for n, t in weights.items()}, tmp_path / name / "model.safetensors")
    assert load_encoders(tmp_path / "half").space == load_encoders(tmp_path / "whole").space


def test_grey_in_16_bits_is_depth_without_being_told(tmp_path: Path) -> None:
    """Eight bits, colours, broken and missing files go by their endings; what is said goes before."""
    from PIL import Image

    deep = np.full((4, 4), 1500, np.uint16)
    for name in ("far.png", "far.tif"):
        Image.fromarray(deep).save(tmp_path / name)
        assert kind_of(tmp_path / name) == "depth"
    Image.fromarray(deep.astype(np.uint8)).save(tmp_path / "grey.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.tiff")
    (tmp_path / "broken.png").write_bytes((tmp_path / "far.png").read_bytes()[:20])
    (tmp_path / "broken.tif").write_bytes(b"II*\0 no more")
    for name in ("grey.png", "photo.tiff", "broken.png", "broken.tif", "missing.png"):
        assert kind_of(tmp_path / name) == "image"
    Image.fromarray(deep).save(tmp_path / "warm.thermal.png")
    assert kind_of(tmp_path / "warm.thermal.png") == "thermal"
