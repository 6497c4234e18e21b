"""A language model's layers in 4 bits (NF4), quantised where they are: weights that were made on the card have no file."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["quantize_layers"]


def quantize_layers(model: Any) -> None:
    """Put 4-bit layers in the place of all linear ones of the language model's blocks, one by one."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for block in model.model.language_model.layers:
        for parent in list(block.modules()):
            for name, linear in list(parent.named_children()):
                if not isinstance(linear, nn.Linear):
                    continue
                device = linear.weight.device
                made = Linear4bit(
                    linear.in_features,
                    linear.out_features,
                    bias=False,
                    compute_dtype=torch.bfloat16,
                    quant_type="nf4",
                    compress_statistics=True,
                    device="meta",
                )
                made.weight = Params4bit(
                    linear.weight.data,
                    requires_grad=False,
                    compress_statistics=True,
                    quant_type="nf4",
                    module=made,
                )
                setattr(parent, name, made.to(device))
    model.is_loaded_in_4bit = True  # what peft goes by
