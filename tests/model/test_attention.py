from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from videollava.model.attention import attend_packed, packed_kwargs

LENGTHS = [3, 40, 41, 1, 17, 38, 3, 90]


def _each_alone(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    rows = []
    for a, b, c in zip(*(x.split(LENGTHS) for x in (q, k, v)), strict=True):
        heads = [x.transpose(0, 1)[None] for x in (a, b, c)]
        rows.append(
            F.scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=True)[0].transpose(0, 1)
        )
    return torch.cat(rows)


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_segments_attend_to_themselves_alone(kv_heads: int) -> None:
    torch.manual_seed(0)
    ends = torch.tensor([0, *LENGTHS]).cumsum(0)
    inputs = [torch.randn(sum(LENGTHS), heads, 8, requires_grad=True) for heads in (4, kv_heads, kv_heads)]
    weights = torch.randn(sum(LENGTHS), 4, 8)
    packed, alone = attend_packed(*inputs, ends), _each_alone(*inputs)
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-6)
    gradients = [torch.autograd.grad((out * weights).sum(), inputs) for out in (packed, alone)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


def test_bfloat16_rows_come_out_as_float32_ones_do() -> None:
    torch.manual_seed(0)
    ends = torch.tensor([0, *LENGTHS]).cumsum(0)
    inputs = [torch.randn(sum(LENGTHS), 4, 8) for _ in range(3)]
    half = attend_packed(*(x.bfloat16() for x in inputs), ends)
    torch.testing.assert_close(half.float(), _each_alone(*inputs), rtol=0, atol=5e-2)


@pytest.fixture
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM._from_config(config, attn_implementation="varlen").eval()


def test_any_transformers_model_runs_packed_rows(llama: LlamaForCausalLM) -> None:
    rows = [torch.randint(0, 50, (length,)) for length in LENGTHS]
    packed = llama(torch.cat(rows)[None], **packed_kwargs(LENGTHS)).logits[0]
    alone = torch.cat([llama(row[None]).logits[0] for row in rows])
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-6)


def test_padded_rows_and_caches_go_to_sdpa(llama: LlamaForCausalLM) -> None:
    ids = torch.randint(0, 50, (2, 9))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    places = (mask.cumsum(1) - 1).clamp(min=0)
    padded = llama(ids, attention_mask=mask, position_ids=places).logits
    torch.testing.assert_close(padded[0, 4:], llama(ids[:1, 4:]).logits[0], rtol=0, atol=1e-6)
    begun = llama(ids[:, :6], attention_mask=mask[:, :6], position_ids=places[:, :6], use_cache=True)
    rest = llama(
        ids[:, 6:], attention_mask=mask, position_ids=places[:, 6:], past_key_values=begun.past_key_values
    ).logits
    torch.testing.assert_close(rest, padded[:, 6:], rtol=0, atol=1e-6)


def test_a_batch_of_packed_rows_is_refused(llama: LlamaForCausalLM) -> None:
    with pytest.raises(ValueError, match="packed rows come one at a time: got a batch of 2"):
        llama(torch.zeros(2, 5, dtype=torch.long), **packed_kwargs([2, 3]))
