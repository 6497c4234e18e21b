"""Floating-point operations of training, from shapes alone: the price of a pack, of a step, and MFU.

A multiply-add is two operations. A learner's backward costs twice its forward; stage 1 needs the language
model's backward with respect to activations alone (the projector sits at its input), so one forward's worth.

Two conventions, for n tokens of a sample of which m are labels, in a model of L layers, H heads of Q dimensions, width
D, vocabulary V; f = 3, or 2 in stage 1:

- computed (`mfu`): f * (2 * W * n + 2 * L*H*Q * n^2 + 2 * (M + D*V) * m). W: the weights of the layers' matrices but
  for M, those of the last layer's MLP. What this software really multiplies: no embeddings (they are looked up), the
  last MLP and the head at labels alone (model/last.py), half of the attention matrix (causal). Recomputed activations
  are not counted.
- PaLM's (`mfu_palm`): f/3 * (6 * N * n + 12 * L*H*Q * n^2), that is 6N + 12LHQT a token (PaLM, arXiv 2204.02311,
  appendix B; T is the sample's length, not the pack's). N: all weights, embeddings and head included; the whole
  attention matrix. What others mostly publish: larger, the more so the smaller the model and the fewer its labels.
  An 8B text model with 57.8 % by this (KempnerForge, one H200, 4,096 tokens) has 51.1 % by the first.

Both add the encoders' forward passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videollava.data.load.packing import Plan

__all__ = ["Prices", "encoder_flops", "language_prices", "palm_prices", "step_flops"]


@dataclass(frozen=True)
class Prices:
    """Forward FLOPs: `token` per language-model token, `square` per squared sample length, `target` per label,
    `image` and `video` per medium. `backward`: how often the forward's price the whole step is (2 or 3)."""

    token: float
    square: float
    target: float
    image: float = 0.0
    video: float = 0.0
    backward: int = 3

    def cost(
        self,
        tokens: NDArray[np.int64],
        targets: NDArray[np.int64],
        images: NDArray[np.int64],
        videos: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """FLOPs of training on each sample once."""
        length = tokens.astype(np.float64)
        language = self.token * length + self.square * length**2 + self.target * targets
        return self.backward * language + self.image * images + self.video * videos


def language_prices(config: Any) -> tuple[float, float, float]:
    """Forward FLOPs of a Llama: per token, per squared length, per token that reaches the last MLP and the head."""
    token, square, target = _prices(config)
    last = 2.0 * 3 * config.hidden_size * config.intermediate_size
    return token - last, square, target + last


def _prices(config: Any) -> tuple[float, float, float]:
    """The same where every token reaches the last MLP."""
    width, layers = config.hidden_size, config.num_hidden_layers
    head = getattr(config, "head_dim", None) or width // config.num_attention_heads
    keys = config.num_key_value_heads * head
    queries = config.num_attention_heads * head
    weights = layers * (2 * width * queries + 2 * width * keys + 3 * width * config.intermediate_size)
    # Causal: half of the n^2 scores and as many for the values.
    return 2.0 * weights, 2.0 * queries * layers, 2.0 * width * config.vocab_size


def palm_prices(config: Any) -> tuple[float, float, float]:
    """The same by PaLM's formula: N with embeddings and head at every token, attention in both directions."""
    token, square, target = _prices(config)
    tables = 1 if config.tie_word_embeddings else 2
    # One norm before attention, one before the MLP, one at the end.
    norms = 2.0 * (2 * config.num_hidden_layers + 1) * config.hidden_size
    return token + tables * target + norms, 2.0 * square, 0.0


def encoder_flops(config: Any, frames: int, feature_layer: int = -2) -> float:
    """Forward FLOPs of one medium through a vision tower, up to the layer whose features are used."""
    layers = config.num_hidden_layers + 1 + feature_layer if feature_layer < 0 else feature_layer
    width, tokens = config.hidden_size, frames * (config.patches + 1)
    spatial = 2 * (4 * width**2 + 2 * width * config.intermediate_size) * tokens
    spatial += 4 * tokens * (config.patches + 1) * width
    temporal = 2 * 4 * width**2 * tokens + 4 * tokens * frames * width if config.temporal_attention else 0
    stem = 2 * tokens * width * config.num_channels * config.patch_size**2
    return float(layers * (spatial + temporal) + stem)


def step_flops(plan: Plan, *costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """(steps, conventions) FLOPs of a plan's steps over all ranks; costs: of each sample, by each convention."""
    sums = np.concatenate([np.zeros((1, len(costs))), np.cumsum(np.stack(costs, 1)[plan.samples], 0)])
    found: NDArray[np.float64] = np.diff(sums[plan.packs[plan.steps]], axis=0)
    return found
