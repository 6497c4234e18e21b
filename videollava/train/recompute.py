"""Which decoder layers compute their activations again in the backward pass (`recompute` in machine.yaml)."""

from __future__ import annotations

from typing import Any

from videollava.machine import Work

__all__ = ["recompute_layers"]


def recompute_layers(language: Any, work: Work) -> None:
    """Make the first `work.recompute` of a language model's decoder layers keep their input alone; the frozen encoders
    are left alone, which would otherwise be made to require gradients.
    """
    layers = language.layers
    count = work.recomputed(len(layers))
    if not count:
        language.activation_checkpointing_disable()
        return
    language.activation_checkpointing_enable({"use_reentrant": False})
    for layer in layers[count:]:
        layer.gradient_checkpointing = False
