"""One real step of each stage, and a generation, on the CPU and on the pretended device: prints JSON of both.

A process of its own: the device has to be made before the first backward pass.
"""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from pretended import DEVICE, pretended, waits
from torch import nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from videollava.data.load.batches import Batch, lay_in_row
from videollava.data.load.pairs import PairBatch
from videollava.data.media.pixels import finely
from videollava.data.text.prompts import IGNORED, Encoded
from videollava.evaluate import media
from videollava.evaluate.batches import Sample
from videollava.evaluate.generate import Sampling, generate_each
from videollava.model import attention
from videollava.model.config import language_config, model_config
from videollava.model.encoders import LanguageBind, pair_config
from videollava.model.video_llava import ATTENTION, VideoLlavaForConditionalGeneration
from videollava.params import Encoder, Language, Lora, Model, Train
from videollava.train import adapters, bases, features, instruct
from videollava.train.contrast.beginnings import POSITIONS
from videollava.train.contrast.steps import Contrast

VOCABULARY = 60
NEW = 6  # tokens of an answer
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
    with torch.no_grad():  # what is made once a process is made now
        loss_of(device)
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


def run_instruct(device: torch.device | str, learns: bool, adapter: str = "none") -> dict[str, Any]:
    model = whole_model()
    torch.manual_seed(1)
    batch = packed(media=True)
    instruct.choose_learners(model, Train(precision="fp32"), learns and adapter == "none")
    if learns:
        model.model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
    if adapter != "none":
        model = adapters.add_adapter(model, Lora(r=4, alpha=8, dropout=0.0))
        for name, weight in model.named_parameters():
            if "lora_B" in name:  # of which nothing would be learned at zero
                nn.init.normal_(weight, std=0.1)
    model.to(device).train()
    return step(model, lambda _: instruct.forward(model, batch, 12.0, ("projector",)))


def run_align(device: torch.device | str, kind: str) -> dict[str, Any]:
    torch.manual_seed(0)
    pair = LanguageBind(pair_config(SHAPE, "video" if kind == "video" else "image", VOCABULARY, POSITIONS))
    pair.to(device).train()
    ids = torch.randint(3, VOCABULARY, (4, 7))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    shapes = {"image": (4, 3, 16, 16), "video": (4, SHAPE.frames, 3, 16, 16)}
    pixels = mask.roll(1, 0) if kind == "text" else stored(*shapes[kind])
    texts = F.normalize(torch.randn(4, SHAPE.embed_dim), dim=-1)
    present = torch.tensor([True, True, False, True])
    kept = None if kind == "text" else torch.tensor([[0, 3], [1, 2], [0, 1], [2, 3]])
    batch = PairBatch(0, ids, mask, pixels, torch.arange(4), texts, present, [1] * 3, kept=kept)
    engine = SimpleNamespace(ranks=1, rank=0, device=next(pair.parameters()).device)
    return step(pair, lambda _: Contrast(engine, pair).forward(pair, batch, 1.0))


def run_features(device: torch.device | str) -> dict[str, Any]:
    """What `cache_features` keeps: encoders' features back on the CPU."""
    model = whole_model().to(device).eval()
    torch.manual_seed(1)
    found = []
    for kind, shape in (("image", (3, 16, 16)), ("video", (SHAPE.frames, 3, 16, 16))):
        pixels: Any = [stored(*shape), finely(stored(*shape))]
        encoded = features._encode(model, pixels, kind, workers=0, rank=0, ranks=1)
        found += [batch.float().sum().item() for _, batch in encoded]
    return {"sums": found}


def run_evaluate(device: torch.device | str) -> dict[str, Any]:
    """The media of a window, whole and fine numbers mixed, one of them lost; a question about each."""
    model = whole_model().to(device).eval()
    torch.manual_seed(1)
    window = [("image", "a"), ("video", "b"), ("image", "c"), ("video", "d")]
    decoded = [
        stored(3, 16, 16).numpy(),
        finely(stored(SHAPE.frames, 3, 16, 16)).numpy(),
        "broken",
        stored(SHAPE.frames, 3, 16, 16).numpy(),
    ]
    with torch.no_grad():
        encoded = inspect.unwrap(media._encode_window)(model, window, iter(decoded))
        samples = [
            Sample([3, *[VOCABULARY + (kind == "video")] * len(found), 5], **{f"{kind}s": [found]})
            for (kind, _), found in encoded.features.items()
        ]
        ids = dict(inspect.unwrap(generate_each)(model, SimpleNamespace(eos_token_id=2), samples, 4))
    return {"ids": ids, "problems": list(encoded.problems.values())}


def run_generate(device: torch.device | str, at_once: int, temperature: float = 0.0) -> dict[str, Any]:
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
    answer = inspect.unwrap(generate_each)
    how = {"sampling": Sampling(temperature), "batch_tokens": at_once}
    with torch.no_grad():
        counts, answers = [], []
        for most in (NEW, NEW, NEW - 3):  # the first makes what is made once
            with waits() as counted:
                found = dict(answer(model, tokenizer, samples, most, **how))
                counts.append((Counter(counted), sum(map(len, found.values()))))
                answers.append(found)
    (longer, many), (shorter, few) = counts[1:]
    return {"ids": answers[0], "waits": dict(longer - shorter), "tokens": many - few}


def main() -> None:
    attention._kernel = as_kernels_do
    runs: dict[str, Callable[[torch.device | str], dict[str, Any]]] = {
        "bases": run_bases,
        "align-text": lambda device: run_align(device, "text"),
        "align-image": lambda device: run_align(device, "image"),
        "align-video": lambda device: run_align(device, "video"),
        "pretrain": lambda device: run_instruct(device, learns=False),
        "finetune": lambda device: run_instruct(device, learns=True),
        "lora": lambda device: run_instruct(device, learns=True, adapter="lora"),
        "features": run_features,
        "evaluate": run_evaluate,
        "generate-single": lambda device: run_generate(device, at_once=1),
        "generate-batched": lambda device: run_generate(device, at_once=10_000),
        "generate-drawn": lambda device: run_generate(device, at_once=10_000, temperature=0.7),
    }
    found = {}
    for name, run in runs.items():
        expected = run("cpu")
        with pretended() as device, patch.object(attention, "_suits_kernel", lambda q, dropout: True):
            found[name] = {"cpu": expected, DEVICE: run(device)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
