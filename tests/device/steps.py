"""One real step of each stage, and a generation, on the CPU and on the pretended device: prints JSON of both.

A process of its own: the device has to be made before the first backward pass.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from pretended import DEVICE, pretended, waits
from torch import nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from videollava.data.batches import Batch, lay_in_row
from videollava.data.pairs import PairBatch
from videollava.data.pixels import finely
from videollava.data.prompts import IGNORED, Encoded
from videollava.evaluate.batches import Sample
from videollava.evaluate.generate import generate_each
from videollava.model import attention
from videollava.model.config import language_config, model_config
from videollava.model.encoders import LanguageBind, pair_config
from videollava.model.video_llava import ATTENTION, VideoLlavaForConditionalGeneration
from videollava.params import Encoder, Language, Model, Train
from videollava.train import align, bases, instruct

VOCABULARY = 60
SHAPE = Model(
    image_size=16,
    patch_size=8,
    frames=2,
    embed_dim=16,
    vision=Encoder(width=32, layers=3, heads=2, mlp=48),
    text=Encoder(width=24, layers=2, heads=2, mlp=48),
    language=Language(width=48, layers=2, heads=4, mlp=64, positions=256),
)


def whole_model() -> Any:
    torch.manual_seed(0)
    config = model_config(SHAPE, language_config(SHAPE.language, VOCABULARY))
    return VideoLlavaForConditionalGeneration._from_config(config, attn_implementation=ATTENTION)


def packed(media: bool) -> Batch:
    """Three conversations in a row: with a picture, with a clip, with neither."""
    ids = [list(range(3, 9)), list(range(9, 20)), list(range(20, 27))]
    if media:
        ids[0][1:1] = [VOCABULARY] * SHAPE.image_tokens
        ids[1][1:1] = [VOCABULARY + 1] * SHAPE.video_tokens
    encoded = [Encoded(row, [IGNORED] * (len(row) - 4) + row[-4:]) for row in ids]
    batch = lay_in_row(0, encoded)
    if media:
        batch.image_places, batch.video_places = (
            (batch.input_ids[0] == VOCABULARY + kind).nonzero()[:, 0] for kind in (0, 1)
        )
        batch.images, batch.videos = stored(1, 3, 16, 16), finely(stored(1, SHAPE.frames, 3, 16, 16))
    return batch


def stored(*shape: int) -> torch.Tensor:
    """Pixels as workers hand them over."""
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def as_kernels_do(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, ends: torch.Tensor, longest: int, scale: float | None
) -> torch.Tensor:
    """Attention of a packed row that goes by the segments' ends on the device, as CUDA's does."""
    places = torch.arange(len(q), device=q.device)
    segment = torch.bucketize(places, ends, right=True)
    seen = (segment[:, None] == segment) & (places[:, None] >= places)
    heads = [x.transpose(0, 1)[None] for x in (q, k, v)]
    return F.scaled_dot_product_attention(*heads, attn_mask=seen, scale=scale)[0].transpose(0, 1)


def step(model: nn.Module, loss_of: Callable[[torch.device | str], torch.Tensor]) -> dict[str, Any]:
    """Loss and gradients of one step where the model is now, and the waits of the step itself."""
    device = next(model.parameters()).device
    torch.manual_seed(0)
    with waits() as counted:
        loss = loss_of(device)
        loss.backward()
        slow = dict(counted)
    grads = [p.grad.cpu().flatten() for p in model.parameters() if p.grad is not None]
    norm = torch.cat(grads).norm().item()
    model.zero_grad()
    return {"loss": float(loss.detach().cpu()), "gradient": norm, "waits": slow}


def run_bases(device: torch.device | str) -> dict[str, Any]:
    torch.manual_seed(0)
    model = LlamaForCausalLM._from_config(
        language_config(SHAPE.language, VOCABULARY), attn_implementation="varlen"
    ).to(device)
    batch = packed(media=False)
    return step(model, lambda _: bases._forward(model, batch, 12.0))


def run_instruct(device: torch.device | str, learns: bool) -> dict[str, Any]:
    model = whole_model()
    torch.manual_seed(1)
    batch = packed(media=True)
    instruct.choose_learners(model, Train(precision="fp32"), learns)
    if learns:
        model.model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
    model.to(device).train()
    return step(model, lambda _: instruct.forward(model, batch, 12.0, ("projector",)))


def run_align(device: torch.device | str) -> dict[str, Any]:
    torch.manual_seed(0)
    pair = LanguageBind(pair_config(SHAPE, "video", VOCABULARY, align.POSITIONS)).to(device).train()
    pixels = stored(4, SHAPE.frames, 3, 16, 16)
    ids = torch.randint(3, VOCABULARY, (4, 7))
    texts = torch.nn.functional.normalize(torch.randn(4, SHAPE.embed_dim), dim=-1)
    batch = PairBatch(
        0, ids, torch.ones_like(ids), pixels, torch.arange(4), texts, torch.ones(4).bool(), [1] * 4
    )
    accelerator = SimpleNamespace(num_processes=1, process_index=0, device=next(pair.parameters()).device)
    return step(pair, lambda _: align._forward(accelerator, pair, pair, batch, 1.0))


def run_generate(device: torch.device | str) -> dict[str, Any]:
    model = whole_model().to(device).eval()
    torch.manual_seed(1)
    picture, clip = stored(3, 16, 16), finely(stored(SHAPE.frames, 3, 16, 16))
    samples = [
        Sample([3, *[VOCABULARY] * SHAPE.image_tokens, 5, 6], images=[picture]),
        Sample([3, *[VOCABULARY + 1] * SHAPE.video_tokens, 7], videos=[clip]),
        Sample([3, 9, 11, 12]),
    ]
    tokenizer = SimpleNamespace(eos_token_id=2)
    # Inference mode makes views that the pretended device cannot: the same function without it.
    with torch.no_grad():
        return {"ids": dict(inspect.unwrap(generate_each)(model, tokenizer, samples, 6))}


def main() -> None:
    attention._kernel = as_kernels_do
    runs: dict[str, Callable[[torch.device | str], dict[str, Any]]] = {
        "bases": run_bases,
        "align": run_align,
        "pretrain": lambda device: run_instruct(device, learns=False),
        "finetune": lambda device: run_instruct(device, learns=True),
        "generate": run_generate,
    }
    found = {}
    for name, run in runs.items():
        expected = run("cpu")
        with pretended() as device, patch.object(attention, "_suits_kernel", lambda q, dropout: True):
            found[name] = {"cpu": expected, DEVICE: run(device)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
