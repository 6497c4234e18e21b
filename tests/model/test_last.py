"""A last layer that works where it is read alone: the same values and gradients, and less work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from equality import FLOAT32
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, Qwen2Config, Qwen2Model
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from videollava.model.encoders import (
    LanguageBindTextModel,
    LanguageBindVisionModel,
    text_config,
    tower_config,
)
from videollava.model.last import LastLlamaLayer, read_tokens, spare_last, takes_read
from videollava.model.video_llava import IGNORED
from videollava.params import Model

IDS = torch.tensor([[1, 5, 9, 7, 3, 2], [1, 8, 8, 4, 6, 2]])


def rows_of(module: nn.Module, counts: list[int]) -> Any:
    """Notes how many rows it is given."""
    return module.register_forward_pre_hook(lambda _, given: counts.append(given[0].shape[:-1].numel()))


def gradients(module: Any, loss: Tensor) -> dict[str, Tensor]:
    loss.backward()
    found = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    return found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        size = max(0.1, float(expected[name].abs().max()))
        torch.testing.assert_close(gradient, expected[name], rtol=FLOAT32, atol=FLOAT32 * size, msg=name)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_language_model_s_last_mlp_sees_what_is_learned_float32_1e5(
    make_model: Callable[..., Any], recompute: bool
) -> None:
    model = make_model().train()
    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    labels = IDS.where(IDS > 6, IGNORED)
    last = model.model.language_model.layers[-1]
    last.__class__ = LlamaDecoderLayer
    whole = model(IDS, labels=labels)
    expected = gradients(model, whole.loss)
    spare_last(model.model.language_model)
    counts: list[int] = []
    rows_of(last.mlp, counts)
    rows_of(model.model.language_model.layers[0].mlp, counts)
    spared = model(IDS, labels=labels)
    assert counts == [12, 4]
    torch.testing.assert_close(spared.logits, whole.logits, rtol=FLOAT32, atol=1e-6)
    assert_same(gradients(model, spared.loss), expected)


def test_where_nothing_is_learned_all_weights_have_a_gradient_of_nothing(
    make_model: Callable[..., Any],
) -> None:
    model = make_model().train()
    out = model(IDS, labels=torch.full_like(IDS, IGNORED), num_items_in_batch=3)
    found = gradients(model.model.language_model, out.loss)
    assert out.loss == 0
    assert "layers.1.mlp.down_proj.weight" in found
    assert all(gradient.count_nonzero() == 0 for gradient in found.values())


def test_the_newest_tokens_alone_and_transformers_columns(make_model: Callable[..., Any]) -> None:
    model = make_model()
    whole = model(IDS).logits
    counts: list[int] = []
    rows_of(model.model.language_model.layers[-1].mlp, counts)
    for keep, wanted, rows in (
        (1, whole[:, -1:], 2),
        (2, whole[:, -2:], 4),
        (torch.tensor([0, 3]), whole[:, [0, 3]], 12),
    ):
        counts.clear()
        out = model(IDS, logits_to_keep=keep)
        torch.testing.assert_close(out.logits, wanted, rtol=FLOAT32, atol=1e-6)
        assert counts == [rows]
    # A cache holds every token's keys and values all the same.
    cached = model(IDS[:, :4], logits_to_keep=1, use_cache=True).past_key_values
    later = model(IDS[:, 4:], past_key_values=cached, logits_to_keep=1, use_cache=True).logits
    torch.testing.assert_close(later, whole[:, -1:], rtol=FLOAT32, atol=1e-6)


def test_states_of_all_tokens_are_there_for_who_asks(make_model: Callable[..., Any]) -> None:
    model = make_model()
    out = model(IDS, logits_to_keep=1, output_hidden_states=True)
    assert [state.shape[1] for state in out.hidden_states] == [6, 6, 6]
    assert out.logits.shape[1] == 1


def test_other_language_models_stay_as_they_are() -> None:
    shape: dict[str, Any] = {
        "vocab_size": 20,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    llama, qwen = LlamaModel(LlamaConfig(**shape)), Qwen2Model(Qwen2Config(**shape))
    names = set(llama.state_dict())
    assert not takes_read(llama)
    spare_last(llama)
    assert takes_read(llama)
    assert [type(layer) is LastLlamaLayer for layer in llama.layers] == [False, True]
    assert set(llama.state_dict()) == names
    for other in (qwen, nn.Linear(2, 2)):
        spare_last(other)
        assert not takes_read(other)


def test_tokens_that_are_read() -> None:
    hidden = torch.arange(12.0).view(2, 3, 2)
    assert read_tokens(hidden, 0) is hidden
    assert read_tokens(hidden, 2).tolist() == hidden[:, 1:].tolist()
    assert read_tokens(hidden, torch.tensor([4, 0])).tolist() == [[[8.0, 9.0], [0.0, 1.0]]]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("modality", ["image", "video"])
def test_an_encoder_that_is_pooled_works_on_its_class_token_float32_1e5(
    shape: Model, modality: Any, attention: str
) -> None:
    torch.manual_seed(0)
    tower = LanguageBindVisionModel(tower_config(shape, modality)).train()
    tower.set_attn_implementation(attention)
    pixels = torch.randn(2, 4, 3, 16, 16) if modality == "video" else torch.randn(3, 3, 16, 16)
    kept = torch.tensor([[0, 3], [1, 2], [2, 3]])[: len(pixels)]
    weights = torch.randn(len(pixels), 32)
    whole = tower(pixels, kept=kept).pooler_output
    expected = gradients(tower, (whole * weights).sum())
    counts: list[int] = []
    rows_of(tower.encoder.layers[-1].mlp, counts)
    out = tower(pixels, kept=kept, pooled_alone=True)
    assert counts == [pixels.shape[:-3].numel()]
    assert out.last_hidden_state is None
    torch.testing.assert_close(out.pooler_output, whole, rtol=FLOAT32, atol=1e-6)
    assert_same(gradients(tower, (out.pooler_output * weights).sum()), expected)
    states = tower(pixels, pooled_alone=True, output_hidden_states=True)
    assert states.hidden_states[-1].shape[-2] == 5
    assert states.last_hidden_state.shape[1] == 5


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("pooling", ["last", "highest"])
@pytest.mark.parametrize("padded", [True, False])
def test_a_text_that_is_pooled_works_on_one_token_float32_1e5(
    shape: Model, pooling: str, attention: str, padded: bool
) -> None:
    torch.manual_seed(0)
    config = text_config(shape, 50)
    config.pooling = pooling
    tower = LanguageBindTextModel(config).train()
    tower.set_attn_implementation(attention)
    ids = torch.tensor([[9, 4, 30, 0, 0], [9, 4, 3, 7, 40], [1, 49, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]) if padded else None
    weights = torch.randn(3, 24)
    whole = tower(ids, mask).pooler_output
    expected = gradients(tower, (whole * weights).sum())
    counts: list[int] = []
    rows_of(tower.encoder.layers[-1].mlp, counts)
    called: list[int] = []
    tower.encoder.layers[-1].register_forward_hook(lambda *_: called.append(1))
    out = tower(ids, mask, pooled_alone=True)
    assert counts == [3]
    assert called == [1]  # what shards a model gathers a layer's weights where the layer is called
    assert out.last_hidden_state is None
    torch.testing.assert_close(out.pooler_output, whole, rtol=FLOAT32, atol=1e-6)
    assert_same(gradients(tower, (out.pooler_output * weights).sum()), expected)
