"""Answers of a model whose language model is held in 4 or 8 bits by bitsandbytes: its own, near the whole one's."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from videollava.evaluate.batches import Sample
from videollava.evaluate.generate import generate_each
from videollava.model import checkpoint
from videollava.model.config import language_config, model_config
from videollava.model.video_llava import ATTENTION, VideoLlavaForConditionalGeneration
from videollava.params import Encoder, Language, Model

# bitsandbytes goes by blocks of 64.
SHAPE = Model(
    image_size=16,
    patch_size=8,
    frames=2,
    embed_dim=16,
    vision=Encoder(width=32, layers=2, heads=2, mlp=48),
    language=Language(width=64, layers=2, heads=4, mlp=128, positions=256),
)
VOCABULARY, NEW = 60, 6
TOKENIZER = SimpleNamespace(eos_token_id=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = model_config(SHAPE, language_config(SHAPE.language, VOCABULARY))
    model = VideoLlavaForConditionalGeneration._from_config(config, attn_implementation=ATTENTION)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return checkpoint.save(model, None, tmp_path_factory.mktemp("quantised") / "m")


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    torch.manual_seed(1)
    picture = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    clip = torch.randint(0, 256, (SHAPE.frames, 3, 16, 16), dtype=torch.uint8)
    return [
        Sample([3, *[VOCABULARY] * SHAPE.image_tokens, 5, 6], images=[picture]),
        Sample([3, *[VOCABULARY + 1] * SHAPE.video_tokens, 7], videos=[clip]),
        Sample([3, 9, 11, 12]),
    ]


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_it_answers_as_transformers_generates(folder: Path, samples: list[Sample], bits: Any) -> None:
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    model = checkpoint.load(folder, quantize=bits).model
    for sample in samples:
        media = {}
        if sample.images:
            media["pixel_values_images"] = torch.stack(list(sample.images))
        if sample.videos:
            media["pixel_values_videos"] = torch.stack(list(sample.videos))
        ids = torch.tensor([sample.prompt_ids])
        theirs = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=2,
            pad_token_id=0,
            **media,
        )
        ((_, ours),) = generate_each(model, TOKENIZER, [sample], NEW)
        assert ours == theirs[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize(("bits", "least"), [("4bit", 0.95), ("8bit", 0.999)])
def test_it_is_smaller_and_near_the_whole_model(folder: Path, bits: Any, least: float) -> None:
    whole, small = (checkpoint.load(folder, quantize=how).model for how in (None, bits))
    sizes = [
        sum(p.numel() * p.element_size() for p in model.model.language_model.layers.parameters())
        for model in (whole, small)
    ]
    assert sizes[1] < (0.16 if bits == "4bit" else 0.3) * sizes[0]
    ids = torch.tensor([[3, 9, 11, 12]])
    with torch.no_grad():
        exact, near = (model(input_ids=ids).logits.flatten() for model in (whole, small))
    assert not torch.equal(near, exact)
    assert torch.nn.functional.cosine_similarity(near, exact, dim=0) > least


def test_products_are_made_in_the_type_that_is_asked_for(folder: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model = checkpoint.load(folder, dtype=dtype, quantize="4bit").model
        linear = model.model.language_model.layers[0].mlp.up_proj
        assert linear.compute_dtype == dtype
        assert model.lm_head.weight.dtype == dtype
