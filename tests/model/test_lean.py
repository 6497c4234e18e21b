"""Norms and gates that keep less: the values of transformers' own, and how much less it is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from equality import FLOAT32
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from videollava.model.attention import packed_kwargs
from videollava.model.lean import keep_less

LENGTHS = [5, 60, 1, 40]
SHAPE: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def both(**changes: Any) -> tuple[Any, Any]:
    """A small Llama, and the same one that keeps less; norms that have learned something."""
    torch.manual_seed(0)
    plain = LlamaForCausalLM._from_config(
        LlamaConfig(**{**SHAPE, **changes}), attn_implementation="varlen"
    ).train()
    with torch.no_grad():
        for module in plain.modules():
            if isinstance(module, LlamaRMSNorm):
                module.weight.uniform_(0.5, 1.5)
    lean = copy.deepcopy(plain)
    keep_less(lean)
    return plain, lean


def learn(model: Any, autocast: bool) -> tuple[Tensor, int]:
    """Logits of a packed row, with gradients left in the model, and the bytes that were kept but for weights."""
    ids = torch.randint(50, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(1))
    sizes = {p.numel() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.numel() not in sizes:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        logits = model(input_ids=ids, **packed_kwargs(LENGTHS)).logits
    logits.float().square().mean().backward()
    return logits.detach(), sum(kept.values())


def gradients(model: Any) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("frozen", [(), ("norm",), ("mlp",), ("embed_tokens", "layers.0")])
def test_values_and_gradients_are_those_of_transformers_in_float32(frozen: tuple[str, ...]) -> None:
    plain, lean = both()
    for model in (plain, lean):
        for name, weight in model.named_parameters():
            weight.requires_grad_(not any(part in name for part in frozen))
    expected, _ = learn(plain, autocast=False)
    found, _ = learn(lean, autocast=False)
    torch.testing.assert_close(found, expected, rtol=FLOAT32, atol=FLOAT32)
    assert gradients(lean).keys() == gradients(plain).keys()
    for name, grad in gradients(plain).items():
        torch.testing.assert_close(gradients(lean)[name], grad, rtol=FLOAT32, atol=FLOAT32, msg=name)


def test_under_autocast_each_value_is_rounded_where_it_was() -> None:
    plain, lean = both()
    expected, _ = learn(plain, autocast=True)
    found, _ = learn(lean, autocast=True)
    assert torch.equal(found, expected)
    for name, grad in gradients(plain).items():
        # The gradients of what several layers read are added in bfloat16 then.
        assert (gradients(lean)[name] - grad).norm() < 0.02 * grad.norm(), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_of_half_precision_gives_the_same_bits(dtype: torch.dtype) -> None:
    plain, lean = both()
    expected, _ = learn(plain.to(dtype), autocast=False)
    found, _ = learn(lean.to(dtype), autocast=False)
    assert found.dtype == dtype
    assert torch.equal(found, expected)


def test_a_third_less_is_kept_under_autocast_and_some_in_float32() -> None:
    (_, before), (_, after) = (learn(model, autocast=True) for model in both())
    assert after < 0.72 * before  # attention on a CPU keeps its scores besides
    (_, before), (_, after) = (learn(model, autocast=False) for model in both())
    assert after < 0.85 * before


def test_names_of_weights_and_other_models_stay_as_they_are() -> None:
    plain, lean = both()
    assert list(lean.state_dict()) == list(plain.state_dict())
    assert {type(m) for m in lean.modules()}.isdisjoint({LlamaRMSNorm, LlamaMLP})
    _, gelu = both(hidden_act="gelu")
    assert LlamaMLP in {type(m) for m in gelu.modules()}
    other = Qwen2ForCausalLM._from_config(Qwen2Config(**SHAPE))
    before = [type(m) for m in other.modules()]
    keep_less(other)
    assert [type(m) for m in other.modules()] == before
