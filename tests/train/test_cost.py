"""Operations by both conventions, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from videollava.data.load.packing import Lengths, plan_epoch
from videollava.train.cost import Prices, language_prices, palm_prices, step_flops

LLAMA_8B = LlamaConfig(
    hidden_size=4096,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    intermediate_size=14336,
    vocab_size=128256,
)


def training(prices: tuple[float, float, float], tokens: int, targets: int, backward: int = 3) -> float:
    count = [np.array([n]) for n in (tokens, targets, 0, 0)]
    return float(Prices(*prices, backward=backward).cost(*count)[0])


def test_what_is_computed_by_hand() -> None:
    weights = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    last = 3 * 4096 * 14336  # the last layer's MLP
    expected = 3 * (2 * (weights - last) * 4096 + 2 * 4096 * 32 * 4096**2)
    expected += 3 * 2 * (last + 4096 * 128256) * 100
    assert training(language_prices(LLAMA_8B), 4096, 100) == expected
    assert training(language_prices(LLAMA_8B), 4096, 100, backward=2) == expected * 2 / 3


@pytest.mark.parametrize("tied", [True, False])
def test_palm_s_is_6n_and_12lhqt_with_n_the_model_s_own_count(tied: bool) -> None:
    config = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        vocab_size=70,
        tie_word_embeddings=tied,
    )
    count = LlamaForCausalLM(config).num_parameters()
    tokens = 11
    expected = tokens * (6 * count + 12 * 3 * 4 * 8 * tokens)
    assert training(palm_prices(config), tokens, 2) == expected


def test_the_published_57_8_percent_are_51_1_of_ours() -> None:
    """An 8B text model at 4,096 tokens, every token a label."""
    ours, palm = (training(prices(LLAMA_8B), 4096, 4096) for prices in (language_prices, palm_prices))
    assert 57.8 * ours / palm == pytest.approx(51.1, abs=0.05)


def test_a_step_costs_what_its_samples_do() -> None:
    lengths = Lengths(np.array([4, 5, 6]), np.array([1, 1, 1]), np.array([1.0, 10.0, 100.0]))
    plan = plan_epoch(lengths, batch_size=2, ranks=2, budget=8, seed=0, epoch=0)
    found = step_flops(plan, lengths.cost, 2 * lengths.cost)
    assert found.shape == (2, 2)
    assert found.sum(0).tolist() == [111.0, 222.0]
    for step in range(2):
        packs = [plan.pack(n) for rank in range(2) for n in plan.packs_of(step, rank)]
        assert found[step, 0] == sum(lengths.cost[pack].sum() for pack in packs)
