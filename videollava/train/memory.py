"""Bytes of GPU memory that training takes, from shapes alone: weights, gradients, optimizer, activations.

Counted is what a Llama keeps for the backward pass (tests/train/test_memory.py holds the formula against autograd's
own account), AdamW's state, and what sharding leaves of these on each GPU: torch's, with what is gathered
of two layers and of the head at once, and DeepSpeed's stages with their buckets.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from videollava.machine import Work
from videollava.params import Train
from videollava.train.gpus import GIB

__all__ = ["Footprint", "Weights", "footprint", "pack_bytes"]

CONTEXT = 1.2 * GIB  # CUDA, cuBLAS and NCCL of a process
SLACK = 1.04  # the allocator's holes
QUANTIZED = 0.56  # bytes of a 4-bit weight with its scales
# infra/deepspeed: two buffers of a reduce bucket, one of an all-gather bucket, weights alive at once (ZeRO-3).
BUCKETS = {"zero2": 3 * 200e6, "zero3": 3 * 50e6}
ALIVE = 1e9


@dataclass(frozen=True)
class Weights:
    """Numbers of weights: those that learn, those that do not, and how many of these are held in 4 bits.

    Where weights are sharded: whole, those (frozen) that every rank holds all the same; layer, head and table, what is
    gathered together: of one decoder layer, of the head (0: it is the table) and of the table of embeddings.
    """

    learned: int
    frozen: int
    quantized: int = 0
    whole: int = 0
    layer: int = 0
    head: int = 0
    table: int = 0


@dataclass(frozen=True)
class Footprint:
    """Bytes on one GPU at the worst pack; `host`: bytes in the machine's memory for each GPU (offloading)."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    host: float = 0.0

    @property
    def total(self) -> float:
        """What the device must have."""
        return CONTEXT + SLACK * (self.weights + self.gradients + self.optimizer + self.activations)


def footprint(
    weights: Weights,
    config: Any,
    settings: Train,
    work: Work,
    language_learns: bool,
    ranks: int,
    tokens: int,
    targets: int,
    per_node: int = 8,
) -> Footprint:
    """Predicted peak of one of `ranks` GPUs while it trains on a pack of `tokens` with `targets` labels.

    config: of the whole model; per_node: GPUs of a host.
    """
    token, target = pack_bytes(config.text_config, settings, work, language_learns)
    language = token * tokens + target * targets
    if work.strategy.startswith("zero"):
        state = _zero(weights, settings, work, ranks)
    else:
        shards = {"sharded": ranks, "sharded-node": min(ranks, per_node)}.get(work.strategy, 1)
        state = _torch(weights, settings, shards)
    # The encoders are done, and their memory free, before the language model begins.
    return dataclasses.replace(state, activations=max(language, _encoder_bytes(config, settings) * tokens))


def pack_bytes(text_config: Any, settings: Train, work: Work, language_learns: bool) -> tuple[float, float]:
    """Bytes kept for the backward pass per token of a pack, and more per target token."""
    width, mlp, layers = text_config.hidden_size, text_config.intermediate_size, text_config.num_hidden_layers
    compute = 2 if settings.precision == "bf16" else 4
    adapted = settings.adapter != "none" and language_learns
    whole = language_learns and not adapted
    # The residual stream has the embedding's type: float32 where that learns without DeepSpeed.
    stream = 4 if whole and not work.strategy.startswith("zero") else compute
    layer = _layer_bytes(width, mlp, compute, stream, whole) + (
        _adapter_bytes(width, mlp, compute) if adapted else 0
    )
    ends = (4 + 2 * stream + 4 * compute + 1) * width
    again = work.recomputed(layers)
    # Those keep their input; one at a time is computed again in full, when later ones have let go of theirs.
    kept = stream * width * again + layer * max(layers - again, 1)
    return kept + ends, (8 + compute) * text_config.vocab_size


def _layer_bytes(width: int, mlp: int, compute: int, stream: int, learned: bool) -> float:
    """Inputs of two norms, rotated queries, keys, values and output, two MLP tensors; of weights that learn, the
    outputs of the norms, which the linear layers share, and what the last one reads (model/lean.py).
    """
    kept = (2 * stream + 4 * compute) * width + 2 * compute * mlp
    return kept + (2 * compute * width + compute * mlp if learned else 0)


def _adapter_bytes(width: int, mlp: int, compute: int) -> float:
    """LoRA keeps the dropped-out input of all seven linear layers, its mask, and it in the type it computes in."""
    return (4 + compute + 1) * (6 * width + mlp)


def _encoder_bytes(config: Any, settings: Train) -> float:
    """What a frozen encoder holds at once per visual token, its pixels included."""
    if settings.cache_features:
        return 0.0
    vision = config.vision_config
    compute = 2 if settings.precision == "bf16" else 4
    pixels = (4 + compute) * vision.num_channels * vision.patch_size**2
    return float(compute * (7 * vision.hidden_size + 2 * vision.intermediate_size) + pixels)


def _torch(weights: Weights, settings: Train, shards: int) -> Footprint:
    """What learns in float32, with gradients and moments, the rest in the type that is computed in: `shards` parts."""
    compute = 2 if settings.precision == "bf16" else 4
    learned = weights.learned / shards
    apart = compute * (weights.frozen - weights.quantized - weights.whole) / shards
    held = 4 * learned + apart + compute * weights.whole + QUANTIZED * weights.quantized
    if shards == 1:
        copies = 2 * weights.learned if compute == 2 else 0  # made by autocast
        return Footprint(held + copies, 4 * learned, 8 * learned, 0)
    unit = max(weights.layer, weights.head)
    # A layer and the one after it; the table of embeddings stays gathered through a step, as it is held.
    table = (4 if weights.learned > weights.table else compute) * weights.table
    gathered = 2 * compute * unit + table
    # A layer's gradients as they are computed, and in float32 as they are sent.
    sent = min((compute + 4) * unit, 8 * weights.learned)
    return Footprint(held + gathered, 4 * learned + sent, 8 * learned, 0)


def _zero(weights: Weights, settings: Train, work: Work, ranks: int) -> Footprint:
    stage, _, offload = work.strategy.partition("-")
    compute = 2 if settings.precision == "bf16" else 4
    held = compute * (weights.learned + weights.frozen - weights.quantized) + QUANTIZED * weights.quantized
    buckets = compute * min(BUCKETS[stage], 3 * weights.learned)
    gradients, moments = compute * weights.learned / ranks, 16 * weights.learned / ranks
    if stage == "zero3":
        held, alive = held / ranks, compute * min(ALIVE, weights.learned + weights.frozen)
    else:
        alive = 0
    if not offload:
        return Footprint(held + alive, gradients + buckets, moments, 0)
    if stage == "zero3":
        return Footprint(alive, buckets, 0, 0, host=held + gradients + moments)
    return Footprint(held, gradients + buckets, 0, 0, host=moments)
