"""A model's outputs on a fixed random input, so that two forms of it can be held against each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from videollava.errors import InputError
from videollava.model.config import VideoLlavaConfig

__all__ = ["compare", "probe", "probe_inputs"]


def compare(before: Tensor, after: Tensor) -> float:
    """Largest difference; InputError where it is more than rounding of the type that was computed in."""
    difference = float((before.float() - after.float()).abs().max())
    allowed = (1e-4 if before.dtype == torch.float32 else 5e-2) * max(1.0, float(before.abs().max()))
    if not difference <= allowed:
        raise InputError(
            f"logits before and after differ by {difference:.3g} (allowed: {allowed:.1g}): the result would "
            f"be another "
            "model and is not written"
        )
    return difference


@torch.inference_mode()
def probe(model: Any) -> Tensor:
    """A model's outputs on a random input of every kind it takes, the same for the same shapes."""
    config = model.config
    if not isinstance(config, VideoLlavaConfig):
        return _probe_encoder(model)
    return model(**probe_inputs(config, model.dtype)).logits


def probe_inputs(config: VideoLlavaConfig, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random ids with a random image and clip, where the model has encoders for them."""
    draw = torch.Generator().manual_seed(0)
    text = torch.randint(0, config.text_config.vocab_size, (12,), generator=draw).tolist()
    # A placeholder inside the vocabulary must not be drawn as text.
    text = [0 if token in (config.image_token_id, config.video_token_id) else token for token in text]
    ids, inputs = text[:4], {}
    if "image" in config.towers:
        shape = (1, config.vision_config.num_channels, *config.vision_config.size)
        inputs["pixel_values_images"] = torch.randn(shape, generator=draw).to(dtype)
        ids = ids + [config.image_token_id] * config.image_tokens + text[4:8]
    if "video" in config.towers:
        video: Any = config.video_config
        shape = (1, video.num_frames, video.num_channels, *video.size)
        inputs["pixel_values_videos"] = torch.randn(shape, generator=draw).to(dtype)
        ids = ids + [config.video_token_id] * config.video_tokens()
    return {"input_ids": torch.tensor([ids + text[8:]]), **inputs}


def _probe_encoder(model: Any) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    config = model.config
    tower = getattr(config, "vision_config", config)
    if not hasattr(tower, "num_frames"):
        return model(torch.randint(0, config.vocab_size, (1, 8), generator=draw)).pooler_output
    pixels = torch.randn(1, tower.num_frames, tower.num_channels, *tower.size, generator=draw).to(model.dtype)
    if config is tower:
        return model(pixels).pooler_output
    ids = torch.randint(0, config.text_config.vocab_size, (1, 8), generator=draw)
    return torch.cat([model.encode_vision(pixels), model.encode_text(ids)])
