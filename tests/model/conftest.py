"""Tiny models with random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from videollava.model.config import VideoLlavaConfig, language_config, model_config
from videollava.model.video_llava import ATTENTION, VideoLlavaForConditionalGeneration
from videollava.params import Encoder, Language, Model

VOCABULARY = 64
SHAPE = Model(
    image_size=16,
    patch_size=8,
    frames=4,
    embed_dim=16,
    vision=Encoder(width=32, layers=3, heads=2, mlp=48),
    text=Encoder(width=24, layers=2, heads=2, mlp=48),
    language=Language(width=48, layers=2, heads=4, mlp=64, positions=256),
)


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small lose many times their own time where threads wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shape() -> Model:
    return SHAPE


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    """make_model(temporal=True, tied=False, **config fields): seeded, in evaluation mode."""

    def make(temporal: bool = True, tied: bool = False, **fields: Any) -> Any:
        torch.manual_seed(0)
        text = language_config(SHAPE.language, VOCABULARY, bos_token_id=1, eos_token_id=2, pad_token_id=0)
        text.num_key_value_heads = 2
        text.tie_word_embeddings = tied
        config = model_config(SHAPE, text)
        config.video_config.temporal_attention = temporal
        config = VideoLlavaConfig(**{**config.to_dict(), "tie_word_embeddings": tied, **fields})
        model = VideoLlavaForConditionalGeneration._from_config(config, attn_implementation=ATTENTION)
        with torch.no_grad():  # far enough from zero for differences to show
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        return model.eval()

    return make


@pytest.fixture
def model(make_model: Callable[..., Any]) -> Any:
    return make_model()


@pytest.fixture
def tokenizer() -> Any:
    """One id a letter."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ.,?!:\n'-"]
    inner = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(letters[:VOCABULARY])}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )


@pytest.fixture
def saved(model: Any, tokenizer: Any, tmp_path: Path) -> Path:
    """The tiny model in a folder of our format."""
    from videollava.model import checkpoint

    return checkpoint.save(model, tokenizer, tmp_path / "saved")
