"""Which layers compute their activations again in the backward pass (`recompute` in machine.yaml)."""

from __future__ import annotations

from typing import Any

from videollava.machine import Work

__all__ = ["recompute_layers"]


def recompute_layers(model: Any, work: Work, layers: Any = None) -> None:
    """Make the first `work.recompute` of these layers keep their input alone (None: a language model's `layers`).

    Frozen encoders are left alone, which would otherwise be made to require gradients.
    """
    layers = model.layers if layers is None else layers
    count = work.recomputed(len(layers))
    if not count:
        model.activation_checkpointing_disable()
        return
    model.activation_checkpointing_enable({"use_reentrant": False})
    for layer in layers[count:]:
        layer.gradient_checkpointing = False
