"""What of a pair learns, and how fast: whole encoders or LoRA pairs, each layer at a rate of its own."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from torch import nn

from videollava.model.encoders import LanguageBind
from videollava.params import Align, Train

__all__ = ["add_lora", "choose_groups", "merge_lora"]

TARGETS = r"encoder\.layers\.\d+\.self_attn\.(q|k|v|out)_proj"
LAYER = re.compile(r"^vision_model\.encoder\.layers\.(\d+)\.")


def add_lora(pair: LanguageBind, align: Align) -> None:
    """Put low-rank pairs into the vision encoder's attention, in place. The rest of it is frozen, but for attention
    over frames, which no published image encoder brings: that learns whole, as projection, temperature and bias do.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=align.lora_r, lora_alpha=align.lora_alpha, target_modules=TARGETS, bias="none")
    inject_adapter_in_model(config, pair.vision_model)
    for name, weight in pair.vision_model.named_parameters():
        weight.requires_grad_("lora_" in name or "temporal_" in name)


def merge_lora(pair: LanguageBind) -> None:
    """Add the low-rank pairs into the weights they adapt, in place: an ordinary pair, all of whose vision can learn."""
    from peft.tuners.lora import LoraLayer

    vision: Any = pair.vision_model
    for name, layer in list(vision.named_modules()):
        if isinstance(layer, LoraLayer):
            merged: Any = layer
            merged.merge()
            parent, _, child = name.rpartition(".")
            setattr(vision.get_submodule(parent), child, layer.get_base_layer())
    del vision.peft_config
    vision.requires_grad_(True)


def choose_groups(pair: nn.Module, settings: Train, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """AdamW groups. Matrices decay; norms, biases and the temperature do not.

    layer_decay: of the vision encoder each layer's rate is that of the one above, times this; what is below the first
    layer counts as one.
    """
    layers = len(pair.vision_model.encoder.layers)  # type: ignore[union-attr, arg-type]
    below: dict[tuple[int, bool], list[nn.Parameter]] = defaultdict(list)
    for name, weight in pair.named_parameters():
        if weight.requires_grad:
            down = _layers_above(name, layers) if layer_decay != 1.0 else 0
            below[down, weight.ndim > 1].append(weight)
    return [
        {"params": weights, "lr": settings.learning_rate * layer_decay**down}
        | ({} if matrices else {"weight_decay": 0.0})
        for (down, matrices), weights in sorted(below.items(), key=lambda item: (item[0][0], not item[0][1]))
    ]


def _layers_above(name: str, layers: int) -> int:
    """How many layers down from the encoder's output a weight is; 0: at the output, or not of the vision encoder."""
    found = LAYER.match(name)
    if found:
        return layers - int(found[1])
    below = name.startswith(("vision_model.embeddings.", "vision_model.pre_layrnorm."))
    return layers + 1 if below else 0
