"""Encoders of five modalities that share a text tower: the reference's, with one of their text towers in all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from videollava.data.text.vocabulary import train_tokenizer

NAMES = {
    "image": "image",
    "video": "video",
    "depth": "depth_lora",
    "thermal": "thermal_lora",
    "audio": "audio_lora",
}
CAPTIONS = ("Training a parakeet to climb up a ladder.", "A lion climbing a tree to catch a monkey.")


@pytest.fixture(scope="session")
def encoder_folders(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five, named by their modality, each with a tokenizer."""
    root = tmp_path_factory.mktemp("encoders")
    reference = shared / "reference"
    text = load_file(reference / "languagebind_image/model.safetensors")
    text = {name: tensor for name, tensor in text.items() if name.startswith("text_")}
    for kind, name in NAMES.items():
        source = reference / f"languagebind_{name}"
        (root / kind).mkdir()
        shutil.copy(source / "config.json", root / kind)
        save_file({**load_file(source / "model.safetensors"), **text}, root / kind / "model.safetensors")
        train_tokenizer(CAPTIONS, 300, root / kind)
    return root
