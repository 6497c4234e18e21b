"""The first layers compute their activations again, as many as the machine file says, and learn the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from tests.train.test_memory import batch, make
from videollava.machine import Work
from videollava.params import Train
from videollava.train.instruct import forward
from videollava.train.recompute import recompute_layers

LAYERS = 4


def learn(work: Work) -> tuple[list[int], dict[str, torch.Tensor]]:
    """How often each layer's MLP ran in a step, and the gradients."""
    model = make(Train(precision="fp32"), work, True, LAYERS)
    ran = [0] * LAYERS

    def count(place: int) -> Any:
        def hook(*_: Any) -> None:
            ran[place] += 1

        return hook

    for place, layer in enumerate(model.model.language_model.layers):
        layer.mlp.down_proj.register_forward_pre_hook(count(place))
    forward(model, batch(), 1.0).backward()
    return ran, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_as_many_layers_as_asked_run_twice_and_gradients_stay() -> None:
    _, plain = learn(Work())
    for recompute, expected in (
        (2, [2, 2, 1, 1]),
        (True, [2] * 4),
        (0, [1] * 4),
        (LAYERS, [2] * 4),
        (99, [2] * 4),
    ):
        ran, gradients = learn(Work(recompute=recompute))
        assert ran == expected
        assert gradients.keys() == plain.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, plain[name], rtol=0, atol=0)


def test_a_model_of_an_older_transformers_is_asked_by_its_name_for_it() -> None:
    said: list[Any] = []
    layers = [SimpleNamespace(gradient_checkpointing=True) for _ in range(2)]
    model = SimpleNamespace(
        layers=layers,
        gradient_checkpointing_enable=said.append,
        gradient_checkpointing_disable=lambda: said.append("off"),
    )
    recompute_layers(model, Work(recompute=1))
    assert [layer.gradient_checkpointing for layer in layers] == [True, False]
    recompute_layers(model, Work())
    assert said == [{"use_reentrant": False}, "off"]
