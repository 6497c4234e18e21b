"""The formula of activations against autograd's own account of what it keeps for the backward pass.

Attention is one that keeps what flash attention keeps: queries, keys, values and its output. (On a CPU ours keeps its
scores too, which the formula, made for GPUs, rightly leaves out.)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from videollava.data.load.batches import Batch
from videollava.machine import Work
from videollava.model import attention
from videollava.model.lean import keep_less
from videollava.model.video_llava import (
    ATTENTION,
    VideoLlavaForConditionalGeneration,
    language_config,
    model_config,
)
from videollava.params import Encoder, Language, Model, Train
from videollava.train.engine.ranks import Ranks
from videollava.train.engine.sharding import is_shard, lay_mesh, shard
from videollava.train.instruct import choose_learners, forward
from videollava.train.memory import Weights, footprint, pack_bytes
from videollava.train.planning.shape import weights_of
from videollava.train.recompute import recompute_layers

TOKENS, TARGETS, VOCABULARY = 600, 150, 1000
SHAPE = Model(
    image_size=16,
    patch_size=8,
    frames=8,
    vision=Encoder(width=32, layers=2, heads=2, mlp=64),
    language=Language(width=128, layers=2, heads=4, mlp=352, positions=1024),
)


class Flash(torch.autograd.Function):
    """Attention that keeps its inputs and output."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...], scale: float) -> Tensor:
        out = attention._attend_grouped(q, k, v, lengths, scale, 0.0)
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return grad, grad, grad, None, None


def flash(q: Tensor, k: Tensor, v: Tensor, ends: Tensor, *options: Any) -> Tensor:
    lengths = tuple(b - a for a, b in itertools.pairwise(ends.tolist()))
    return Flash.apply(q, k, v, lengths, options[1])


def batch() -> Batch:
    """Four conversations of equal length with an image each; the last tokens of each are learned."""
    length, visual = TOKENS // 4, SHAPE.image_tokens
    ids = torch.randint(3, VOCABULARY, (4, length), generator=torch.Generator().manual_seed(0))
    ids[:, 1 : 1 + visual] = VOCABULARY
    labels = ids.clone()
    labels[:, : length - TARGETS // 4] = -100
    features = torch.randn(4, visual, SHAPE.vision.width)
    return Batch(
        0,
        ids.reshape(1, -1),
        labels.reshape(1, -1),
        torch.arange(length).repeat(4)[None],
        [length] * 4,
        image_features=features,
    )


def kept(model: Any, settings: Train, strategy: str) -> int:
    """Bytes that a forward pass keeps, weights and autocast's copies of them left out."""
    sizes = {p.numel() for p in model.parameters()}
    storages: dict[int, int] = {}
    held = []

    def pack(tensor: Tensor) -> Tensor:
        held.append(tensor)
        storage = tensor.untyped_storage()
        if storage.nbytes() // tensor.element_size() not in sizes:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    autocast = settings.precision == "bf16" and strategy == "replicated"
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        loss = forward(model, batch(), 1.0)
    assert torch.isfinite(loss)
    return sum(storages.values())


def make(settings: Train, work: Work, language_learns: bool, layers: int) -> Any:
    torch.manual_seed(0)
    language = SHAPE.language.replace(layers=layers)
    config = model_config(SHAPE, language_config(language, VOCABULARY))
    model = VideoLlavaForConditionalGeneration._from_config(config, attn_implementation=ATTENTION)
    choose_learners(model, settings, language_learns)
    keep_less(model.model.language_model)
    recompute_layers(model.model.language_model, work)
    if settings.precision == "bf16" and work.strategy != "replicated":
        model.to(torch.bfloat16)
    elif settings.precision == "bf16" and not language_learns:
        model.model.language_model.to(torch.bfloat16)
        model.lm_head.to(torch.bfloat16)
    return model.train()


@pytest.mark.parametrize("language_learns", [True, False])
@pytest.mark.parametrize("recompute", [False, True, 1])
@pytest.mark.parametrize(
    ("precision", "strategy"), [("fp32", "replicated"), ("bf16", "zero2"), ("bf16", "replicated")]
)
def test_activations_are_what_autograd_keeps(
    monkeypatch: pytest.MonkeyPatch,
    precision: Any,
    strategy: Any,
    recompute: bool | int,
    language_learns: bool,
) -> None:
    monkeypatch.setattr(attention, "attend_packed", flash)
    settings, work = Train(precision=precision), Work(strategy=strategy, recompute=recompute)
    found, predicted = [], []
    for layers in (2, 5):
        model = make(settings, work, language_learns, layers)
        token, target = pack_bytes(model.config.text_config, settings, work, language_learns)
        found.append(kept(model, settings, strategy))
        predicted.append(token * TOKENS + target * TARGETS)
    # Layer by layer it is exact; what comes before and after the layers has its temporaries counted too.
    assert found[1] - found[0] == pytest.approx(predicted[1] - predicted[0], rel=0.01)
    assert found[1] < predicted[1]


@pytest.fixture
def four_ranks() -> Iterator[Ranks]:
    """This process as one of four, whose exchanges do nothing."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", rank=0, world_size=4, store=FakeStore())
    yield Ranks(0, 4, 4)
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("language_learns", [True, False])
@pytest.mark.parametrize("recompute", [False, True, 1])
def test_a_shard_is_held_and_a_layer_gathered_at_a_time(
    monkeypatch: pytest.MonkeyPatch, four_ranks: Ranks, recompute: bool | int, language_learns: bool
) -> None:
    """Our own sharding, in bfloat16: what a rank holds and keeps, and what of it is alive between two layers."""
    monkeypatch.setattr(attention, "attend_packed", flash)
    settings, work = Train(precision="bf16"), Work(strategy="sharded", recompute=recompute)
    found, predicted = [], []
    for layers in (2, 5):
        model = make(settings, work.replace(strategy="replicated"), language_learns, layers)
        weights = weights_of(model, settings, language_learns)
        encoders = [model.model.image_tower, model.model.video_tower]
        for encoder in encoders:
            encoder.to(torch.bfloat16)
        shard(model, lay_mesh("sharded", four_ranks), True, encoders)
        need = footprint(weights, model.config, settings, work, language_learns, 4, TOKENS, TARGETS)
        held = sum((p.to_local() if is_shard(p) else p).nbytes for p in model.parameters())
        compute, shown = 2, 4 if language_learns else 2
        gathered = 2 * compute * max(weights.layer, weights.head) + shown * weights.table
        assert held == pytest.approx(need.weights - gathered, rel=0.01)
        alive = watch_gathered(model, encoders)
        token, target = pack_bytes(model.config.text_config, settings, work, language_learns)
        found.append(kept(model, settings, "replicated"))
        predicted.append(token * TOKENS + target * TARGETS)
        # One layer, the table, the projector and the last norm; the formula has a layer more, which may be on its way.
        projector = sum(p.numel() for p in model.model.multi_modal_projector.parameters())
        rest = 4 * projector + shown * SHAPE.language.width
        assert alive == [2 * weights.layer + shown * weights.table + rest] * layers
        assert max(alive) < gathered + rest
    assert found[1] - found[0] == pytest.approx(predicted[1] - predicted[0], rel=0.01)


def watch_gathered(model: Any, encoders: list[Any]) -> list[int]:
    """Filled in while the model runs: bytes of gathered weights that are alive in each decoder layer."""
    alive: list[int] = []
    apart = {id(p) for encoder in encoders for p in encoder.parameters()}

    def look(*_: Any) -> None:
        whole = [p for p in model.parameters() if not is_shard(p) and id(p) not in apart]
        alive.append(sum(p.nbytes for p in whole))

    for layer in model.model.language_model.layers:
        layer.self_attn.register_forward_pre_hook(look)
    return alive


def test_a_full_7b_needs_its_eighteen_bytes_a_weight() -> None:
    """AdamW in mixed precision: 4 + 2 + 4 + 8 bytes a weight that learns, so 7B fit no single GPU unsharded."""
    config = model_config(SHAPE, language_config(SHAPE.language, VOCABULARY))
    weights, settings = Weights(7_000_000_000, 0), Train(precision="bf16")
    need = footprint(weights, config, settings, Work(), True, 1, 8192, 2000)
    assert need.weights + need.gradients + need.optimizer == pytest.approx(18 * 7e9)
    spread = footprint(weights, config, settings, Work(strategy="zero3"), True, 8, 8192, 2000)
    assert spread.total < need.total / 4
