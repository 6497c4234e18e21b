"""LoRA weights in other people's files: found, scaled and merged into the weights they adapt."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from videollava.errors import InputError
from videollava.model.formats.files import find_weights, read_config, short

__all__ = ["ADAPTER_FILES", "Adapter", "merge_inline", "read_adapter"]

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
# name.lora_A.weight, or name.lora_A.<adapter's name>.weight
PAIR = re.compile(r"^(?P<name>.+)\.lora_(?P<side>[AB])(?:\.[^.]+)?\.weight$")
PEFT_PREFIX = re.compile(r"^(?:base_model\.model\.)+")


@dataclass(frozen=True)
class Adapter:
    """Low-rank updates by the module they adapt, and whole weights that replace the base's."""

    alpha: float
    pairs: dict[str, tuple[Tensor, Tensor]]
    whole: dict[str, Tensor] = field(default_factory=dict)
    rank_stabilised: bool = False
    alphas: Mapping[str, float] = field(default_factory=dict)
    origin: str = ""

    def apply(self, name: str, weight: Tensor) -> Tensor:
        """`weight` with its update merged, in float32 and back in the weight's own type."""
        if name in self.whole:
            return self.whole[name].to(weight.dtype)
        module = name.removesuffix(".weight")
        if name == module or module not in self.pairs:
            return weight
        down, up = self.pairs[module]
        delta = self.scale(module) * (up.float() @ down.float())
        return (weight.float() + delta).to(weight.dtype)

    def scale(self, module: str) -> float:
        """alpha / r of a module (alpha / sqrt(r) where rank-stabilised)."""
        rank = self.pairs[module][0].shape[0]
        alpha = next((a for key, a in self.alphas.items() if re.search(rf"(^|\.){key}$", module)), self.alpha)
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)

    def require(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """InputError where the adapter changes weights that the base lacks, or has in another shape."""
        absent = {m for m in self.pairs if f"{m}.weight" not in shapes} | (self.whole.keys() - shapes.keys())
        if absent:
            raise InputError(f"{self.origin}: adapts weights that the base model lacks: {short(absent)}")
        for module, (down, up) in self.pairs.items():
            mine, base = [up.shape[0], down.shape[1]], list(shapes[f"{module}.weight"])
            if mine != base:
                raise InputError(
                    f"{self.origin}: LoRA of {module} is for a weight of {mine}, the base has {base}: "
                    "this adapter belongs to another base model"
                )


def split_pairs(tensors: Mapping[str, Tensor]) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """LoRA pairs by module name, and the other tensors."""
    sides: dict[str, dict[str, Tensor]] = {}
    rest: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = PAIR.match(name)
        if match:
            sides.setdefault(match["name"], {})[match["side"]] = tensor
        else:
            rest[name] = tensor
    broken = [name for name, pair in sides.items() if len(pair) != 2]
    if broken:
        raise InputError(f"LoRA weights without their other half (lora_A or lora_B): {short(broken)}")
    return {name: (pair["A"], pair["B"]) for name, pair in sides.items()}, rest


def merge_inline(tensors: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Merge LoRA that lies among the weights it adapts (LanguageBind's un-merged encoders).

    Also drops what PEFT puts into names: `base_model.model.` and `base_layer.`.
    """
    clean = {
        name.replace(".base_model.model.", ".").replace(".base_layer.", "."): tensor
        for name, tensor in tensors.items()
    }
    pairs, rest = split_pairs(clean)
    if not pairs:
        return rest
    adapter = Adapter(alpha, pairs, origin="un-merged LoRA")
    adapter.require({name: tensor.shape for name, tensor in rest.items()})
    return {name: adapter.apply(name, tensor) for name, tensor in rest.items()}


def read_adapter(folder: Path) -> Adapter:
    """A PEFT folder (adapter_config.json, adapter_model.*; non_lora_trainables.bin where the original wrote
    one).

    Names come out as the base model's own.
    """
    config = read_config(folder, "adapter_config.json")
    _refuse_unmergeable(config, folder)
    tensors = find_weights(folder, ADAPTER_FILES).read()
    others = folder / "non_lora_trainables.bin"
    if others.is_file():
        tensors = {**find_weights(folder, (others.name,)).read(), **tensors}
    pairs, whole = split_pairs({_base_name(name): tensor for name, tensor in tensors.items()})
    return Adapter(
        alpha=float(config["lora_alpha"]),
        pairs=pairs,
        whole=whole,
        rank_stabilised=bool(config.get("use_rslora")),
        alphas={key: float(value) for key, value in (config.get("alpha_pattern") or {}).items()},
        origin=str(folder),
    )


def _base_name(name: str) -> str:
    name = PEFT_PREFIX.sub("", name)
    return re.sub(r"\.(?:modules_to_save(?:\.[^.]+)?|base_layer)\.", ".", name)


def _refuse_unmergeable(config: Mapping[str, Any], folder: Path) -> None:
    kind = config.get("peft_type", "LORA")
    if kind != "LORA" or "lora_alpha" not in config:
        raise InputError(f"{folder}: adapter of type {kind!r}; LoRA alone can be merged")
    for key in ("use_dora", "fan_in_fan_out"):
        if config.get(key):
            raise InputError(
                f"{folder}: adapter_config.json says {key}: true, which cannot be merged here; use peft"
            )
