"""LoRA and QLoRA on the language model; the projector learns whole beside it, as in the original.

The adapter's targets are the linear layers of the language model's blocks, named by a pattern: "all-linear" would
take the encoders and the projector too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videollava.params import Lora, Train

__all__ = ["TARGETS", "adapter_groups", "add_adapter", "merge_adapter"]

PROJECTOR = "multi_modal_projector"
TARGETS = r".*\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"


def add_adapter(model: Any, lora: Lora) -> Any:
    """Put a LoRA into the language model of `model`; what learns: the adapter, and a copy of the projector.

    Its dropout is torch's, seeded by (seed, step, rank): with it, other ranks or packs learn from other draws. With
    `lora.dropout: 0` they are equal.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=TARGETS,
        modules_to_save=[PROJECTOR],
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def adapter_groups(adapted: Any, settings: Train) -> list[dict[str, Any]]:
    """AdamW groups: the projector, with a rate of its own where one is set, and the low-rank pairs."""
    learned = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    rate = settings.projector_learning_rate or settings.learning_rate
    return [
        {"params": [p for name, p in learned.items() if PROJECTOR in name], "lr": rate},
        {"params": [p for name, p in learned.items() if PROJECTOR not in name], "lr": settings.learning_rate},
    ]


def merge_adapter(base: Any, folder: Path) -> Any:
    """`base` (not quantised) with the adapter of `folder` added into its weights."""
    from peft import PeftModel

    return PeftModel.from_pretrained(base, folder).merge_and_unload()
