"""LoRA weights in other people's files: found, scaled and merged into the weights they adapt."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videollava.errors import InputError
from videollava.model.formats.files import find_weights, read_config, short

__all__ = ["ADAPTER_FILES", "OTHERS", "Adapter", "merge_inline", "read_adapter"]

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
OTHERS = "non_lora_trainables.bin"  # what else the original trained: its projector
# name.lora_A.weight, or name.lora_A.<adapter's name>.weight
PAIR = re.compile(r"^(?P<name>.+)\.lora_(?P<side>[AB])(?:\.[^.]+)?\.weight$")
EMBEDDED = re.compile(r"^(?P<name>.+)\.lora_embedding_(?P<side>[AB])(?:\.[^.]+)?$")
PEFT_PREFIX = re.compile(r"^(?:base_model\.model\.)+")
# Settings of PEFT under which the saved pairs are not all there is to merge, and what they mean.
BEYOND = {
    "use_dora": "DoRA's magnitudes",
    "fan_in_fan_out": "transposed weights",
    "lora_bias": "biases of its own",
    "use_qalora": "QA-LoRA's groups",
    "use_bdlora": "block-diagonal pairs",
    "trainable_token_indices": "single rows of the embedding table",
    "target_parameters": "bare parameters",
    "layer_replication": "repeated layers",
    "alora_invocation_tokens": "an update that works from a certain token on",
    "arrow_config": "routing between adapters",
    "kasa_config": "KaSA's singular values",
    "velora_config": "VeLoRA's projections",
    "monteclora_config": "MonteCLoRA's samples",
}
# Initialisations that change the base model's weights: the pairs alone belong to that changed base.
REBASED = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class Adapter:
    """Low-rank updates by the module they adapt, and whole weights that replace the base's.

    pairs: (down (r, in), up (out, r)) by module, of a convolution (r, in, h, w) and (out, r, 1, 1); scales: what their
    product is multiplied by.
    """

    pairs: dict[str, tuple[Tensor, Tensor]]
    scales: Mapping[str, float]
    whole: dict[str, Tensor] = field(default_factory=dict)
    together: bool = False  # an update of the embedding table is one of a head tied to it, too
    origin: str = ""

    def apply(self, name: str, weight: Tensor) -> Tensor:
        """`weight` with its update merged, in float32 and back in the weight's own type."""
        weight = self.whole[name].to(weight.dtype) if name in self.whole else weight
        module = name.removesuffix(".weight")
        if name == module or module not in self.pairs:
            return weight
        down, up = self.pairs[module]
        delta = self.scales[module] * (up.flatten(1).float() @ down.flatten(1).float())
        return (weight.float() + delta.view_as(weight)).to(weight.dtype)

    def touches(self, name: str) -> bool:
        """Whether it changes the weight `name`."""
        return name in self.whole or name.removesuffix(".weight") in self.pairs

    def changes_alike(self, one: str, other: str) -> bool:
        """Whether it changes two weights in the same way, to the bit."""
        first, second = (self._update(name) for name in (one, other))
        if [part.shape for part in first] != [part.shape for part in second]:
            return False
        return all(torch.equal(*parts) for parts in zip(first, second, strict=True))

    def _update(self, name: str) -> list[Tensor]:
        module = name.removesuffix(".weight")
        pair = [*self.pairs[module], torch.tensor(self.scales[module])] if module in self.pairs else []
        return [*pair, self.whole[name]] if name in self.whole else pair

    def renamed(self, rename: Callable[[str], str]) -> Adapter:
        """The same adapter on another model's names; `rename` takes names of weights."""
        modules = {module: rename(f"{module}.weight").removesuffix(".weight") for module in self.pairs}
        return Adapter(
            pairs={modules[module]: pair for module, pair in self.pairs.items()},
            scales={modules[module]: scale for module, scale in self.scales.items()},
            whole={rename(name): tensor for name, tensor in self.whole.items()},
            together=self.together,
            origin=self.origin,
        )

    def _explain(self, name: str, mine: Sequence[int], base: Sequence[int]) -> str:
        if name in self.whole and list(mine[1:]) == list(base[1:]):
            return (
                "it was trained with other tokens in the vocabulary; merge it with peft on the model resized as in "
                "training, and convert the result"
            )
        return "this adapter belongs to another base model"

    def require(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """InputError where the adapter changes weights that the base lacks, or has in another shape."""
        absent = {m for m in self.pairs if f"{m}.weight" not in shapes} | (self.whole.keys() - shapes.keys())
        if absent:
            raise InputError(
                f"{self.origin}: adapts weights that the base model lacks: {short(absent)}: this adapter belongs "
                "to another base model"
            )
        found = {f"{m}.weight": [up.shape[0], *down.shape[1:]] for m, (down, up) in self.pairs.items()}
        found |= {name: list(tensor.shape) for name, tensor in self.whole.items()}
        for name, mine in found.items():
            if mine != list(shapes[name]):
                raise InputError(
                    f"{self.origin}: LoRA of {name.removesuffix('.weight')} is for a weight of {mine}, the base has "
                    f"{list(shapes[name])}: {self._explain(name, mine, shapes[name])}"
                )


def split_pairs(tensors: Mapping[str, Tensor]) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """LoRA pairs by module name, and the other tensors. An embedding's pair is turned to a linear layer's form."""
    sides: dict[str, dict[str, Tensor]] = {}
    rest: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if match := PAIR.match(name):
            sides.setdefault(match["name"], {})[match["side"]] = tensor
        elif match := EMBEDDED.match(name):
            sides.setdefault(match["name"], {})["B" if match["side"] == "A" else "A"] = tensor.T
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
    scales = {module: alpha / len(down) for module, (down, _) in pairs.items()}
    adapter = Adapter(pairs, scales, origin="un-merged LoRA")
    adapter.require({name: tensor.shape for name, tensor in rest.items()})
    return {name: adapter.apply(name, tensor) for name, tensor in rest.items()}


def read_adapter(folder: Path) -> Adapter:
    """A PEFT folder (adapter_config.json, adapter_model.*; non_lora_trainables.bin where the original wrote one).

    Names come out as the base model's own.
    """
    config = read_config(folder, "adapter_config.json")
    _refuse_unmergeable(config, folder)
    tensors = find_weights(folder, ADAPTER_FILES).read()
    if (folder / OTHERS).is_file():
        tensors = {**find_weights(folder, (OTHERS,)).read(), **tensors}
    _refuse_empty(tensors, folder)
    pairs, whole = split_pairs({base_name(name): tensor for name, tensor in tensors.items()})
    _refuse_lost_modules(config, whole, folder)
    return Adapter(
        pairs=pairs,
        scales={module: _scale(config, module, len(down)) for module, (down, _) in pairs.items()},
        whole=whole,
        together=bool(config.get("ensure_weight_tying")),
        origin=str(folder),
    )


def base_name(name: str) -> str:
    """A name in a PEFT file as the base model's own."""
    name = PEFT_PREFIX.sub("", name.replace("_orig_mod.", ""))  # a compiled model's names
    return re.sub(r"\.(?:modules_to_save(?:\.[^.]+)?|base_layer)\.", ".", name)


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """alpha / r of a module (alpha / sqrt(r) where rank-stabilised); PEFT's way of matching patterns."""
    patterns: Mapping[str, float] = config.get("alpha_pattern") or {}
    key = next((key for key in patterns if re.match(rf"(.*\.)?({key})$", module)), None)
    alpha = float(config["lora_alpha"] if key is None else patterns[key])
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _refuse_unmergeable(config: Mapping[str, Any], folder: Path) -> None:
    kind = config.get("peft_type", "LORA")
    if kind != "LORA" or "lora_alpha" not in config:
        raise InputError(f"{folder}: adapter of type {kind!r}; LoRA alone can be merged")
    for key, what in BEYOND.items():
        if config.get(key):
            raise InputError(
                f"{folder}: adapter_config.json says {key}: {str(config[key]).lower()}, which cannot be merged "
                f"here ({what}); merge it with peft (merge_and_unload) and convert the result"
            )
    start = str(config.get("init_lora_weights", "")).lower()
    if start.startswith(REBASED):
        raise InputError(
            f"{folder}: adapter_config.json says init_lora_weights: {start}, so these pairs belong to a base whose "
            "weights that start changed: save the adapter with peft's path_initial_model_for_weight_conversion, or "
            "merge it with peft and convert the result"
        )


def _refuse_empty(tensors: Mapping[str, Tensor], folder: Path) -> None:
    empty = [name for name, tensor in tensors.items() if tensor.numel() == 0]
    if empty or not tensors:
        raise InputError(
            f"{folder}: {len(empty)} of the adapter's {len(tensors)} tensors are empty ({short(empty, 2)}): it was "
            "saved while DeepSpeed ZeRO-3 held the weights in parts; write them out of its state (zero_to_fp32.py in "
            "the checkpoint's folder), or save with stage3_gather_16bit_weights_on_model_save"
        )


def _refuse_lost_modules(config: Mapping[str, Any], whole: Mapping[str, Tensor], folder: Path) -> None:
    lost = [
        module
        for module in config.get("modules_to_save") or ()
        if not any(f".{module}." in f".{name}" for name in whole)
        and not (module == "lm_head" and config.get("ensure_weight_tying"))
    ]
    if lost:
        raise InputError(
            f"{folder}: adapter_config.json says modules_to_save {lost}, and the adapter's file has no weights of "
            "them: what was trained there is lost in this save; take another checkpoint"
        )
