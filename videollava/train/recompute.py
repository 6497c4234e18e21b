"""Which layers compute their activations again in the backward pass (`recompute` in machine.yaml)."""

from __future__ import annotations

from collections.abc import Callable
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
        _find(model, "disable")()
        return
    _find(model, "enable")({"use_reentrant": False})
    for layer in layers[count:]:
        layer.gradient_checkpointing = False


def _find(model: Any, what: str) -> Callable[..., None]:
    """transformers 5.23 calls activation what older releases call gradient, and warns of the old name."""
    found: Callable[..., None] | None = getattr(model, f"activation_checkpointing_{what}", None)
    return found or getattr(model, f"gradient_checkpointing_{what}")
