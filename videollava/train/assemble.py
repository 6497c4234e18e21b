"""Put Video-LLaVA together from its parts: a language model, two encoders, a projector."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from videollava.errors import InputError
from videollava.machine import Strategy
from videollava.model import checkpoint
from videollava.model.attention import choose_attention
from videollava.model.formats.language import load_language_model, outline_language_model
from videollava.model.last import spare_last
from videollava.model.video_llava import Projector, VideoLlavaForConditionalGeneration, model_config
from videollava.params import Model, Train
from videollava.train.engine.loading import leave_unread, move_held

__all__ = [
    "Types",
    "assemble",
    "load_language",
    "load_projector",
    "put_together",
    "save_projector",
]


def assemble(
    shape: Model,
    models: Path,
    settings: Train,
    strategy: Strategy,
    language_learns: bool,
    device: torch.device,
    unread: bool = False,
) -> tuple[Any, Any]:
    """The model and its tokenizer from models/{bases/language,encoders} and a projector: stage 2 goes on from
    stage 1's (models/projector), stage 1 from the given model's (models/given/projector). Where that is not there, the
    projector is new.

    Frozen parts are held in bfloat16 where the stage computes in it; what learns stays float32 (DeepSpeed keeps
    its own float32 copy, so there everything is bfloat16). unread: the language model's weights stay in their files,
    and the engine reads them.
    """
    sparing = settings.precision == "bf16"
    frozen = torch.bfloat16 if sparing else torch.float32
    learned = frozen if strategy.startswith("zero") else torch.float32
    whole = language_learns and settings.adapter == "none"
    types = Types(learned if whole else frozen, frozen, learned)
    projector = models / ("projector" if language_learns else "given/projector")
    quantized = language_learns and settings.adapter == "qlora"
    return put_together(shape, models, projector, types, device, quantized, unread and not quantized)


@dataclass(frozen=True)
class Types:
    """In what the parts of a model are held; None for the type that a part was saved in."""

    language: torch.dtype | None = None
    encoders: torch.dtype | None = None
    projector: torch.dtype = torch.float32


def put_together(
    shape: Model,
    models: Path,
    projector: Path,
    types: Types,
    device: torch.device,
    quantized: bool = False,
    unread: bool = False,
) -> tuple[Any, Any]:
    """The same, of parts in these types. quantized: the language model in 4 bits, computing in its type."""
    options: dict[str, Any] = {}
    if quantized:
        options["quantization_config"] = checkpoint.quantization("4bit", types.language or torch.float32)
        options["device_map"] = {"": device}
    if unread:
        language, tokenizer = outline_language(models / "bases/language", types.language or torch.float32)
    else:
        language, tokenizer = load_language(models / "bases/language", types.language, **options)
    # Parts are loaded once and put in place: nothing of 7B is made and thrown away.
    with torch.device("meta"):
        model = VideoLlavaForConditionalGeneration(model_config(shape, language.config))
    model.config.text_config = language.config
    model.model.language_model = language.model
    spare_last(language.model)
    model.lm_head = language.lm_head  # a head that is the embedding table stays it: model_config says so too
    checkpoint.take_generation(model, models / "bases/language")
    for kind, part in (("image", "vision_config"), ("video", "video_config")):
        folder = models / "encoders" / kind
        tower = checkpoint.load_tower(folder, types.encoders)
        _check_tower(getattr(model.config, part), tower.config, folder)
        tower.config.modality = kind
        # With what no parameter says, such as its activation: a model is saved as it was trained.
        setattr(model.config, part, tower.config)
        setattr(model.model, f"{kind}_tower", tower)
    model.model.multi_modal_projector = load_projector(model, projector).to(types.projector)
    choose_attention(model, device)
    if quantized:
        # Said of the whole, as transformers says it of what it quantised: peft looks for it, saving refuses.
        model.is_quantized = model.is_loaded_in_4bit = True
        for module in model.modules():
            # Else a held-out loss on a CPU packs weights anew for inference, and the training goes on with those.
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
    move_held(model, device)
    return model, tokenizer


def load_language(folder: Path, dtype: torch.dtype | None, **options: Any) -> tuple[Any, Any]:
    """A causal language model (Llama architecture) and its tokenizer from a transformers folder."""
    _check_made(folder)
    return load_language_model(folder, dtype, **options)


def outline_language(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """The same, its weights not read yet."""
    _check_made(folder)
    language, tokenizer = outline_language_model(folder, dtype)
    leave_unread(language, folder)
    return language, tokenizer


def _check_made(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: no config.json; run `videollava bases`")


def save_projector(model: Any, folder: Path) -> None:
    """projector.safetensors and projector.json (its type)."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        n: p.detach().float().cpu().contiguous()
        for n, p in model.model.multi_modal_projector.named_parameters()
    }
    save_file(weights, folder / "projector.safetensors")
    (folder / "projector.json").write_text(json.dumps({"projector_type": model.config.projector_type}) + "\n")


def load_projector(model: Any, folder: Path) -> Projector:
    """The projector of `folder`; a freshly initialised one where there is no such folder."""
    config = model.config
    width, language = config.vision_config.hidden_size, config.text_config.hidden_size
    projector = Projector(config.projector_type, width, language, config.projector_hidden_act)
    file = folder / "projector.safetensors"
    if folder.is_dir() and any(folder.iterdir()) and not file.is_file():
        raise InputError(f"{folder}: no projector.safetensors in it; run `videollava pretrain`")
    if file.is_file():
        weights = load_file(file)
        expected = {name: tuple(p.shape) for name, p in projector.named_parameters()}
        found = {name: tuple(p.shape) for name, p in weights.items()}
        if expected != found:
            raise InputError(
                f"{file}: has {found}, this model's projector needs {expected}; run `videollava pretrain`"
            )
        projector.load_state_dict(weights)
    return projector


def _check_tower(expected: Any, found: Any, folder: Path) -> None:
    names = (
        "hidden_size",
        "num_hidden_layers",
        "patch_size",
        "image_size",
        "num_frames",
        "temporal_attention",
    )
    for name in names:
        if getattr(expected, name) != getattr(found, name):
            raise InputError(
                f"{folder}: {name} is {getattr(found, name)}, params.yaml describes {getattr(expected, name)}; "
                "make model.* fit, or run `videollava align`"
            )
