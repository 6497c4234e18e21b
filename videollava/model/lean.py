"""Norms and gates of a Llama that keep less for the backward pass, in the place of transformers' own.

Autograd keeps what each operation was given. Of a norm that is its input, the normed input in float32, and a copy of
the output for each linear layer that reads it, as autocast makes one for each; of a gate, one tensor more than it
takes. Here a norm keeps its input, one number a token, and one output in the type that is computed in, and a gate its
two inputs: at 7B in bfloat16 a third less of all that a decoder layer keeps where it learns. The forward pass rounds
where transformers' does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

__all__ = ["keep_less"]


def keep_less(language_model: nn.Module) -> None:
    """Have the norms and gates of a Llama (also a part of it) keep less, in place; other models stay as they are.

    Names and values of weights do not change, nor what is computed: gradients differ by rounding alone. Compiled
    layers compute as transformers' do, since a compiler fuses and recomputes by itself.
    """
    for module in language_model.modules():
        if type(module) is LlamaRMSNorm:
            module.__class__ = LeanRMSNorm
        elif type(module) is LlamaMLP and _is_silu(module):
            module.__class__ = LeanMLP


def _is_silu(layers: Any) -> bool:
    return bool(layers.config.hidden_act == "silu")


class LeanRMSNorm(LlamaRMSNorm):
    """The same norm; under autocast its output is in the type that linear layers would have turned it into."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            plain: Tensor = super().forward(hidden_states)
            return plain
        kind = hidden_states.device.type
        given = torch.promote_types(hidden_states.dtype, self.weight.dtype)
        computed = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else given
        normed: Tensor = _Norm.apply(hidden_states, self.weight, self.variance_epsilon, computed)
        return normed


class LeanMLP(LlamaMLP):
    """The same gated layers."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            plain: Tensor = super().forward(x)
            return plain
        mixed: Tensor = self.down_proj(_Gate.apply(self.gate_proj(x), self.up_proj(x)))
        return mixed


class _Norm(torch.autograd.Function):
    """weight * x / sqrt(mean(x^2) + epsilon) over the last axis, computed in float32, given in `dtype`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        whole = x.float()
        scale = whole.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return ((whole * scale).to(x.dtype) * weight).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight, scale = ctx.saved_tensors
        grad, weights = grad.float(), weight.float()
        normed = x.float() * scale
        part = grad * normed
        of_weight = part.flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        of_x = None
        if ctx.needs_input_grad[0]:
            along = part.mul_(weights).mean(-1, keepdim=True)
            of_x = (grad * weights).addcmul_(normed, along, value=-1).mul_(scale).to(x.dtype)
        return of_x, of_weight, None, None


class _Gate(torch.autograd.Function):
    """silu(gate) * up."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        gate, up = ctx.saved_tensors
        of_gate = torch.ops.aten.silu_backward(grad * up, gate) if ctx.needs_input_grad[0] else None
        return of_gate, F.silu(gate).mul_(grad) if ctx.needs_input_grad[1] else None
