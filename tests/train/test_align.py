"""Alignment: captions are encoded once for all steps."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from equality import FLOAT32
from torch import Tensor

from videollava.data.load.pairs import PairBatch, number_captions
from videollava.data.text.vocabulary import load_tokenizer, train_tokenizer
from videollava.model.encoders import LanguageBind, pair_config
from videollava.params import Encoder, Model
from videollava.train import align
from videollava.train.contrast.beginnings import POSITIONS
from videollava.train.contrast.losses import contrastive_loss
from videollava.train.contrast.steps import Contrast

SMALL = Encoder(width=16, layers=2, heads=2, mlp=32)
SHAPE = Model(image_size=16, patch_size=8, frames=2, embed_dim=16, vision=SMALL, text=SMALL)
CAPTIONS = [
    "a red circle",
    "a blue triangle moves left and then up",
    "a red circle",
    "a teal rectangle at the bottom",
]
ONE: Any = SimpleNamespace(ranks=1, rank=0, device=torch.device("cpu"), autocast=nullcontext, bf16=False)


def begin(folder: Path) -> tuple[LanguageBind, Any]:
    train_tokenizer(CAPTIONS, 300, folder)
    tokenizer = load_tokenizer(folder)
    tokenizer.pad_token = tokenizer.eos_token
    torch.manual_seed(0)
    pair = LanguageBind(pair_config(SHAPE, "image", len(tokenizer), POSITIONS)).train()
    pair.text_model.requires_grad_(False)
    pair.text_projection.requires_grad_(False)
    return pair, tokenizer


def gradients(pair: LanguageBind, loss: Tensor) -> dict[str, Tensor]:
    pair.zero_grad()
    loss.backward()
    return {name: weight.grad for name, weight in pair.named_parameters() if weight.grad is not None}


def test_captions_encoded_once_give_the_loss_of_captions_encoded_in_every_step_float32_1e5(
    tmp_path: Path,
) -> None:
    pair, tokenizer = begin(tmp_path)
    texts = align.encode_captions(pair, tokenizer, CAPTIONS, ONE, batch=2)
    assert len(texts) == len(set(CAPTIONS))

    both = tokenizer(CAPTIONS, padding=True, return_tensors="pt")
    ids, mask = both["input_ids"], both["attention_mask"]
    pixels = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    present = torch.ones(4, dtype=torch.bool)
    batch = PairBatch(
        0,
        ids,
        mask,
        pixels,
        number_captions(CAPTIONS),
        torch.stack([texts[c] for c in CAPTIONS]),
        present,
        [1] * 4,
    )
    once = Contrast(ONE, pair).forward(pair, batch, 1.0)

    out = pair(pixel_values=pixels, input_ids=ids, attention_mask=mask)
    anew = contrastive_loss(
        ONE, out.image_embeds, out.text_embeds, batch.captions, pair.logit_scale.exp(), present
    )
    torch.testing.assert_close(once, anew, rtol=FLOAT32, atol=1e-6)
    expected = gradients(pair, anew)
    for name, found in gradients(pair, Contrast(ONE, pair).forward(pair, batch, 1.0)).items():
        torch.testing.assert_close(found, expected.pop(name), rtol=1e-4, atol=1e-6)
    assert not expected  # the same weights learn
