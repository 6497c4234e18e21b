"""One model with the same weights in our class and in transformers'."""

from __future__ import annotations

from typing import Any

import torch

from .samples import Geometry, Stage

__all__ = ["choose", "configure", "image_argument", "make_ours", "make_theirs"]


def configure(shape: Geometry) -> Any:
    """Our config of that geometry, with the placeholders inside the table, where transformers' class needs them."""
    from videollava.model.video_llava import VideoLlavaConfig, language_config, model_config
    from videollava.params import Encoder, Language, Model

    model = Model(
        image_size=shape.image_size,
        patch_size=shape.patch_size,
        frames=8,
        temporal_attention=shape.temporal,
        vision=Encoder(**shape.vision),
        language=Language(**shape.language),
    )
    config = model_config(model, language_config(model.language, shape.vocabulary))
    places = dict(zip(("image_token_index", "video_token_index"), shape.placeholders, strict=True))
    return VideoLlavaConfig(**{**config.to_dict(), **places})


def make_ours(shape: Geometry, device: torch.device) -> Any:
    """Our model with seeded random weights, as a stage trains it."""
    from videollava.model.attention import choose_attention
    from videollava.model.lean import keep_less
    from videollava.model.video_llava import ATTENTION, VideoLlavaForConditionalGeneration

    torch.manual_seed(0)
    with _as_default(shape, device):
        model = VideoLlavaForConditionalGeneration._from_config(
            configure(shape), attn_implementation=ATTENTION
        )
    choose_attention(model, device)
    keep_less(model.model.language_model)
    return model


def make_theirs(shape: Geometry, device: torch.device) -> Any:
    """transformers' model with the same weights."""
    from transformers import CLIPVisionConfig, VideoLlavaConfig, VideoLlavaForConditionalGeneration

    ours = make_ours(shape, device)
    config = ours.config
    vision = config.vision_config.to_dict()
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size")
    clip = CLIPVisionConfig(
        **{name: vision[name] for name in names},
        patch_size=shape.patch_size,
        hidden_act=vision["hidden_act"],
        layer_norm_eps=vision["layer_norm_eps"],
    )
    theirs = VideoLlavaConfig(
        vision_config=clip,
        text_config=config.text_config.to_dict(),
        image_token_index=config.image_token_index,
        video_token_index=config.video_token_index,
        vision_feature_layer=config.vision_feature_layer,
        image_seq_length=shape.image_tokens,
        video_seq_length=shape.video_tokens,
    )
    with _as_default(shape, device):
        model = VideoLlavaForConditionalGeneration._from_config(theirs, attn_implementation="sdpa")
    weights = ours.state_dict()
    found = {name: weights[name.replace("_tower.vision_model.", "_tower.")] for name in model.state_dict()}
    model.load_state_dict(found, assign=True)
    return model


def _as_default(shape: Geometry, device: torch.device) -> Any:
    from contextlib import ExitStack

    stack = ExitStack()
    before = torch.get_default_dtype()
    stack.enter_context(torch.device(device))
    stack.callback(torch.set_default_dtype, before)
    torch.set_default_dtype(torch.bfloat16 if shape.precision == "bf16" else torch.float32)
    return stack


def image_argument(model: Any) -> str:
    """transformers 5.23 renamed it."""
    import inspect

    known = inspect.signature(model.forward).parameters
    return "pixel_values" if "pixel_values" in known else "pixel_values_images"


def choose(model: Any, stage: Stage) -> list[torch.nn.Parameter]:
    """Freeze all but the projector, and in stage 2 the language model; what learns."""
    model.requires_grad_(False)
    learners = [model.model.multi_modal_projector]
    if stage.language_learns:
        learners += [model.model.language_model, model.lm_head]
    for module in learners:
        module.requires_grad_(True)
    return [p for p in model.parameters() if p.requires_grad]
