"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

TEXTS = (
    "what color is the shape?",
    "is there a red circle? yes, no",
    "which way does it move?",
)  # what the micro model's tokenizer is made of


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of genuine annotation files, reference tensors and media beside the checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(
            "../shared (genuine annotation files, reference tensors, media) is not beside this checkout"
        )
    return folder


@pytest.fixture
def mentions() -> Callable[[str], list[int]]:
    """Processes whose command line or working directory mentions a text."""

    def find(text: str) -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    line = (entry / "cmdline").read_bytes().decode(errors="replace")
                    where = os.readlink(entry / "cwd")
                    state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
                except OSError:
                    continue
                if state != "Z" and (text in line or text in where):
                    found.append(int(entry.name))
        return found

    return find


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a micro model: its weights are random, its answers are of no matter but differ between media."""
    import torch
    from transformers import AutoTokenizer

    from videollava.data.text.vocabulary import train_tokenizer
    from videollava.model import checkpoint
    from videollava.model.config import language_config, model_config
    from videollava.model.video_llava import ATTENTION, VideoLlavaForConditionalGeneration
    from videollava.params import Encoder, Language, Model

    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TEXTS, 300, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    shape = Model(
        image_size=16,
        patch_size=8,
        frames=4,
        vision=Encoder(width=32, layers=2, heads=2, mlp=48),
        language=Language(width=48, layers=2, heads=4, mlp=64, positions=1024),
    )
    torch.manual_seed(7)
    text = language_config(shape.language, len(tokenizer), bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model = VideoLlavaForConditionalGeneration._from_config(
        model_config(shape, text), attn_implementation=ATTENTION
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return checkpoint.save(model.eval(), tokenizer, tmp_path_factory.mktemp("model") / "videollava")
