"""The last layer of an encoder or a language model, computed only where somebody reads what comes out.

All tokens give keys and values there. What follows the attention, most of a layer's work, is of use at the tokens
that a head or a loss reads: one of an encoder, the learned or the newest ones of a language model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.clip.modeling_clip import (
    CLIPAttention,
    CLIPEncoderLayer,
    eager_attention_forward,
)
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

__all__ = ["LastLlamaLayer", "LastTextLayer", "read_one", "read_tokens", "spare_last", "takes_read"]


def spare_last(language_model: nn.Module) -> None:
    """Have the last layer of a Llama take `read`, in place; other models stay as they are.

    Names and values of weights do not change.
    """
    layers: Any = getattr(language_model, "layers", None)
    if layers and type(layers[-1]) is LlamaDecoderLayer:
        layers[-1].__class__ = LastLlamaLayer


def takes_read(language_model: nn.Module) -> bool:
    """Whether its forward may be given `read`."""
    layers: Any = getattr(language_model, "layers", None)
    return bool(layers) and isinstance(layers[-1], LastLlamaLayer)


class LastLlamaLayer(LlamaDecoderLayer):
    """The same layer, of the tokens that are `read` alone (`read_tokens`)."""

    def forward(self, hidden_states: Tensor, *args: Any, read: int | Tensor = 0, **kwargs: Any) -> Tensor:
        mixed, _ = self.self_attn(self.input_layernorm(hidden_states), *args, **kwargs)
        found = read_tokens(hidden_states + mixed, read)
        result: Tensor = found + self.mlp(self.post_attention_layernorm(found))
        return result


def read_tokens(hidden_BTD: Tensor, read: int | Tensor) -> Tensor:
    """int: the last ones of each row, (B, read, D); 0: all. Tensor (K,) int64: those of the flat B * T, (1, K, D)."""
    if isinstance(read, Tensor):
        return hidden_BTD.flatten(0, 1).index_select(0, read)[None]
    return hidden_BTD[:, -read:] if read else hidden_BTD


def read_one(
    layer: CLIPEncoderLayer, hidden_NLD: Tensor, places_N: Tensor | None = None, seen: Tensor | None = None
) -> Tensor:
    """A CLIP layer's output at one token of each row, (N, D); places_N (int64): which, the first where none are given.

    seen: the attention mask of those tokens, (N, 1, 1, L), as `layer` takes it of all.
    """
    normed = layer.layer_norm1(hidden_NLD)
    if places_N is None:
        one, asking = hidden_NLD[:, :1], normed[:, :1]
    else:
        places = places_N[:, None, None].expand(-1, 1, hidden_NLD.shape[-1])
        one, asking = hidden_NLD.gather(1, places), normed.gather(1, places)
    one = one + _attend(layer.self_attn, asking, normed, seen)
    return (one + layer.mlp(layer.layer_norm2(one)))[:, 0]


class LastTextLayer(CLIPEncoderLayer):
    """CLIP's layer; given `places` (N,), of those tokens alone, (N, 1, D), whose mask is given then, (N, 1, 1, L).

    A layer of its own, since what shards or recomputes layers does so where they are called.
    """

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor, places: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        if places is None:
            whole: Tensor = super().forward(hidden_states, attention_mask, **kwargs)
            return whole
        return read_one(self, hidden_states, places, attention_mask)[:, None]


def _attend(attention: CLIPAttention, asking: Tensor, given: Tensor, seen: Tensor | None) -> Tensor:
    """transformers' CLIP attention with the queries of `asking` alone, (N, 1, D)."""
    query, key, value = (
        project(states).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for project, states in (
            (attention.q_proj, asking),
            (attention.k_proj, given),
            (attention.v_proj, given),
        )
    )
    attend: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(
        attention.config._attn_implementation, eager_attention_forward
    )
    dropout = attention.dropout if attention.training else 0.0
    mixed, _ = attend(
        attention, query, key, value, seen, scaling=attention.scale, dropout=dropout, is_causal=False
    )
    found: Tensor = attention.out_proj(mixed.flatten(-2))
    return found
